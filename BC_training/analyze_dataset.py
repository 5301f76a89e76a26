"""What is in a dataset, and what is wrong with it.

uv run -m BC_training.analyze_dataset --dataset dataset/boss_arena.zarr [--json FILE]
"""

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Bool

from BC_training.common import console, losses
from BC_training.common.episodes import Episodes

MAX_VOCABULARY = 256
"""State columns of whole numbers with no more distinct values than this are listed as one."""


def summarize(episodes: Episodes) -> dict[str, Any]:
    """All that the tables show, as plain JSON data."""
    lengths = np.array([episode.length for episode in episodes.episodes])
    actions = np.concatenate([episode.actions for episode in episodes.episodes])
    spec, fps = episodes.spec(), episodes.fps()
    return {
        "path": str(episodes.path),
        "episodes": len(episodes),
        "frames": int(lengths.sum()),
        "frame_shape": list(episodes.frame_shape),
        "raw_bytes": int(lengths.sum()) * int(np.prod(episodes.frame_shape)),
        "fps": fps,
        "color_order": spec.frame.color_order,
        "resize": spec.frame.resize,
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "actions": _actions(episodes, actions, fps),
        "rows_with_several_actions": float((actions.sum(axis=1) > 1).mean()),
        "rows_with_no_action": float((~actions.any(axis=1)).mean()),
        "co_pressed": _co_pressed(episodes.actions, actions),
        "state": _state(episodes),
        "invalid": [
            {"episode": problem.episode, "reason": problem.what} for problem in episodes.skipped
        ],
    }


def press_lengths(pressed: Bool[np.ndarray, "N"]) -> list[int]:
    """Ticks of each uninterrupted press, in order; those at the edges as far as they are seen."""
    edges = np.diff(np.concatenate([[False], pressed, [False]]).astype(np.int8))
    return (np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).tolist()


def _actions(
    episodes: Episodes, actions: Bool[np.ndarray, "N A"], fps: float | None
) -> dict[str, Any]:
    inverse = losses.class_weights(actions, "inverse_frequency")[0]
    positive = losses.class_weights(actions, "positive")[0]
    found = {}
    for column, name in enumerate(episodes.actions):
        presses = [
            length
            for episode in episodes.episodes
            for length in press_lengths(episode.actions[:, column])
        ]
        median = float(np.median(presses)) if presses else None
        found[name] = {
            "frequency": float(actions[:, column].mean()),
            "presses": len(presses),
            "median_press_ticks": median,
            "longest_press_ticks": max(presses, default=None),
            "median_press_ms": None if median is None or fps is None else 1000 * median / fps,
            "class_weight_inverse_frequency": float(inverse[column]),
            "class_weight_positive": float(positive[column]),
        }
    return found


def _co_pressed(names: tuple[str, ...], actions: Bool[np.ndarray, "N A"]) -> list[dict[str, Any]]:
    """Pairs by how often they are pressed together, the commonest first."""
    together = actions.astype(np.float64).T @ actions / len(actions)
    pairs = [
        {"actions": [names[a], names[b]], "frequency": float(together[a, b])}
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if together[a, b] > 0
    ]
    return sorted(pairs, key=lambda pair: -pair["frequency"])


def _state(episodes: Episodes) -> dict[str, Any]:
    known = [episode.state for episode in episodes.episodes if episode.state is not None]
    if not known:
        return {}
    state = np.concatenate(known)
    found = {}
    for column in range(state.shape[1]):
        name = episodes.state_names[column] if episodes.state_names else f"column {column}"
        values = state[:, column]
        finite = values[np.isfinite(values)]
        distinct, counts = np.unique(finite, return_counts=True)
        whole = len(finite) > 0 and bool((distinct == np.round(distinct)).all())
        is_vocabulary = whole and 1 < len(distinct) <= MAX_VOCABULARY and "Anim" in name
        found[name] = {
            "min": float(finite.min()) if len(finite) else None,
            "mean": float(finite.mean(dtype=np.float64)) if len(finite) else None,
            "max": float(finite.max()) if len(finite) else None,
            "distinct": len(distinct),
            "not_finite": len(values) - len(finite),
            "vocabulary": {
                str(int(distinct[i])): int(counts[i]) for i in np.argsort(-counts, kind="stable")
            }
            if is_vocabulary
            else None,
        }
    return found


def _print(summary: Mapping[str, Any]) -> None:
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
    out.print(f"lengths {lengths['min']} to {lengths['max']}, median {lengths['median']:g}")

    table = console.make_table("Actions")
    table.add_column("action", no_wrap=True)
    for name in (
        "% of ticks",
        "presses",
        "median ms",
        "ticks",
        "longest",
        "w inverse",
        "w positive",
    ):
        table.add_column(name, justify="right")
    for name, row in summary["actions"].items():
        table.add_row(
            name,
            f"{100 * row['frequency']:.2f}",
            str(row["presses"]),
            _number(row["median_press_ms"], 0),
            _number(row["median_press_ticks"], 1),
            str(row["longest_press_ticks"] or "-"),
            f"{row['class_weight_inverse_frequency']:.2f}",
            f"{row['class_weight_positive']:.2f}",
        )
    out.print(table)
    out.print(
        f"nothing pressed in {100 * summary['rows_with_no_action']:.1f} % of ticks, several "
        f"actions in {100 * summary['rows_with_several_actions']:.1f} %"
    )
    for pair in summary["co_pressed"][:8]:
        out.print(f"  {' + '.join(pair['actions'])}: {100 * pair['frequency']:.2f} %")

    if summary["state"]:
        table = console.make_table("State")
        table.add_column("attribute", no_wrap=True)
        for name in ("min", "mean", "max", "distinct", "not finite"):
            table.add_column(name, justify="right")
        for name, row in summary["state"].items():
            cells = (_number(row[key], 1) for key in ("min", "mean", "max"))
            table.add_row(name, *cells, str(row["distinct"]), str(row["not_finite"]))
        out.print(table)
    for name, row in summary["state"].items():
        if row["vocabulary"]:
            common = list(row["vocabulary"].items())[:6]
            listed = ", ".join(f"{value} ({count:,})" for value, count in common)
            out.print(f"{name}: {len(row['vocabulary'])} ids, commonest {listed}")
    if summary["invalid"]:
        out.print(f"{len(summary['invalid'])} invalid episodes:")
        for row in summary["invalid"]:
            out.print(f"  {row['episode']}: {row['reason']}")
    else:
        out.print("all episodes are valid")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def analyze(dataset: Path, json: Path | None = None) -> int:
    """Describes a dataset.

    Args:
        dataset: a zarr directory or a .zip of one.
        json: also write the figures there.
    """
    summary = summarize(Episodes(dataset))
    _print(summary)
    if json is not None:
        json.write_text(json_format.dumps(summary, indent=2) + "\n")
    return 0


def main() -> int:
    return tyro.cli(analyze, prog="python -m BC_training.analyze_dataset")


if __name__ == "__main__":
    console.run(main)
