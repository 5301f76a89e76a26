"""Every model family on the same recorded fights, and then in fights of its own.

    uv run python -m benchmarks.model_zoo [--only NAME ...] [--fights 50]

Records the arena's expert once, trains each model on the same split with the same number of
gradient steps, and has it fight the same seeded fights. Models are small ones, made for two CPU
cores. What is measured already is kept, so that a run that was stopped goes on; the table and
benchmarks/results/model_zoo.json hold all that is known.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx

from BC_training import rollout
from BC_training.checkpoints import store as checkpoints
from BC_training.common import config_file, console
from BC_training.common.config import Config
from BC_training.play.fights import FightSetup
from BC_training.play.policy import Policy
from BC_training.training import trainer
from gameplay_pipeline.environments.players import NO_MODEL
from gameplay_pipeline.record import RecordConfig, record

RESULTS = Path(__file__).parent / "results" / "model_zoo.json"
ENV = "boss_arena:BossArena-v0"
HEIGHT, WIDTH = 36, 64
FIRST_SEED = 2_000_000
DISTURBED = 0.15
"""Share of the recorded ticks at which other buttons were pressed than the expert chose."""

CONV = {"type": "conv", "stem": 2, "features": [16, 32, 64], "depth": 0}
ENCODER = {"backbone": CONV, "grid": [3, 4], "width": 128, "dropout_rate": 0.0}
WINDOW = {"ticks": 8, "stride": 2}

STATE = {**ENCODER, "state": True}

MODELS: dict[str, dict[str, Any]] = {
    "pure_cnn": {
        "name": "pure_cnn", "conv_stem": 2, "conv_features": [16, 32, 64], "conv_depth": 0,
        "grid": [3, 4], "dense_features": [128], "dropout_rate": 0.0,
    },
    "state_vision": {"name": "state_vision", "encoder": STATE, "dropout_rate": 0.0},
    "vla": {
        "name": "vla", "backbone": {"type": "patch", "size": 8, "width": 128}, "width": 128,
        "layers": 3, "chunk": 4, "dropout_rate": 0.0,
    },
    "temporal_cnn": {
        "name": "temporal_cnn", "backbone": CONV, "features": [64, 128], "depth": 0,
        "grid": [3, 4], "dense_features": [128], "dropout_rate": 0.0, **WINDOW,
    },
    "temporal_transformer": {
        "name": "temporal_transformer", "encoder": ENCODER, "dropout_rate": 0.0, **WINDOW,
    },
    "temporal_lstm": {"name": "temporal_lstm", "encoder": ENCODER, "hidden": 128, **WINDOW},
    "temporal_transformer + state": {
        "name": "temporal_transformer", "encoder": STATE, "dropout_rate": 0.0, **WINDOW,
    },
    "resnet": {"name": "resnet"},
    "efficientnet": {"name": "efficientnet"},
}  # fmt: skip
"""What each row of the table is, as in the section `model` of a configuration."""
LONGER = ("pure_cnn", "temporal_cnn", "temporal_lstm")
"""Models that see pictures only and are trained for three passes as well: one is too short to tell
what looking back is worth."""
ROWS: dict[str, dict[str, Any]] = {name: {"model": model} for name, model in MODELS.items()} | {
    f"{name}, 3 passes": {"model": MODELS[name], "training": {"num_epochs": 3}} for name in LONGER
}
"""What each row changes in the configuration."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The comparison."""

    only: tuple[str, ...] = ()
    """Rows to measure; all if none is named."""
    recordings: int = 96
    """Fights of the expert to learn from."""
    epochs: int = 1
    fights: int = 50
    """Fights of each policy."""
    folder: Path = Path("dataset/model_zoo")
    """Where recordings and checkpoints go."""
    resolution: str = f"{WIDTH}x{HEIGHT}"
    """Size of the recorded frames in pixels, WIDTHxHEIGHT."""


def recorded(job: Job) -> Path:
    """The expert's fights, recorded if they are not there."""
    path = job.folder / "arena.zarr"
    record(RecordConfig(
        env=ENV, policy="expert", episodes=job.recordings, resolution=job.resolution,
        out=path, style="balanced", disturb=DISTURBED,
    ))  # fmt: skip
    return path


def configuration(path: Path, folder: Path, epochs: int, changes: dict[str, Any]) -> Config:
    """What all models have in common, and what one row changes."""
    raw = {
        "dataset": {
            "path": str(path), "train_ratio": 0.92, "val_ratio": 0.08,
            "cache_dir": str(path.parent / "cache"), "residency": "cache",
        },
        "training": {
            "num_epochs": epochs, "learning_rate": 2e-3, "checkpoint_dir": str(folder),
            "use_class_weights": False, "lr_schedule": {"warmup_epochs": 0.05},
        },
        "environment": {"id": ENV},
    }  # fmt: skip
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value}
    return config_file.validate(raw, "benchmark")


def measure(config: Config, job: Job) -> dict[str, Any]:
    """Trains, then fights."""
    folder = trainer.train(config, resume=config.run_dir().exists())
    bundle, model = checkpoints.load_model(checkpoints.locate(folder))
    assert bundle.metrics is not None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["time/frames_per_second"] for line in lines if "time/frames_per_second" in line]
    rollout.fight(
        FightSetup(checkpoints.locate(folder), ENV), episodes=job.fights, first_seed=FIRST_SEED,
        baselines=False, json_file=folder / "fights.json",
    )  # fmt: skip
    fights = json.loads((folder / "fights.json").read_text())["summary"]
    (summary,) = fights.values()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))),
        "steps": bundle.step,
        "train_frames_per_second": float(np.median(speeds)),
        "act_ms": act_ms(Policy.load(folder)),
        "exact_match": bundle.metrics["exact_match"],
        "macro_f1": bundle.metrics["macro_f1"],
        "onset_f1": bundle.metrics["onsets"]["f1"],
        **{key: summary[key] for key in ("fights", "won", "boss_health_removed", "seconds")},
    }


def act_ms(policy: Policy, ticks: int = 200) -> float:
    """Median milliseconds of an act()."""
    spec = policy.bundle.spec
    rng = np.random.default_rng(0)
    shape = (spec.frame.height, spec.frame.width, 3)
    observation = {**dict.fromkeys(spec.state, 1.0), "frame": rng.integers(0, 256, shape, np.uint8)}
    times = []
    for _ in range(ticks):
        began = time.perf_counter()
        policy.act(observation)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def baselines(folder: Path, job: Job) -> dict[str, Any]:
    """Expert, random buttons, no buttons, the previous buttons, in the same fights."""
    file = folder / "baselines.json"
    if not file.exists() or json.loads(file.read_text())["summary"] is None:  # was cut off
        setup = FightSetup(checkpoints.locate(folder), ENV)
        rollout.fight(setup, episodes=job.fights, first_seed=FIRST_SEED, json_file=file)
    summary = json.loads(file.read_text())["summary"]
    return {
        f"({name})": {k: row[k] for k in ("fights", "won", "boss_health_removed", "seconds")}
        for name, row in summary.items()
        if name in NO_MODEL
    }


def interval(cell: dict[str, float]) -> str:
    """A mean and its interval, in percent."""
    return "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * cell[k] for k in ("mean", "low", "high")))


def table(rows: dict[str, Any], title: str) -> None:
    """Prints what is known."""

    shown = console.make_table(title)
    shown.add_column("model")
    figures = ("parameters", "frames/s", "act ms", "exact", "macro F1", "onset F1")
    for name in (*figures, "won %", "health %"):
        shown.add_column(name, justify="right")
    for name, row in rows.items():
        known = "parameters" in row
        cells = ["-"] * len(figures)
        if known:
            cells = [
                f"{row['parameters']:,}", f"{row['train_frames_per_second']:,.0f}",
                f"{row['act_ms']:.2f}", *(f"{row[k]:.3f}" for k in ("exact_match", "macro_f1")),
                f"{row['onset_f1']:.3f}",
            ]  # fmt: skip
        shown.add_row(name, *cells, interval(row["won"]), interval(row["boss_health_removed"]))
    console.make_console().print(shown)


def compare(
    job: Job,
    results: Path,
    changes: dict[str, dict[str, Any]],
    facts: dict[str, Any],
    title: str,
    *,
    beside: bool = False,
) -> None:
    """Measures the rows that are not known yet, each a change to the configuration, and keeps all
    that is known.

    Args:
        job: what is compared on.
        results: the file that keeps it.
        changes: by row.
        facts: that the file states besides.
        title: title of the table.
        beside: add the players that need no model.
    """
    path = recorded(job)
    facts = {"recordings": job.recordings, **facts}
    known = json.loads(results.read_text()) if results.exists() else {"rows": {}}
    rows = known["rows"]
    if rows and (others := [key for key in facts if known.get(key, facts[key]) != facts[key]]):
        raise SystemExit(f"{results} was measured with another {', '.join(others)}")
    for name in job.only or changes:
        if name in rows:
            continue
        folder = job.folder / name.replace(" ", "_").replace(",", "")
        rows[name] = measure(configuration(path, folder, job.epochs, changes[name]), job)
        if beside and "(expert)" not in rows:
            rows |= baselines(folder, job)
        # Players that need no model come last; a row that is no longer compared is dropped.
        kept = (*changes, *(key for key in rows if key.startswith("(")))
        rows = {key: rows[key] for key in kept if key in rows}
        device = jax.devices()[0].device_kind
        written = {**facts, "device": device, "rows": rows}
        results.parent.mkdir(exist_ok=True)
        results.write_text(json.dumps(written, indent=2) + "\n")
        table(rows, title)


def main(job: Job) -> None:
    """Measures what is not known yet."""
    facts = {
        "disturbed": DISTURBED, "epochs": job.epochs, "resolution": job.resolution, "batch": 32,
    }  # fmt: skip
    title = f"{job.recordings} recorded fights at {job.resolution}"
    compare(job, RESULTS, ROWS, facts, title, beside=True)


if __name__ == "__main__":
    main(tyro.cli(Job))
