"""One device, eight, two hosts of four, four hosts of two: the same samples, losses and parameters.
And a run that goes on from each of them to the next equals one that was never stopped.

    uv run python -m benchmarks.same_result

Devices are virtual and hosts are processes, all on this machine's CPU. Trains small models on
recorded fights at 64x36 for 50 steps, prints a table, and writes
benchmarks/results/same_result.json. Exits with 1 where a layout keeps neither to the bounds nor to
twice what rounding does on one device.

How far two trainings may come apart by rounding alone is measured beside: on one device, with every
parameter changed by a few parts in ten million before the first step.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.state import flatten
from BC_training.common import console
from benchmarks import shared
from benchmarks.host_faults import record
from benchmarks.virtual_hosts import start

LOSSES, PARAMETERS = 1e-5, 1e-4
"""By how much losses and parameters may differ."""

EPOCHS, EPISODES, BATCH, EPOCH_STEPS = 5, 6, 16, 10
"""50 steps: 4 of 6 fights of 40 ticks are trained on."""


class Schedule(NamedTuple):
    """A learning rate, and the epochs of warm-up before it; 10 steps each."""

    rate: float
    warmup: int


SCHEDULES = (Schedule(2e-3, 10), Schedule(1e-3, 25), Schedule(1e-3, 0))
"""As configs/demo.yaml warms up; as the others do, but ten times as fast; and harsher than any."""

ROUNDING = 1e-7
"""Share of itself by which a parameter is disturbed; a float32 holds 6e-8."""

DISTURBANCES = ("disturbed 1", "disturbed 2", "disturbed 3")


class Layout(NamedTuple):
    """So many hosts with so many devices each."""

    hosts: int
    devices: int

    @property
    def name(self) -> str:
        return f"{self.hosts} x {self.devices}"


ONE = Layout(1, 1)
OTHERS = (Layout(1, 8), Layout(2, 4), Layout(4, 2))
CHANGES = (Layout(2, 4), Layout(1, 1), Layout(1, 8), Layout(2, 2), Layout(2, 4))
"""Where a run goes on, an epoch on each."""

CASES = {
    "pure_cnn": {
        "model.conv_stem": 2, "model.conv_features": "[16, 32]", "model.conv_depth": 1,
        "model.dense_features": "[32]", "training.augmentation.shift": 0.1,
        "training.augmentation.noise": 0.2, "training.augmentation.brightness": 0.2,
        "training.ema_decay": 0.9,
    },
    "temporal_transformer": {
        "model.encoder.backbone.stem": 4, "model.encoder.backbone.features": "[16, 32]",
        "model.encoder.backbone.depth": 0, "model.encoder.width": 32, "model.ticks": 4,
        "model.layers": 1, "model.heads": 2, "training.accumulation": 2,
    },
    "vla": {
        "model.backbone.size": 8, "model.backbone.width": 32, "model.width": 32,
        "model.layers": 1, "model.heads": 2, "model.chunk": 3,
        "dataset.instruction": "keep away",
    },
}  # fmt: skip
"""Small forms of models, and what they are trained with besides; pure_cnn has batch norm."""


def _job(
    folder: Path, kind: str, name: str, schedule: Schedule, epochs: int = EPOCHS
) -> dict[str, Any]:
    flags = {
        "dataset.path": folder / "d.zarr", "dataset.cache_dir": folder / "cache",
        "dataset.train_ratio": 0.7, "dataset.val_ratio": 0.3, "training.batch_size": BATCH,
        "training.checkpoint_dir": _run(folder, kind, name, schedule),
        "training.num_epochs": epochs,
        "training.learning_rate": schedule.rate, "training.lr_schedule.type": "constant",
        "training.lr_schedule.warmup_epochs": schedule.warmup, "logging.log_every_n_steps": 1,
        "evaluation.eval_every_n_epochs": 100, "training.save_every_n_epochs": 100, **CASES[name],
    }  # fmt: skip
    return {"config": f"configs/{name}.yaml", "flags": {k: str(v) for k, v in flags.items()}}


def _run(folder: Path, kind: str, name: str, schedule: Schedule) -> Path:
    return folder / kind.replace(" ", "") / f"{name}-{schedule.rate:g}-{schedule.warmup}"


def _is_done(job: dict[str, Any]) -> bool:
    steps = int(job["flags"]["training.num_epochs"]) * EPOCH_STEPS
    run = Path(job["flags"]["training.checkpoint_dir"])
    return any(int(folder.name) >= steps for folder in run.glob("[0-9]*"))


def _train(folder: Path, layout: Layout, jobs: Sequence[dict[str, Any]]) -> None:
    jobs = [job for job in jobs if not _is_done(job)]
    if not jobs:
        return
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    program = ["benchmarks.traced_training", str(file)]
    with start(folder, program, hosts=layout.hosts, devices=layout.devices) as hosts:
        if not hosts.wait(3600) or any(hosts.statuses):
            raise SystemExit(f"{layout.name}: {hosts.statuses}\n{hosts.all_said}")
    print(f"{layout.name}: {len(jobs)} trainings", flush=True)


def _order(run: Path) -> dict[int, dict[str, int]]:
    """The samples of each step, by their rows of the batch."""
    order: dict[int, dict[str, int]] = {}
    for file in run.glob("order.*.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            order.setdefault(entry["step"], {}).update(entry["rows"])
    return order


def _losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


def _parameters(run: Path) -> dict[str, np.ndarray]:
    newest = max(
        (folder for folder in run.iterdir() if folder.name.isdigit()), key=lambda f: int(f.name)
    )
    return {k: np.asarray(v) for k, v in flatten(nnx.state(store.load_model(newest)[1])).items()}


def _apart(key: str, one: np.ndarray, other: np.ndarray) -> float:
    difference = np.abs(one - other)
    if key.endswith("attention.project.bias"):
        # A bias of the keys moves all of a softmax alike: its gradient is rounding alone, of which
        # Adam makes whole steps, and no output depends on it.
        third = len(difference) // 3
        difference = np.delete(difference, np.s_[third : 2 * third])
    return float(difference.max())


def _compare(one: Path, other: Path) -> dict[str, Any]:
    losses = np.array([_losses(run) for run in (one, other)])
    first, second = _parameters(one), _parameters(other)
    apart = {key: _apart(key, first[key], second[key]) for key in first}
    worst = max(apart, key=lambda key: apart[key])
    return {
        "steps": losses.shape[1], "same_order": _order(one) == _order(other),
        "losses": float(np.abs(losses[0] - losses[1]).max()),
        "parameters": apart[worst], "where": worst,
        "beyond": {key: value for key, value in apart.items() if value > PARAMETERS},
    }  # fmt: skip


def _train_all(folder: Path) -> None:
    cases = [(name, schedule) for schedule in SCHEDULES for name in CASES]

    def jobs(kind: str) -> list[dict[str, Any]]:
        return [_job(folder, kind, name, schedule) for name, schedule in cases]

    disturbed = [
        {**job, "disturb": ROUNDING, "disturbance": number}
        for number, kind in enumerate(DISTURBANCES)
        for job in jobs(kind)
    ]
    _train(folder, ONE, jobs(ONE.name) + disturbed)
    for layout in OTHERS:
        _train(folder, layout, jobs(layout.name))
    for epoch, layout in enumerate(CHANGES, 1):
        changed = [_job(folder, "changed", "pure_cnn", schedule, epoch) for schedule in SCHEDULES]
        _train(folder, layout, changed)


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for schedule, name in itertools.product(SCHEDULES, CASES):
        kinds = [*DISTURBANCES, *(layout.name for layout in OTHERS)]
        one = _run(folder, ONE.name, name, schedule)
        for kind in [*kinds, "changed"] if name == "pure_cnn" else kinds:
            figures = _compare(one, _run(folder, kind, name, schedule))
            rows.append({"model": name, **schedule._asdict(), "layout": kind, **figures})
    return rows


def _is_within(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a layout keeps the bounds, or to twice what rounding does on one device."""
    same = ("model", "rate", "warmup")
    alone = [
        other
        for other in rows
        if other["layout"] in DISTURBANCES and all(other[key] == row[key] for key in same)
    ]
    return row["same_order"] and all(
        row[name] <= max(bound, *(2 * other[name] for other in alone))
        for name, bound in (("losses", LOSSES), ("parameters", PARAMETERS))
    )


def main(work: Path | None = None, keep: bool = True) -> int:
    """Trains everywhere and compares with one device.

    Args:
        work: folder in which the trainings stay, to go on after an interruption.
        keep: whether the result is written.
    """
    with tempfile.TemporaryDirectory() as passing:
        folder = work or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "d.zarr").exists():
            record(folder, EPISODES)
        _train_all(folder)
        rows = _rows(folder)
    columns = ("model", "rate", "warmup", "layout", "same_order", "losses", "parameters")
    table = console.make_table(
        f"against one device, after {EPOCHS * EPOCH_STEPS} steps of {BATCH} samples"
    )
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        values = (row[column] for column in columns)
        table.add_row(*(f"{v:.1e}" if isinstance(v, float) else str(v) for v in values))
    console.make_console().print(table)
    if keep:
        (shared.RESULTS / "same_result.json").write_text(
            json.dumps({**shared.machine(), "rows": rows}, indent=2) + "\n"
        )
    return 0 if all(_is_within(row, rows) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
