"""What training loses to its input: the default pure CNN at 144x256, on every residency.

    uv run python -m benchmarks.input_wait [--steps 20] [--rounds 3]

Runs the train step on a made recording, fed by each residency and, for comparison, with one batch
over and over. Prints the share of the time spent waiting for a batch and the speed against the
constant batch, both medians over rounds in turn, and writes
benchmarks/results/input_wait-<device>.json. `device` is measured where there is an accelerator.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

from BC_training.checkpoints.store import Checkpoints
from BC_training.common import config_file, console
from BC_training.common.dataset import open_data
from BC_training.training.devices import one_device
from BC_training.training.trainer import Trainer
from benchmarks.recorded import write_recording
from benchmarks.shared import of_device


class Timing(NamedTuple):
    """One run of steps."""

    images_per_second: float
    wait_share: float


def make_trainer(folder: Path, path: Path, residency: str) -> Trainer:
    raw = {
        "dataset": {
            "path": str(path), "residency": residency, "cache_dir": str(folder),
            "train_ratio": 1.0, "val_ratio": 0.0,
        },
        "model": {"name": "pure_cnn"},
    }  # fmt: skip
    config = config_file.validate(raw, "benchmark")
    run = Checkpoints(folder / f"run-{residency}", keep_last=1, best_metric="exact_match")
    return Trainer(config, open_data(config), run, one_device(), resume=False)


READ_AHEAD = 64
"""Batches that may be read before they are asked for, and more."""


def time_steps(trainer: Trainer, steps: int, *, constant: bool) -> Timing:
    """Some steps from where the trainer stands. The first ones are not counted: one compiles, and
    the batches of the others were read ahead while it did."""
    training = trainer.config.training
    train_set = trainer.data.splits["train"]
    batches = train_set.train_batches(
        batch_size=training.batch_size, steps=range(READ_AHEAD + steps),
        threads=trainer.config.system.threads,
    )  # fmt: skip
    resident = trainer.resident
    batch = trainer.devices.split(next(batches))
    for _ in range(1, READ_AHEAD):
        trainer.state, _ = trainer.train_step(trainer.state, batch, resident)
        batch = trainer.devices.split(next(batches))
    if constant:
        batch = jax.device_put(batch)
    jax.block_until_ready(trainer.state.step)
    start, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        if not constant:
            asked = time.perf_counter()
            batch = trainer.devices.split(next(batches))
            waited += time.perf_counter() - asked
        trainer.state, _ = trainer.train_step(trainer.state, batch, resident)
    jax.block_until_ready(trainer.state.step)
    passed = time.perf_counter() - start
    return Timing(steps * training.batch_size / passed, waited / passed)


def main(steps: int = 20, rounds: int = 3) -> None:
    """Times training on every residency.

    Args:
        steps: steps of each run.
        rounds: rounds of all runs in turn.
    """
    kind = jax.devices()[0].device_kind
    residencies = ["cache", "stream"] + (["device"] if jax.default_backend() != "cpu" else [])
    timings: dict[str, list[Timing]] = {name: [] for name in ("constant", *residencies)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_recording(folder / "made.zarr.zip", 4, 512, zarr_format=2, chunk=1, shard=None)
        trainers = {residency: make_trainer(folder, path, residency) for residency in residencies}
        for _ in range(rounds):
            timings["constant"].append(time_steps(trainers["cache"], steps, constant=True))
            for residency, trainer in trainers.items():
                timings[residency].append(time_steps(trainer, steps, constant=False))
    rows: dict[str, dict[str, Any]] = {}
    table = console.make_table(f"pure_cnn, 144x256, batch 32, {kind}")
    for column in ("input", "images/s", "% waiting", "of constant"):
        table.add_column(column, justify="left" if column == "input" else "right")
    for residency, runs in timings.items():
        pairs = zip(runs, timings["constant"], strict=True)
        rows[residency] = {
            "images_per_second": statistics.median(t.images_per_second for t in runs),
            "wait_share": statistics.median(t.wait_share for t in runs),
            "of_constant": statistics.median(
                t.images_per_second / c.images_per_second for t, c in pairs
            ),
        }
        row = rows[residency]
        table.add_row(
            residency, f"{row['images_per_second']:,.1f}", f"{100 * row['wait_share']:.2f}",
            f"{row['of_constant']:.3f}",
        )  # fmt: skip
    console.make_console().print(table)
    of_device("input_wait").write_text(
        json.dumps({"device": kind, "jax": jax.__version__, "steps": steps,
                    "rows": rows}, indent=2) + "\n"
    )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
