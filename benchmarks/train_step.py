"""Where a training step's time goes: the default pure CNN at 144x256, batch 32.

    uv run python -m benchmarks.train_step [--steps 10]

Records two short fights, times the parts of the step on them, prints a table and writes
benchmarks/results/train_step-<device>.json. The parts are timed by themselves, so they need not
add up to the whole.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx

from BC_training.checkpoints.bundle import build
from BC_training.checkpoints.state import TrainState
from BC_training.common import config_file, console
from BC_training.common.dataset import open_data
from BC_training.training import optimizer as optim
from BC_training.training.augmentation import make_augmentation
from BC_training.training.devices import one_device
from BC_training.training.train_step import TrainStep
from benchmarks.shared import milliseconds, of_device
from gameplay_pipeline.record import RecordConfig, record


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of a call, after one that is not counted."""
    jax.block_until_ready(call())
    return statistics.median(milliseconds(call) for _ in range(repeats))


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Times one configuration."""
    path = folder / "arena.zarr"
    record(
        RecordConfig(
            env="boss_arena:BossArena-v0",
            policy="random",
            episodes=2,
            resolution="256x144",
            out=path,
        )
    )
    raw = {
        "dataset": {
            "path": str(path), "train_ratio": 1.0, "val_ratio": 0.0, "cache_dir": str(folder)
        },
        "model": {"name": "pure_cnn"},
    }  # fmt: skip
    config = config_file.validate(raw, "benchmark")
    data = open_data(config)
    dataset = data.splits["train"]
    fitted, spec = data.preprocess, data.spec
    model = build(config, spec)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optim.make_optimizer(config.training, optim.schedule(config.training, 100), {})
    objective = optim.objective(config.training, dataset.actions)
    rng = np.random.default_rng(0)

    def read():
        # Other frames each time, as in training: the same ones would come from the CPU's cache.
        return dataset.batch(rng.integers(len(dataset), size=config.training.batch_size))

    batch = jax.device_put(read())

    @jax.jit
    def preprocess(batch):
        return fitted(batch.observation)

    def loss_of(params, observation):
        model = nnx.merge(graph, params, rest, copy=True)
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        ready = batch._replace(observation=observation)
        return model.loss(ready, objective, rngs)[0]

    observation = preprocess(batch)
    forward, gradient = jax.jit(loss_of), jax.jit(jax.grad(loss_of))
    opt_state = jax.jit(optimizer.init)(params)

    @jax.jit
    def update(grads, opt_state, params):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    grads = gradient(params, observation)
    parts = {
        "read a batch (cache)": median_ms(read, steps),
        "move it to the device": median_ms(lambda: jax.device_put(read()), steps),
        "preprocess": median_ms(lambda: preprocess(batch), steps),
        "forward": median_ms(lambda: forward(params, observation), steps),
        "forward and backward": median_ms(lambda: gradient(params, observation), steps),
        "optimizer": median_ms(lambda: update(grads, opt_state, params), steps),
    }
    parts["move it to the device"] -= parts["read a batch (cache)"]
    cost = gradient.lower(params, observation).compile().cost_analysis()
    # The step takes the state's buffers over, so it comes last.
    augmentation = make_augmentation(config.training.augmentation, fitted, spec.actions)
    step = TrainStep(graph, optimizer, fitted, augmentation, objective, config, one_device())
    state = TrainState(
        *jax.device_put((np.int32(0), params, rest, opt_state, np.int32(-1))), average=None
    )

    def whole():
        nonlocal state
        state, figures = step(state, one_device().split(batch), None)
        return figures

    total = median_ms(whole, steps)
    frames = config.training.batch_size
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "frame": list(batch.observation.frames.shape[2:4]),
        "batch": frames,
        "step_ms": total,
        "steps_per_second": 1000 / total,
        "frames_per_second": 1000 * frames / total,
        "gflops_per_second": (cost or {}).get("flops", 0.0) / total / 1e6,
        "parts_ms": parts,
    }


def main(steps: int = 10) -> None:
    """Times the parts of a step.

    Args:
        steps: repetitions of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), steps)
    table = console.make_table(
        f"{result['parameters']:,} parameters, {result['frame'][0]}x{result['frame'][1]}, "
        f"batch {result['batch']}, {result['device']}, JAX {result['jax']}"
    )
    for name in ("part", "ms", "% of the step"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, value in {**result["parts_ms"], "whole step": result["step_ms"]}.items():
        table.add_row(name, f"{value:.2f}", f"{100 * value / result['step_ms']:.1f}")
    out = console.make_console()
    out.print(table)
    out.print(
        f"{result['steps_per_second']:.2f} steps/s, {result['frames_per_second']:.0f} frames/s, "
        f"{result['gflops_per_second']:.0f} GFLOP/s"
    )
    of_device("train_step").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
