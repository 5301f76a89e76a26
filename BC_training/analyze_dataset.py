"""Says what is in a dataset, and what is wrong with it.

uv run -m BC_training.analyze_dataset --dataset dataset/boss_arena.zarr [--html FILE] [--json FILE]
"""

import json as json_format
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from BC_training.analysis.dataset import (
    checks,
    integrity,
    interventions,
    page,
    reaction,
    statistics,
)
from BC_training.common import console
from BC_training.common.episodes import Episodes
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders

MAX_LISTED = 50
"""How many errors, and how many warnings, the console lists."""


def _print(summary: Mapping[str, Any]) -> None:
    """The dataset as a whole, its actions, its state."""
    out = console.make_console()
    channels, height, width = summary["frame_shape"]
    lengths, fps = summary["lengths"], summary["fps"]
    out.print(summary["path"])
    out.print(
        f"{summary['episodes']} episodes, {summary['frames']:,} frames of {height}x{width}x"
        f"{channels}, {summary['raw_bytes'] / 2**30:.2f} GiB decoded"
    )
    minutes = "unknown" if fps is None else f"{summary['frames'] / fps / 60:.1f} at {fps:g} ticks/s"
    out.print(
        f"minutes of play {minutes}, colour order {summary['color_order']}, "
        f"resized by {summary['resize']}"
    )
    out.print(f"checksums: {summary['checksums']}")
    out.print(f"lengths {lengths['min']} to {lengths['max']}, median {lengths['median']:g}")
    out.print(_action_table(summary["actions"]))
    out.print(
        f"nothing pressed in {100 * summary['rows_with_no_action']:.1f} % of ticks, several "
        f"actions in {100 * summary['rows_with_several_actions']:.1f} %"
    )
    for pair in summary["co_pressed"][:8]:
        out.print(f"  {' + '.join(pair['actions'])}: {100 * pair['frequency']:.2f} %")
    if summary["state"]:
        out.print(_state_table(summary["state"]))
    for name, row in summary["state"].items():
        if row["vocabulary"]:
            common = list(row["vocabulary"].items())[:6]
            listed = ", ".join(f"{value} ({count:,})" for value, count in common)
            out.print(f"{name}: {len(row['vocabulary'])} ids, commonest {listed}")
    if summary["interventions"]:
        for line in interventions.in_words(summary["interventions"]):
            out.print(line)


def _action_table(actions: Mapping[str, Mapping[str, Any]]) -> Table:
    table = console.make_table("Actions")
    table.add_column("action", overflow="fold")
    for name in ("% of ticks", "presses", "median ms", "ticks", "longest", "class weight"):
        table.add_column(name, justify="right")
    for name, row in actions.items():
        table.add_row(
            name,
            f"{100 * row['frequency']:.2f}",
            str(row["presses"]),
            _number(row["median_press_ms"], 0),
            _number(row["median_press_ticks"], 1),
            str(row["longest_press_ticks"] or "-"),
            f"{row['class_weight']:.2f}",
        )
    return table


def _state_table(state: Mapping[str, Mapping[str, Any]]) -> Table:
    table = console.make_table("State")
    table.add_column("attribute", overflow="fold")
    for name in ("min", "mean", "max", "distinct", "not finite"):
        table.add_column(name, justify="right")
    for name, row in state.items():
        cells = (_number(row[key], 1) for key in ("min", "mean", "max"))
        table.add_row(name, *cells, str(row["distinct"]), str(row["not_finite"]))
    return table


def _print_delays(summary: Mapping[str, Any]) -> None:
    out = console.make_console()
    out.print("Delay of buttons after what happens on screen (ticks, 90 percent interval):")
    for action, row in summary["delays"].items():
        out.print(f"  {action}: {reaction.in_words(row, summary['fps'])}")


def _print_verdict(problems: Sequence[Problem]) -> None:
    out = console.make_console()
    errors = [problem for problem in problems if problem.severity == "error"]
    for kind, some in (("error", errors), ("warning", [p for p in problems if p not in errors])):
        for problem in some[:MAX_LISTED]:
            out.print(f"{kind}: {problem}", style="red" if kind == "error" else "yellow")
        if len(some) > MAX_LISTED:
            out.print(f"and {len(some) - MAX_LISTED} more {kind}s; --json lists them all")
    broken = len({problem.episode for problem in errors})
    out.print(
        "verdict: "
        + (f"{broken} episodes can't be trained on" if broken else "all episodes are valid")
        + f", {len(problems) - len(errors)} warnings"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def analyze(
    dataset: str,
    html: Path | None = None,
    json: Path | None = None,
    strict: bool = False,
    threads: int = 2,
    checksums: bool = False,
) -> int:
    """Describes a dataset and checks it; every frame is decoded once.

    Args:
        dataset: a zarr directory, a .zip of one, or a URL of either.
        html: a file to write a page with plots and sample frames to, for a browser.
        json: a file to write all figures to.
        strict: exit with status 1 if there are errors, or files that differ from their checksums.
        threads: how many threads decode frames.
        checksums: write the SHA-256 of each file of the dataset beside it, where there are none
            yet. Whenever they are there, they are compared.
    """
    if threads < 1:
        raise UserError(f"--threads: {threads} is not at least 1")
    require_folders(json=json, html=html)
    episodes = Episodes(dataset)
    verdict = integrity.verify(episodes, write=checksums)
    problems = [*checks.inspect(episodes, threads=threads), *verdict.problems]
    # What can't be decoded can't be described either.
    unreadable = [p for p in problems if p.severity == "error" and p not in episodes.skipped]
    if unreadable:
        episodes = episodes.without(unreadable)
    summary = statistics.summarize(episodes, problems)
    summary["delays"] = reaction.estimate(episodes)
    summary["checksums"] = verdict.said
    _print(summary)
    _print_delays(summary)
    _print_verdict(problems)
    if json is not None:
        json.write_text(json_format.dumps(summary, indent=2, allow_nan=False) + "\n")
    if html is not None:
        text = page.render(summary, page.sample_presses(episodes))
        html.write_text(text, encoding="utf-8")
        print(f"page: {html}")
    is_bad = bool(verdict.problems) or any(problem.severity == "error" for problem in problems)
    return 1 if strict and is_bad else 0


def main() -> int:
    return tyro.cli(analyze, prog="python -m BC_training.analyze_dataset")


if __name__ == "__main__":
    sys.exit(command.run(main))
