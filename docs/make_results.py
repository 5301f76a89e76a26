"""Writes docs/results.md, and the table of models in README.md, from benchmarks/results/.

uv run python docs/make_results.py
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
README = HERE.parent / "README.md"
PLAYED = ("won %", "boss health removed %")
BEGIN, END = "<!-- written by docs/make_results.py -->\n", "<!-- up to here -->\n"

SHIPPED = """# Results

Every figure here was measured by a command that is named, on the machine that is named; none is
meant to hold elsewhere. Written by `docs/make_results.py` from `benchmarks/results/`.

## Configurations at the size they ship with

`uv run python -m benchmarks.configs` records 96 fights of the arena's expert at 256x144 (at 15
percent of the ticks other buttons are pressed than it chose), trains each shipped configuration
for {passes} passes and has it fight 50 fresh seeds beside the expert, which wins {expert} percent
of them. Measured on one {device}; {at_once} rows shared it, so that their minutes, compiling and
fights included, are an upper bound.

"""
SHIPPED_READ = """
With the game state one frame is enough. From pictures alone, start with temporal_cnn: a row of it
took 6 minutes, and its three seeds won 80 to 88 percent where the expert wins 96. Class weights,
which pure_cnn keeps because it is the baseline, cost it half of its fights: the same network
without them won 70 [56, 81] percent (read from the log of a row that was cut off once its own
fights were over). The rows that are missing were cut off by the end of the machine's time: after
four of five passes temporal_lstm had macro F1 0.750 and onset F1 0.802 on the validation split, vla
0.697 and 0.771; after two, temporal_transformer 0.691 and 0.762. They have not fought at this
size.

"""
THROUGHPUT = """## Images a second on a GPU

`uv run python -m benchmarks.throughput` times the whole training step on one batch over and over,
and `uv run python -m benchmarks.input_wait` the default pure_cnn at 144x256 in batches of 32, fed
by each residency. On one {device}, JAX {jax}, where a matrix product reaches {float32:.0f} TFLOP/s
in float32 (TF32) and {bfloat16:.0f} in bfloat16:

"""
THROUGHPUT_READ = """
bfloat16 gains next to nothing in networks as narrow as these: a step moves memory and starts
kernels, it does not wait for the matrix units.

"""
ZOO = """## Models in fights

`uv run python -m benchmarks.model_zoo` records {recordings} fights of the arena's expert at
{resolution} (at {disturbed:.0f} percent of the ticks other buttons are pressed than it chose,
`--disturb`), trains each model for the same number of steps (batches of {batch}) on the same split,
and has it fight the same {fights} seeds. Models are small ones, made for two CPU cores ({device}),
and get one pass over the recordings. Frames a second are those of training; in brackets are 95
percent intervals: Wilson's for fights won, a bootstrap for health.

"""
ZOO_READ = """
Exact match ranks repeating the previous action above every model, and it never wins: look at onset
F1 (was a button pressed when the player pressed it, within two ticks), and at fights.

What decides most is the game state, which tells for how long the boss has been at its animation.
From pictures alone, looking back is what wins: temporal_cnn, which sees the maps of eight ticks one
on another, wins 72 percent after one pass, where no model of one frame wins more than 4, and 88
after three. Models that squeeze each tick into a vector before they compare ticks need longer: the
LSTM goes from 4 to 64. Larger backbones on one frame do not help. Frames a second were noted while
other work ran on the same two cores, most of all for resnet and efficientnet: too low, and not to
be compared.

"""
INSTRUCTIONS = """## A policy that is told how to play

`uv run python -m benchmarks.instructions` records {recordings} fights in the expert's four styles,
each with an instruction, trains the vla on them (passes: {epochs}), and has it fight the same
{fights} seeds under one instruction of each style, beside the expert in that style.

"""
DECISIONS = """## The same networks, decided otherwise

`uv run python -m benchmarks.decisions`: what the section `play` of a configuration (or `--play` of
`BC_training.rollout`) makes of two networks of the table above. Exact match and onset F1 are of the
recorded validation fights, played to the policy tick by tick. `temperature`, `hysteresis`,
`min_hold` and `min_release` are keys no more, for what this table says of them.

"""
DECISIONS_READ = """
The calibrated thresholds stand. Sampling presses twice as often and wins less; hysteresis gives the
best onset F1 and wins less than half as many fights. Holding a button for three ticks or leaving it
up for three is within what chance explains, and so are ensembled chunks.

"""
ABLATION = """## One change at a time

`uv run python -m benchmarks.ablation`: the temporal transformer on pictures alone, {recordings}
recorded fights, one pass, {fights} fights each. Too little for it to win, so look at health.

"""
ABLATION_READ = """
What misleads most is in the third row: past actions give by far the best offline figures and play
worse than none, for the policy learns to repeat itself. Augmentation and patches did harm in so
short a training. One tick alone and more weight on ticks at which buttons change played better than
the model as it is, at worse offline figures; their intervals just touch. The other rows lie within
what chance explains.
"""

CORRECTED = """
## What correcting a clone gives

`uv run --group vizdoom python -m benchmarks.corrections`: every row is trained on the same number
of fights ({recorded}) for the same number of gradient steps ({steps}) and fights the same {fights}
seeds, once for each seed of its training. *plain* are fights of the expert, *disturbed* those in
which at some ticks other buttons were pressed than it chose. *rounds* begins with {recordings}
plain ones; then, {rounds} times, the clone has {corrections} fights in which the expert says at each
tick what should be pressed (DAgger), and training goes on from its parameters on all of it. *trained
anew* learns from the same fights, from random parameters. Intervals are of all seeds' fights
together; behind them, the mean of each seed. Measured on {machine[cores]} cores ({machine[cpu]}).

"""
EXPORTED = """## Policies that left the training machine

`uv run --python 3.11 --group export python -m benchmarks.export` exports every model with every
backbone, untrained and with random statistics, and replays a recorded fight of {ticks} ticks at
64x36 with memory carried, in JAX {machine[jax]} and in onnxruntime {machine[onnxruntime]}: the
largest difference of a probability, and how many of all decisions were others. Milliseconds are
those of the fastest tick, for the machine ({machine[cpu]}, {machine[cores]} cores) did other work
too; JAX and onnxruntime took turns. Pretrained weights change no row: they have the same shapes.

"""
ELSEWHERE = """
`uv run --python 3.11 --group export python -m benchmarks.player` has checkpoints trained in the
arena fight as `BC_training.rollout` has them fight. Against that it holds, tick by tick, the same
fights of the policy exported, in an environment of the group `play` alone (JAX and zarr can't be
imported there); served over loopback; and exported with weights in half precision. The number of
fights in which the same was pressed at every tick (the machine was busy, and not equally so in each
column: compare no milliseconds but the last two):

"""

SPLIT = """
## Any number of devices and hosts

`uv run python -m benchmarks.same_result` trains small forms of three models at 64x36 for 50 steps
of 16 samples, at the two learning rates that configurations ship with: on one device, on eight, on
two hosts of four and on four hosts of two. Devices are virtual and hosts are processes, all on a
CPU. The order of samples is {order}. "each in turn" went on from 2 x 4 to 1 x 1, 1 x 8, 2 x 2 and
2 x 4, an epoch on each. Largest differences from one device:

"""
SPLIT_READ = """
"one, disturbed" is one device again, with every parameter changed by about 1e-7 of itself before
the first step, as another rounding would. A bias of attention's keys is not counted: it moves all
of a softmax alike, so that no output depends on it, and its gradient is rounding alone, of which
Adam makes whole steps.
"""
SCALING = """
`uv run python -m benchmarks.scaling` trains the default pure_cnn at 144x256 on {device}, in
batches of {batch}. The devices are virtual, on the same {cores} cores: this measures what splitting
costs, never what it gains.

"""


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
    names = {"disturbed": "one, disturbed", "changed": "each in turn"}
    layouts: list[str] = list(dict.fromkeys(row["layout"] for row in rows))
    lines = []
    for model, rate in dict.fromkeys((row["model"], row["learning_rate"]) for row in rows):
        of_layout = {
            row["layout"]: f"{row['losses']:.1e} / {row['parameters']:.1e}"
            for row in rows
            if (row["model"], row["learning_rate"]) == (model, rate)
        }
        lines.append([model, f"{rate:g}", *(of_layout.get(layout, "-") for layout in layouts)])
    heads = ["losses / parameters", "learning rate"]
    return table([*heads, *(names.get(layout, layout) for layout in layouts)], lines)


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
        by_seed = ", ".join(f"{scale * value:.0f}" for value in row[key]["by_seed"])
        return f"{interval(row[key]['pooled'], scale)} ({by_seed})"

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
    text = SHIPPED.format(**first, expert=interval(first["fights"]["expert"]["won"]))
    text += shipped(configurations) + SHIPPED_READ
    speed = results["throughput-nvidia-h200"]
    text += THROUGHPUT.format(**speed, **{k: v / 1e12 for k, v in speed["matrix"].items()})
    text += throughput(speed["rows"]) + "\n"
    text += input_wait(results["input_wait-nvidia-h200"]["rows"]) + THROUGHPUT_READ
    if layouts := results.get("same_result"):
        same = all(row["same_order"] for row in layouts["rows"])
        text += SPLIT.format(order="the same everywhere" if same else "not the same everywhere")
        text += split(layouts["rows"]) + SPLIT_READ
    if devices := results.get("scaling-cpu"):
        text += SCALING.format(**devices) + scaling(devices["rows"])
    if zoo := results.get("model_zoo"):
        fights = max(row["fights"] for row in zoo["rows"].values())
        facts = {**zoo, "disturbed": 100 * zoo["disturbed"]}
        text += ZOO.format(**facts, fights=fights) + models(zoo["rows"]) + ZOO_READ
    if instructions := results.get("instructions"):
        text += INSTRUCTIONS.format(**instructions) + told(instructions["rows"]) + "\n"
    if decisions := results.get("decisions"):
        text += DECISIONS + decided(decisions["rows"]) + DECISIONS_READ
    if ablation := results.get("ablation"):
        fights = max(row["fights"] for row in ablation["rows"].values())
        text += ABLATION.format(**ablation, fights=fights) + models(ablation["rows"])
        text += ABLATION_READ
    if corrections := results.get("corrections"):
        recorded = corrections["recordings"] + corrections["rounds"] * corrections["corrections"]
        text += CORRECTED.format(**corrections, recorded=recorded)
        text += corrected(corrections["pooled"])
    if replays := results.get("export-cpu"):
        ticks = next(iter(replays["rows"].values()))["ticks"]
        text += "\n" + EXPORTED.format(**replays, ticks=ticks) + exported(replays["rows"])
    if elsewhere_played := results.get("player-cpu"):
        text += ELSEWHERE + elsewhere(elsewhere_played["rows"])
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    (HERE / "results.md").write_text(page())
    README.write_text(readme())
