"""Every model with every backbone, exported and replayed over a whole recorded episode.

    uv run --group export python -m benchmarks.export [--only pure_cnn "temporal_lstm resnet"]

Models are untrained and see 64x36 frames of the arena's expert, with memory carried from tick to
tick. A row is added to benchmarks/results/export-<device>.json as soon as it is done, and not run
again once it is there.
"""

import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro

from BC_training import models
from BC_training.checkpoints.bundle import Bundle, build, versions
from BC_training.common import config_file, console, instruction
from BC_training.common import game_state as states
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, FrameContract
from BC_training.export import convert, make_manifest
from BC_training.play.policy import Policy, observation_spec
from benchmarks.shared import of_device
from boss_arena.attributes import ACTIONS, ATTRIBUTES
from ranni_player import check
from ranni_player.manifest import GOLDEN, NETWORK
from ranni_player.player import Player
from ranni_player.state_history import add_history

BACKBONES: dict[str, dict[str, Any]] = {
    "conv": {"type": "conv", "stem": 2},
    "patch": {"type": "patch", "size": 8},
    "resnet": {"type": "resnet", "stem": "imagenet"},
    "efficientnet": {"type": "efficientnet", "stem": "small"},
}
SIZE = (36, 64, 3)


def rows() -> dict[str, dict[str, Any]]:
    """Returns the section `model` of each row."""
    sections: dict[str, dict[str, Any]] = {}
    for name in models.available():
        fields = models.load(name).Config.model_fields
        for kind, backbone in BACKBONES.items():
            if "encoder" in fields:
                sections[f"{name} {kind}"] = {"name": name, "encoder": {"backbone": backbone}}
            elif "backbone" in fields and not isinstance(fields["backbone"].annotation, type):
                sections[f"{name} {kind}"] = {"name": name, "backbone": backbone}
        if not any(key.startswith(name) for key in sections):
            small = {"conv_stem": 2} if "conv_stem" in fields else {}
            sections[name] = {"name": name, **small}
    return sections


def record_episode() -> tuple[np.ndarray, np.ndarray]:
    """Returns frames [N, H, W, C] and state [N, S] of one fight of the arena's expert."""
    env = gymnasium.make("boss_arena:BossArena-v0", width=SIZE[1], height=SIZE[0])
    game: Any = env.unwrapped
    expert = game.make_expert(0)
    expert.reset()
    observation, _ = env.reset(seed=0)
    frames, state, over = [], [], False
    while not over:
        frames.append(observation["frame"])
        state.append([observation[name] for name in ATTRIBUTES])
        observation, _, terminated, truncated, _ = env.step(expert.act(observation))
        over = terminated or truncated
    return np.array(frames), np.array(state, np.float32)


def bundle_of(model: dict[str, Any], state: np.ndarray) -> Bundle:
    """Returns a bundle for the arena."""
    config = config_file.validate({"dataset": {"path": "none"}, "model": model}, "benchmark")
    reads_text = config.model.window().instruction
    fitted = Preprocess(
        frame_mean=(0.5,) * 3,
        frame_std=(0.2,) * 3,
        state=states.fit_schema(ATTRIBUTES, add_history(state, None)[0].joined()),
        instructions=instruction.fit(["attack whenever you can"], reads_text)
        if reads_text
        else None,
    )
    frame = FrameContract(
        height=SIZE[0], width=SIZE[1], channels=3, color_order="RGB", resize="none", fps=17.0
    )
    spec = DataSpec(actions=ACTIONS, state=ATTRIBUTES, frame=frame, features=fitted.features())
    return Bundle(
        config=config,
        spec=spec,
        preprocess=fitted,
        thresholds=(0.5,) * len(ACTIONS),
        step=0,
        epoch=0,
        metrics=None,
        versions=versions(),
    )


def measure(section: dict[str, Any], frames: np.ndarray, state: np.ndarray) -> dict[str, Any]:
    """Exports a model and replays the episode in JAX and in onnxruntime."""
    bundle = bundle_of(section, state)
    policy = Policy(bundle, build(bundle.config, bundle.spec))
    columns = [ATTRIBUTES.index(name) for name in observation_spec(bundle).attributes]
    decisions, times = [], []
    for frame, row in zip(frames, state, strict=True):
        observation = {"frame": frame, **dict(zip(ATTRIBUTES, row, strict=True))}
        began = time.perf_counter()
        decisions.append(policy.act(observation))
        times.append(1000 * (time.perf_counter() - began))
    golden = check.Golden(
        frames,
        state[:, columns],
        np.array([decision.probabilities for decision in decisions]),
        np.array([decision.pressed for decision in decisions]),
    )
    began = time.perf_counter()
    network = convert(bundle, build(bundle.config, bundle.spec), "float32")
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / NETWORK).write_bytes(network.onnx)
        np.savez_compressed(folder / GOLDEN, **golden._asdict())
        make_manifest(bundle, network, folder, "the arena's expert", "float32").write(folder)
        result = check.replay(Player.load(folder), golden)
    return {
        "ticks": result.ticks,
        "max_difference": result.max_difference,
        "presses_differ": result.presses_differ,
        "megabytes": len(network.onnx) / 1e6,
        "jax_ms": float(np.median(times)),
        "onnxruntime_ms": float(np.median(result.latencies_ms)),
        "export_s": seconds,
    }


def main(only: tuple[str, ...] = ()) -> None:
    """Measures every row.

    Args:
        only: the rows to measure; all by default.
    """
    file = of_device("export")
    results: dict[str, Any] = {"machine": platform.platform(), "frame": list(SIZE), "rows": {}}
    if file.exists():
        results = json.loads(file.read_text())
    frames, state = record_episode()
    for name, section in rows().items():
        if name in results["rows"] or (only and name not in only):
            continue
        results["rows"][name] = measure(section, frames, state)
        print(name, results["rows"][name], flush=True)
        file.write_text(json.dumps(results, indent=2) + "\n")
    table = console.make_table(f"Exported policies, 64x36, {results['machine']}")
    table.add_column("model, backbone")
    for title in ("ticks", "largest difference", "presses differ", "MB", "JAX ms", "onnx ms"):
        table.add_column(title, justify="right")
    for name, row in results["rows"].items():
        cells = (f"{row['max_difference']:.1e}", str(row["presses_differ"]))
        numbers = (f"{row[key]:.2f}" for key in ("megabytes", "jax_ms", "onnxruntime_ms"))
        table.add_row(name, str(row["ticks"]), *cells, *numbers)
    console.make_console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
