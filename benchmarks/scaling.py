"""Samples a second on 1, 2, 4, ... devices, with the batch as large on any number of them.

    uv run python -m benchmarks.scaling [--steps 20] [--rounds 3]

Trains the default pure CNN at 144x256 on a made recording. Prints, for each number of devices, the
speed, the share of the time spent waiting for a batch and the bytes that a step reduces over the
devices, medians over rounds in turn, and writes benchmarks/results/scaling-<device>.json.

Without an accelerator the devices are virtual, eight on the same cores: that measures what the
splitting costs, never what it gains.
"""

import json
import math
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import tyro

from BC_training.checkpoints.store import Checkpoints
from BC_training.common import config_file, console
from BC_training.common.dataset import open_data
from BC_training.training.devices import choose_devices
from BC_training.training.trainer import Trainer
from benchmarks.input_wait import Timing, time_steps
from benchmarks.recorded import write_recording
from benchmarks.shared import machine, of_device

VIRTUAL = 8

REDUCTION = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
ARRAY = re.compile(r"\b[a-z]+(\d+)\[([\d,]*)\]")
"""An array in a compiled program: the bits of an element, and its shape."""


def make_trainer(folder: Path, path: Path, devices: int, batch_size: int) -> Trainer:
    raw = {
        "dataset": {
            "path": str(path), "cache_dir": str(folder), "train_ratio": 1.0, "val_ratio": 0.0,
        },
        "model": {"name": "pure_cnn"},
        "training": {"batch_size": batch_size},
        "system": {"devices": devices},
    }  # fmt: skip
    config = config_file.validate(raw, "benchmark")
    run = Checkpoints(folder / f"run-{devices}", keep_last=1, best_metric="exact_match")
    return Trainer(config, open_data(config), run, choose_devices(config), resume=False)


def bytes_reduced(trainer: Trainer) -> int:
    """Bytes of what a compiled step sums over the devices: gradients, batch statistics, figures."""
    train_set, size = trainer.data.splits["train"], trainer.config.training.batch_size
    batches = train_set.train_batches(batch_size=size, steps=range(1), threads=1)
    batch = trainer.devices.split(next(batches))
    step: Any = type(trainer.train_step).__call__
    lowered = step.lower(trainer.train_step, trainer.state, batch, trainer.resident)
    arrays = [
        array
        for shapes in REDUCTION.findall(lowered.compile().as_text())
        for array in ARRAY.findall(shapes)
    ]
    return sum(
        int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n) for bits, shape in arrays
    )


def main(steps: int = 20, rounds: int = 3, batch_size: int = 32) -> None:
    """Times training on more and more devices.

    Args:
        steps: steps of each run.
        rounds: rounds of all runs in turn.
        batch_size: samples in a step, on all devices together.
    """
    jax.config.update("jax_num_cpu_devices", VIRTUAL)
    is_virtual, there = jax.default_backend() == "cpu", jax.device_count()
    counts = [2**n for n in range(there.bit_length()) if batch_size % 2**n == 0]
    timings: dict[int, list[Timing]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_recording(folder / "made.zarr.zip", 4, 512, zarr_format=2, chunk=1, shard=None)
        trainers = {count: make_trainer(folder, path, count, batch_size) for count in counts}
        for _ in range(rounds):
            for count, trainer in trainers.items():
                timings[count].append(time_steps(trainer, steps, constant=False))
        reduced = {count: bytes_reduced(trainer) for count, trainer in trainers.items()}
    kind = f"{there} x {jax.devices()[0].device_kind}"
    what = ", virtual: what splitting costs, not what it gains" if is_virtual else ""
    table = console.make_table(f"pure_cnn, 144x256, batch {batch_size}, {kind}{what}")
    for column in ("devices", "samples/s", "of one", "% waiting", "MB reduced a step"):
        table.add_column(column, justify="right")
    rows = []
    for count, runs in timings.items():
        speed = statistics.median(run.images_per_second for run in runs)
        pairs = zip(runs, timings[1], strict=True)
        ratio = statistics.median(a.images_per_second / b.images_per_second for a, b in pairs)
        waiting = statistics.median(run.wait_share for run in runs)
        rows.append({
            "devices": count, "samples_per_second": speed, "of_one": ratio, "wait_share": waiting,
            "bytes_reduced": reduced[count],
        })  # fmt: skip
        table.add_row(
            str(count), f"{speed:,.1f}", f"{ratio:.3f}", f"{100 * waiting:.2f}",
            f"{reduced[count] / 1e6:.2f}",
        )  # fmt: skip
    console.make_console().print(table)
    of_device("scaling").write_text(
        json.dumps({**machine(), "device": kind, "virtual": is_virtual, "steps": steps,
                    "batch": batch_size, "rows": rows}, indent=2) + "\n"
    )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
