"""Fights of a policy that left the training machine against those of its checkpoint, tick by tick.

    uv run --python 3.11 --group export python -m benchmarks.player \
        --checkpoints checkpoints/demo checkpoints/temporal_cnn

Each checkpoint fights in JAX as BC_training.rollout has it fight; exported, in an environment made
of the group `play` alone; exported with half the precision; and served to a player over loopback.
What was pressed has to be the same at each tick. Writes benchmarks/results/player-<device>.json.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from BC_training.checkpoints import store as checkpoints
from BC_training.export import export
from BC_training.play.fights import make_env
from BC_training.play.policy import Policy
from benchmarks.play_alone import ENV, SEED
from benchmarks.shared import machine, of_device
from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.play import Tick, player_seed
from ranni_player.fight import DecidingPolicy, FightResult, PolicyPlayer, percentiles, watch_fight
from ranni_player.player import Player
from ranni_player.remote import RemotePlayer

ROOT = Path(__file__).parents[1]
OUTCOME = ("seed", "won", "boss_health_removed", "seconds", "reward", "presses", "counts")
Way = Literal["exported", "served", "half"]
Fights = dict[str, np.ndarray]
"""What was pressed [N, A] in each fight, by its seed."""


def fights_of(
    policy: DecidingPolicy, env: Environment, episodes: int
) -> tuple[Fights, list[FightResult]]:
    """Has a policy fight, and keeps what it pressed."""
    pressed, results = {}, []
    for seed in range(SEED, SEED + episodes):
        ticks: list[Tick] = []
        fighter = PolicyPlayer(policy, None, player_seed(seed))
        result, _ = watch_fight(env, lambda _, it=fighter: it, "policy", seed, [ticks.append])
        pressed[str(seed)] = np.array([tick.pressed for tick in ticks])
        results.append(result)
    return pressed, results


def alone(
    exported: Path, folder: Path, episodes: int
) -> tuple[Fights, list[dict[str, Any]], float]:
    """Has an exported policy fight in an environment of the group `play`.

    Returns:
        What it pressed, how its fights ended, and the megabytes that are installed.
    """
    out, installed = folder / "alone.npz", ROOT / ".venv-play"
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(installed)}
    environment.pop("VIRTUAL_ENV", None)
    subprocess.run(
        ["uv", "run", "-q", "--locked", "--only-group", "play", "python", "-m",
         "benchmarks.play_alone", "--policy", exported, "--out", out, "--episodes", str(episodes)],
        cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    size = sum(file.lstat().st_size for file in installed.rglob("*") if file.is_file())
    with np.load(out) as arrays:
        pressed = dict(arrays)
    return pressed, json.loads(out.with_suffix(".json").read_text()), size / 1e6


@contextlib.contextmanager
def served(checkpoint: Path) -> Iterator[RemotePlayer]:
    """Serves a checkpoint in a process of its own and gives a player that is connected to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "BC_training.serve", "--checkpoint", checkpoint, "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = re.search(r"ws://\S+", process.stdout.readline())
        assert address is not None
        with RemotePlayer(address[0], None) as player:
            yield player
    finally:
        process.terminate()
        process.wait()


def same(ours: Fights, theirs: Fights) -> int:
    """Returns in how many fights the same was pressed at each tick."""
    return sum(np.array_equal(ours[seed], theirs[seed]) for seed in theirs)


def latency(results: list[FightResult]) -> dict[str, float]:
    """Returns percentiles of `act` over all fights, in milliseconds."""
    return percentiles([ms for result in results for ms in result.latencies_ms])


def measure(checkpoint: Path, episodes: int, ways: tuple[Way, ...], folder: Path) -> dict[str, Any]:
    """Compares the ways in which a checkpoint can play."""
    checkpoint = checkpoints.locate(checkpoint)
    bundle = checkpoints.read_bundle(checkpoint)
    with contextlib.closing(make_env(ENV, bundle)) as env:
        expected, results = fights_of(Policy.load(checkpoint), env, episodes)
        row: dict[str, Any] = {
            "model": bundle.config.model.name,
            "fights": episodes,
            "ticks": sum(len(fight) for fight in expected.values()),
            "won": sum(bool(result.won) for result in results),
            "jax_ms": latency(results),
        }
        if "exported" in ways:
            export(checkpoint, folder / "exported")
            pressed, outcomes, megabytes = alone(folder / "exported", folder, episodes)
            plain = [result.plain() for result in results]
            row["exported"] = {
                "same": same(pressed, expected),
                "same_outcomes": sum(
                    all(ours[key] == theirs[key] for key in OUTCOME)
                    for ours, theirs in zip(outcomes, plain, strict=True)
                ),
                "installed_megabytes": megabytes,
                "ms": {
                    key: float(np.median([fight["latencies_ms"][key] for fight in outcomes]))
                    for key in ("p50", "p95", "p99")
                },
            }
        if "served" in ways:
            with served(checkpoint) as player:
                pressed, round_trips = fights_of(player, env, episodes)
                inference = percentiles(player.inference_ms)
            row["served"] = {
                "same": same(pressed, expected),
                "ms": latency(round_trips),
                "inference_ms": inference,
            }
        if "half" in ways:
            export(checkpoint, folder / "half", precision="float16")
            half = Player.load(folder / "half")
            pressed, _ = fights_of(half, env, episodes)
            difference = half.manifest.proof["max_difference"]
            row["half"] = {"same": same(pressed, expected), "max_difference": difference}
    return row


def main(
    checkpoints: tuple[Path, ...],
    episodes: int = 20,
    ways: tuple[Way, ...] = ("exported", "served", "half"),
) -> None:
    """Measures each checkpoint.

    Args:
        checkpoints: trained in the arena.
        episodes: fights of each in each way.
        ways: how it plays besides in JAX.
    """
    file = of_device("player")
    for checkpoint in checkpoints:
        with tempfile.TemporaryDirectory() as name:
            row = measure(checkpoint, episodes, ways, Path(name))
        print(json.dumps(row, indent=2), flush=True)
        results: dict[str, Any] = {"rows": {}}
        if file.exists():
            results = json.loads(file.read_text())
        rows = results["rows"]
        rows[row["model"]] = {**rows.get(row["model"], {}), **row}
        file.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
