"""How many images a second a training step takes in, and how near that is to the device's own rate.

    uv run python -m benchmarks.throughput [--seconds 2]

Times the whole step (preprocessing, forward, backward, update) on one batch over and over, in
float32 and bfloat16, beside a large matrix product on the same device. Prints a table and writes
benchmarks/results/throughput-<device>.json. A window of T ticks counts as T images.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro

from BC_training.checkpoints.store import Checkpoints
from BC_training.common import config_file, console
from BC_training.common.dataset import open_data
from BC_training.training.devices import one_device
from BC_training.training.trainer import Trainer
from benchmarks.shared import of_device
from gameplay_pipeline.record import RecordConfig, record

MATRIX = 8192
"""Rows and columns of the product that the device's rate is measured by."""


class Row(NamedTuple):
    """A model at the size of a picture, and a batch that occupies a large device."""

    model: dict[str, Any]
    size: str
    batch_size: int


RESNET50 = {"name": "resnet", "backbone": {"type": "resnet", "depth": 50}}
ROWS = {
    "pure_cnn": Row({"name": "pure_cnn"}, "512x288", 256),
    "resnet 50": Row(RESNET50, "256x144", 256),
    "temporal_cnn": Row({"name": "temporal_cnn"}, "256x144", 128),
    "temporal_transformer": Row({"name": "temporal_transformer"}, "256x144", 64),
}


def matrix_rate(dtype: Any, seconds: float) -> float:
    """Floating-point operations a second of a product of random square matrices."""
    size = MATRIX if jax.default_backend() != "cpu" else MATRIX // 8
    one, other = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(one, other))
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        jax.block_until_ready([multiply(one, other) for _ in range(8)])
        count += 8
    return 2 * size**3 * count / passed


def step_rate(row: Row, data: Path, precision: str, seconds: float) -> dict[str, Any]:
    """Times the train step of a model on one batch."""
    raw = {
        "dataset": {
            "path": str(data), "train_ratio": 1.0, "val_ratio": 0.0,
            "residency": "cache", "cache_dir": str(data.parent),
        },
        "model": row.model,
        "training": {"batch_size": row.batch_size, "precision": precision},
    }  # fmt: skip
    config = config_file.validate(raw, "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        run = Checkpoints(Path(folder) / "run", keep_last=1, best_metric="exact_match")
        trainer = Trainer(config, open_data(config), run, one_device(), resume=False)
        batches = trainer.data.splits["train"].train_batches(
            batch_size=row.batch_size, steps=range(1), threads=1
        )
        batch = jax.device_put(trainer.devices.split(next(batches)))
        train_step: Any = type(trainer.train_step).__call__
        lowered = train_step.lower(trainer.train_step, trainer.state, batch, None)
        # As written: what a compiler hands to cuDNN is not counted any more.
        flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
        compiled = lowered.compile()
        state, _ = jax.block_until_ready(compiled(trainer.state, batch, None))
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            for _ in range(10):
                state, _ = compiled(state, batch, None)
            jax.block_until_ready(state.step)
            count += 10
    images = row.batch_size * config.model.window().ticks
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "step_ms": 1000 * passed / count,
        "images_per_second": images * count / passed,
        "flops_per_second": flops * count / passed,
    }


def main(seconds: float = 2.0, rows: tuple[str, ...] = tuple(ROWS)) -> None:
    """Times every row.

    Args:
        seconds: seconds of each timing.
        rows: which; all if not given.
    """
    device = jax.devices()[0].device_kind
    rates = {
        "float32": matrix_rate(jnp.float32, seconds), "bfloat16": matrix_rate(jnp.bfloat16, seconds)
    }  # fmt: skip
    results: dict[str, Any] = {
        "device": device,
        "jax": jax.__version__,
        "matrix": rates,
        "rows": {},
    }
    file = of_device("throughput")
    if file.exists() and (before := json.loads(file.read_text()))["jax"] == jax.__version__:
        results["rows"] = before["rows"]
    table = console.make_table(
        f"Training step on {device}, JAX {jax.__version__}; matrix product "
        + ", ".join(f"{rate / 1e12:.1f} TFLOP/s in {name}" for name, rate in rates.items())
    )
    for title in ("model", "picture", "batch", "precision", "step ms", "images/s", "% of matrix"):
        table.add_column(title, justify="left" if title == "model" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name in rows:
            row = ROWS[name]
            data = Path(folder) / f"{row.size}.zarr"
            if not data.exists():
                record(RecordConfig(
                    env="boss_arena:BossArena-v0", policy="random", episodes=2,
                    resolution=row.size, out=data,
                ))  # fmt: skip
            for precision, rate in rates.items():
                figures = step_rate(row, data, precision, seconds)
                share = figures["flops_per_second"] / rate
                results["rows"][f"{name}, {precision}"] = {
                    "picture": row.size, "batch_size": row.batch_size, **figures,
                    "share_of_matrix_rate": share,
                }  # fmt: skip
                table.add_row(
                    name, row.size, str(row.batch_size), precision, f"{figures['step_ms']:.2f}",
                    f"{figures['images_per_second']:,.0f}", f"{100 * share:.1f}",
                )  # fmt: skip
                file.write_text(json.dumps(results, indent=1) + "\n")
    console.make_console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
