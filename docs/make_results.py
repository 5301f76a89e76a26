"""Writes docs/results.md, and the table of models in README.md, from benchmarks/results/.

uv run python docs/make_results.py
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docs import results_texts as texts

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
README = HERE.parent / "README.md"
PLAYED = ("won %", "boss health removed %")
BEGIN, END = "<!-- written by docs/make_results.py -->\n", "<!-- up to here -->\n"


def interval(cell: dict[str, float], scale: float = 100, digits: int = 0) -> str:
    """A mean and its interval."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
        *(scale * cell[key] for key in ("mean", "low", "high")), d=digits
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def models(rows: dict[str, Any]) -> str:
    """Models and players without one, a row each."""
    heads = ["model", "parameters", "frames/s", "act ms", "exact match", "macro F1", "onset F1"]
    lines = []
    for name, row in rows.items():
        cells = ["-"] * 6
        if "parameters" in row:
            cells = [f"{row['parameters']:,}", f"{row['train_frames_per_second']:,.0f}"]
            cells += [f"{row['act_ms']:.2f}"]
            cells += [f"{row[key]:.3f}" for key in ("exact_match", "macro_f1", "onset_f1")]
        lines.append([name, *cells, *played(row)])
    return table([*heads, *PLAYED], lines)


def played(row: dict[str, Any]) -> list[str]:
    """What a row's fights came to, under the heads `PLAYED`."""
    return [interval(row["won"]), interval(row["boss_health_removed"])]


def told(rows: dict[str, Any]) -> str:
    """How a policy and the expert played under each instruction."""
    lines = []
    for style, row in rows.items():
        for player in ("vla", "expert"):
            means = row[player]
            cells = [interval(means["won"])]
            cells += [interval(means[key], 1, 2) for key in ("attacks", "dodges", "distance")]
            lines.append([f"{row['instruction']} ({style})", player, *cells])
    heads = ["told", "player", "won %", "attacks/s", "dodges/s", "distance kept, m"]
    return table(heads, lines)


def decided(rows: dict[str, Any]) -> str:
    """Each way to decide, a row each."""
    heads = ["network: `play`", "exact match", "onset F1", "presses/s"]
    lines = []
    for name, row in rows.items():
        figures = [f"{row[key]:.3f}" for key in ("exact_match", "onset_f1")]
        lines.append([name, *figures, interval(row["presses"], 1, 2), *played(row)])
    return table([*heads, *PLAYED], lines)


def measured() -> dict[str, Any]:
    """What the benchmarks have found so far."""
    return {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in (
            "configs-nvidia-h200",
            "throughput-nvidia-h200",
            "input_wait-nvidia-h200",
            "model_zoo",
            "instructions",
            "decisions",
            "ablation",
            "corrections",
            "export-cpu",
            "player-cpu",
            "same_result",
            "scaling-cpu",
        )
        if (RESULTS / f"{name}.json").exists()
    }


def shipped(rows: dict[str, Any]) -> str:
    """The configurations, a row each."""
    heads = [
        "configuration",
        "passes",
        "minutes",
        "frames/s",
        "exact match",
        "macro F1",
        "onset F1",
    ]
    lines = []
    for name, row in rows.items():
        offline = [row["offline"][f"val/{key}"] for key in ("exact_match", "macro_f1", "onsets/f1")]
        lines.append([
            name, str(row["passes"]), f"{row['seconds'] / 60:.0f}",
            f"{row['frames_per_second']:,.0f}", *(f"{value:.3f}" for value in offline),
            *played(next(iter(row["fights"].values()))),
        ])  # fmt: skip
    return table([*heads, *PLAYED], lines)


def throughput(rows: dict[str, Any]) -> str:
    """Models and precisions, a row each."""
    lines = [
        [name, row["picture"], str(row["batch_size"]), f"{row['step_ms']:.2f}",
         f"{row['images_per_second']:,.0f}", f"{100 * row['share_of_matrix_rate']:.1f}"]
        for name, row in rows.items()
    ]  # fmt: skip
    return table(["model", "picture", "batch", "step ms", "images/s", "% of matrix rate"], lines)


def input_wait(rows: dict[str, Any]) -> str:
    """Residencies, a row each."""
    lines = [
        [name, f"{row['images_per_second']:,.0f}", f"{100 * row['wait_share']:.2f}",
         f"{row['of_constant']:.2f}"]
        for name, row in rows.items()
    ]  # fmt: skip
    return table(["input", "images/s", "% waiting", "speed against one batch"], lines)


def exported(rows: dict[str, Any]) -> str:
    """Models and backbones, a row each."""
    lines = [
        [name, f"{row['max_difference']:.1e}", str(row["presses_differ"]),
         f"{row['megabytes']:.1f}", f"{row['jax_ms']['fastest']:.1f}",
         f"{row['onnxruntime_ms']['fastest']:.1f}"]
        for name, row in rows.items()
    ]  # fmt: skip
    heads = [
        "model, backbone",
        "difference",
        "presses that differ",
        "MB",
        "JAX ms",
        "onnxruntime ms",
    ]
    return table(heads, lines)


def elsewhere(rows: dict[str, Any]) -> str:
    """Checkpoints, a row each."""
    heads = ["model", "fights", "ticks", "exported", "served", "in half", "JAX ms, p50 / p95"]
    heads += ["exported ms", "served ms", "of that the server's"]

    def cell(way: dict[str, Any] | None, key: str) -> str:
        if way is None:
            return "-"
        value = way[key]
        return f"{value['p50']:.1f} / {value['p95']:.1f}" if isinstance(value, dict) else str(value)

    lines = []
    for name, row in rows.items():
        ways = [row.get(way) for way in ("exported", "served", "half")]
        cells = [cell(way, "same") for way in ways] + [cell(row, "jax_ms")]
        cells += [cell(way, "ms") for way in ways[:2]] + [cell(ways[1], "inference_ms")]
        lines.append([name, str(row["fights"]), f"{row['ticks']:,}", *cells])
    return table(heads, lines)


def split(rows: Sequence[dict[str, Any]]) -> str:
    """Models and learning rates, a row each."""
    names = {"changed": "each in turn"}
    largest: dict[tuple[str, float, int], dict[str, tuple[float, float]]] = {}
    for row in rows:
        cells = largest.setdefault((row["model"], row["rate"], row["warmup"]), {})
        kind: str = row["layout"]
        column: str = "one, disturbed" if kind.startswith("disturbed") else names.get(kind, kind)
        loss, parameter = cells.get(column, (0.0, 0.0))
        cells[column] = (max(loss, row["losses"]), max(parameter, row["parameters"]))
    columns = list(dict.fromkeys(column for cells in largest.values() for column in cells))
    lines = []
    for (model, rate, rise), cells in largest.items():
        when = f"after {10 * rise} steps of warm-up" if rise else "from the first step"
        figures = ["{:.1e} / {:.1e}".format(*cells[c]) if c in cells else "-" for c in columns]
        lines.append([model, f"{rate:g} {when}", *figures])
    return table(["loss / parameter", "learning rate", *columns], lines)


def scaling(rows: Sequence[dict[str, Any]]) -> str:
    """Numbers of devices, a row each."""
    lines = [
        [str(row["devices"]), f"{row['samples_per_second']:,.0f}", f"{row['of_one']:.2f}",
         f"{100 * row['wait_share']:.2f}", f"{row['bytes_reduced'] / 1e6:.2f}"]
        for row in rows
    ]  # fmt: skip
    return table(["devices", "samples/s", "of one", "% waiting", "MB reduced a step"], lines)


def corrected(pooled: dict[str, Any]) -> str:
    """Games and what was trained on, a row each."""

    def cell(row: dict[str, Any], key: str, scale: float) -> str:
        if row[key]["pooled"] is None:
            return "-"
        digits = 1 if key == "reward" else 0
        by_seed = ", ".join(f"{scale * value:.{digits}f}" for value in row[key]["by_seed"])
        return f"{interval(row[key]['pooled'], scale, digits)} ({by_seed})"

    keys = {"won": 100, "boss_health_removed": 100, "reward": 1}
    lines = [
        [name, str(row["seeds"]), *(cell(row, key, scale) for key, scale in keys.items())]
        for name, row in pooled.items()
    ]
    return table(["game: trained on", "seeds", *PLAYED, "return"], lines)


def readme() -> str:
    """README.md with the table of models as it is now."""
    before, rest = README.read_text().split(BEGIN)
    return before + BEGIN + models(measured()["model_zoo"]["rows"]) + END + rest.split(END)[1]


def page() -> str:
    """The whole page, of what has been measured."""
    results = measured()
    configurations = results["configs-nvidia-h200"]
    first = next(iter(configurations.values()))
    text = texts.SHIPPED.format(**first, expert=interval(first["fights"]["expert"]["won"]))
    text += shipped(configurations) + texts.SHIPPED_READ
    speed = results["throughput-nvidia-h200"]
    text += texts.THROUGHPUT.format(**speed, **{k: v / 1e12 for k, v in speed["matrix"].items()})
    text += throughput(speed["rows"]) + "\n"
    text += input_wait(results["input_wait-nvidia-h200"]["rows"]) + texts.THROUGHPUT_READ
    if layouts := results.get("same_result"):
        same = all(row["same_order"] for row in layouts["rows"])
        text += texts.SPLIT.format(
            order="the same everywhere" if same else "not the same everywhere"
        )
        text += split(layouts["rows"]) + texts.SPLIT_READ
    if devices := results.get("scaling-cpu"):
        text += texts.SCALING.format(**devices) + scaling(devices["rows"]) + "\n"
    if zoo := results.get("model_zoo"):
        fights = max(row["fights"] for row in zoo["rows"].values())
        facts = {**zoo, "disturbed": 100 * zoo["disturbed"]}
        text += texts.ZOO.format(**facts, fights=fights) + models(zoo["rows"]) + texts.ZOO_READ
    if instructions := results.get("instructions"):
        text += texts.INSTRUCTIONS.format(**instructions) + told(instructions["rows"]) + "\n"
    if decisions := results.get("decisions"):
        text += texts.DECISIONS + decided(decisions["rows"]) + texts.DECISIONS_READ
    if ablation := results.get("ablation"):
        fights = max(row["fights"] for row in ablation["rows"].values())
        text += texts.ABLATION.format(**ablation, fights=fights) + models(ablation["rows"])
        text += texts.ABLATION_READ
    if corrections := results.get("corrections"):
        recorded = corrections["recordings"] + corrections["rounds"] * corrections["corrections"]
        text += texts.CORRECTED.format(**corrections, recorded=recorded)
        text += corrected(corrections["pooled"]) + texts.CORRECTED_READ
    if replays := results.get("export-cpu"):
        ticks = next(iter(replays["rows"].values()))["ticks"]
        text += "\n" + texts.EXPORTED.format(**replays, ticks=ticks) + exported(replays["rows"])
    if elsewhere_played := results.get("player-cpu"):
        text += texts.ELSEWHERE + elsewhere(elsewhere_played["rows"])
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    (HERE / "results.md").write_text(page())
    README.write_text(readme())
