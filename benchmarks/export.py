"""Every model with every backbone, exported and replayed over a whole recorded episode.

    uv run --python 3.11 --group export python -m benchmarks.export [--only "temporal_lstm resnet"]

Models are untrained, with random weights and statistics. They see a fight of the arena's expert at
64x36, in which random buttons replace its own at 30 percent of the ticks, with memory carried from
tick to tick. JAX and onnxruntime take turns, so that whatever else the machine does slows both
alike. A row is added to benchmarks/results/export-<device>.json as soon as it is done, and not run
again once it is there.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jaxtyping import Float, UInt8

from BC_training import models
from BC_training.checkpoints.bundle import Bundle, build
from BC_training.common import console
from BC_training.export import convert, make_manifest
from BC_training.networks.model import Model
from BC_training.play.policy import Policy
from benchmarks.shared import machine, of_device
from benchmarks.untrained import arena_bundle
from boss_arena.attributes import ATTRIBUTES
from ranni_player.manifest import GOLDEN, NETWORK
from ranni_player.player import Player

BACKBONES: dict[str, dict[str, Any]] = {
    "conv": {"type": "conv", "stem": 2},
    "patch": {"type": "patch", "size": 8},
    "resnet": {"type": "resnet"},
    "efficientnet": {"type": "efficientnet"},
}
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "resnet": ({"depth": 34}, {"depth": 50}, {"stem": "small"}),
    "efficientnet": ({"variant": "b1"}, {"variant": "b2"}, {"variant": "b3"}, {"stem": "small"}),
}
"""What else the backbone of the model of that name can be."""
SIZE = (36, 64, 3)
SEED, DISTURBED = 3, 0.3


def rows() -> dict[str, dict[str, Any]]:
    """Returns the section `model` of each row."""
    sections: dict[str, dict[str, Any]] = {}
    for name in models.available():
        fields = models.load(name).Config.model_fields
        if "encoder" in fields:
            for kind, backbone in BACKBONES.items():
                sections[f"{name} {kind}"] = {"name": name, "encoder": {"backbone": backbone}}
        elif "backbone" not in fields:
            sections[name] = {"name": name, "conv_stem": 2}
        elif name in VARIANTS:
            sections[name] = {"name": name}
            for keys in VARIANTS[name]:
                title = " ".join(str(value) for value in keys.values())
                sections[f"{name} {title}"] = {"name": name, "backbone": {"type": name, **keys}}
        else:
            for kind, backbone in BACKBONES.items():
                sections[f"{name} {kind}"] = {"name": name, "backbone": backbone}
    return sections


def record_episode() -> tuple[UInt8[np.ndarray, "N H W C"], Float[np.ndarray, "N S"]]:
    """Returns frames [N, H, W, C] and state [N, S] of one fight."""
    env = gymnasium.make("boss_arena:BossArena-v0", width=SIZE[1], height=SIZE[0])
    game: Any = env.unwrapped
    rng = np.random.default_rng(SEED)
    expert = game.make_expert(SEED)
    expert.reset()
    observation, _ = env.reset(seed=SEED)
    frames, state, over = [], [], False
    while not over:
        frames.append(observation["frame"])
        state.append([observation[name] for name in ATTRIBUTES])
        pressed = expert.act(observation)
        if rng.random() < DISTURBED:
            pressed = (rng.random(len(pressed)) < DISTURBED).astype(np.int8)
        observation, _, terminated, truncated, _ = env.step(pressed)
        over = terminated or truncated
    return np.array(frames), np.array(state, np.float32)


def random_model(bundle: Bundle) -> Model:
    """Returns an untrained model whose batch norms have statistics nevertheless."""
    model, rng = build(bundle.config, bundle.spec), np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            width = module.num_features
            module.mean[...] = jnp.asarray(rng.normal(0, 0.1, width), jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.5, 2, width), jnp.float32)
    return model


def measure(section: dict[str, Any], frames: np.ndarray, state: np.ndarray) -> dict[str, Any]:
    """Exports a model and replays the episode in JAX and in onnxruntime, tick by tick."""
    bundle = arena_bundle(section, state, *SIZE[:2])
    policy = Policy(bundle, random_model(bundle))
    began = time.perf_counter()
    network = convert(bundle, random_model(bundle), "float32")
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / NETWORK).write_bytes(network.onnx)
        (folder / GOLDEN).touch()
        make_manifest(bundle, network, folder, "none", "float32").write(folder)
        player = Player.load(folder)
    difference, differ, times = 0.0, 0, []
    for frame, row in zip(frames, state, strict=True):
        observation = {"frame": frame, **dict(zip(ATTRIBUTES, row, strict=True))}
        began = time.perf_counter()
        theirs = policy.act(observation)
        between = time.perf_counter()
        ours = player.act(observation)
        times.append((between - began, time.perf_counter() - between))
        difference = max(difference, np.abs(ours.probabilities - theirs.probabilities).max())
        differ += int((ours.pressed != theirs.pressed).sum())
    fastest, median = 1000 * np.min(times, axis=0), 1000 * np.median(times, axis=0)
    return {
        "ticks": len(frames),
        "max_difference": float(difference),
        "presses_differ": differ,
        "megabytes": len(network.onnx) / 1e6,
        "jax_ms": {"fastest": float(fastest[0]), "median": float(median[0])},
        "onnxruntime_ms": {"fastest": float(fastest[1]), "median": float(median[1])},
        "export_s": seconds,
    }


def main(only: tuple[str, ...] = ()) -> None:
    """Measures every row.

    Args:
        only: the rows to measure; all by default.
    """
    file = of_device("export")
    results: dict[str, Any] = {"machine": machine(), "frame": list(SIZE), "rows": {}}
    if file.exists():
        results = json.loads(file.read_text())
    frames, state = record_episode()
    for name, section in rows().items():
        if name in results["rows"] or (only and name not in only):
            continue
        results["rows"][name] = measure(section, frames, state)
        print(name, results["rows"][name], flush=True)
        file.write_text(json.dumps(results, indent=2) + "\n")
    table = console.make_table(f"Exported policies, 64x36, {results['machine']['cpu']}")
    table.add_column("model, backbone")
    for title in ("ticks", "largest difference", "presses differ", "MB", "JAX ms", "onnx ms"):
        table.add_column(title, justify="right")
    for name, row in results["rows"].items():
        cells = [str(row["ticks"]), f"{row['max_difference']:.1e}", str(row["presses_differ"])]
        cells += [f"{row['megabytes']:.2f}"]
        cells += [f"{row[key]['fastest']:.2f}" for key in ("jax_ms", "onnxruntime_ms")]
        table.add_row(name, *cells)
    console.make_console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
