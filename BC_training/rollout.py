"""A checkpoint in an environment: fights, beside those of policies that need no model.

uv run -m BC_training.rollout --checkpoint checkpoints/pure_cnn --env boss_arena:BossArena-v0
"""

import dataclasses
import json as json_format
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import tyro
from rich.table import Table

from BC_training.common import checkpoint as checkpoints
from BC_training.common import console
from BC_training.common.checkpoint import Bundle
from BC_training.common.policy import Policy
from BC_training.common.types import DataSpec, FrameContract, UserError

BASELINES = ("expert", "random", "nothing")
BOOTSTRAPS = 10_000
Z95 = 1.959964

Act = Callable[[Mapping[str, Any]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Fight:
    """How one fight went."""

    player: str
    seed: int
    won: bool
    boss_health_removed: float
    """Share of the boss's health, 0 to 1."""
    seconds: float


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 percent confidence interval."""

    mean: float
    low: float
    high: float


def fight(
    checkpoint: Path, env_id: str, episodes: int, first_seed: int, workers: int | None = None
) -> list[Fight]:
    """Has a checkpoint, the expert where there is one, and two trivial policies fight.

    Every player meets the same seeds, `first_seed` and following. Fights run side by side in
    `workers` processes (by default one per usable core); the outcome does not depend on how many.

    Raises:
        UserError: the environment can't be made, or breaks the checkpoint's contract.
    """
    folder = checkpoints.locate(checkpoint)
    bundle = checkpoints.read_bundle(folder)
    name = bundle.resolved_config().model.name
    env = make_env(env_id, bundle)
    has_expert = hasattr(env.unwrapped, "make_expert")
    env.close()
    players = [name, *(player for player in BASELINES if player != "expert" or has_expert)]
    seeds = range(first_seed, first_seed + episodes)
    jobs = [(player, seed) for player in players for seed in seeds]
    workers = workers or min(os.cpu_count() or 1, len(jobs))
    # Not forked: a forked copy of JAX's threads hangs.
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(str(folder), env_id),
    ) as pool:
        try:
            fights = pool.map(_fight, jobs)
            return list(console.progress(fights, "Fighting", len(jobs)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the fights died, perhaps for want of memory; the checkpoint is "
                f"unharmed: python -m BC_training.rollout --checkpoint {folder} --env {env_id}"
            ) from error


def make_env(env_id: str, bundle: Bundle) -> gymnasium.Env[Any, Any]:
    """The environment at the checkpoint's frame size, checked against its contract.

    Raises:
        UserError: it can't be made, or what it shows or takes is not what the policy learned from.
    """
    frame = bundle.spec.frame
    try:
        env = gymnasium.make(env_id, width=frame.width, height=frame.height)
    except Exception as error:  # whatever somebody's environment may raise
        raise UserError(
            f"{env_id}: can't make this environment at {frame.width}x{frame.height}: {error}"
        ) from error
    inner = env.unwrapped
    fps = inner.metadata.get("render_fps")
    offered = DataSpec(
        actions=tuple(getattr(inner, "action_names", ())),
        state=tuple(getattr(inner, "attribute_names", ())),
        frame=FrameContract(
            height=frame.height,
            width=frame.width,
            channels=frame.channels,
            color_order=getattr(inner, "color_order", "unknown"),
            resize=getattr(inner, "resize_method", "unknown"),
            fps=None if fps is None else float(fps),
        ),
    )
    checkpoints.require_same(bundle, offered, env_id)
    return env


def summarize(fights: Sequence[Fight]) -> dict[str, dict[str, Any]]:
    """Per player: fights, and means with 95 percent intervals of won, health removed, seconds.

    Wins have a Wilson score interval (Wilson 1927), means a percentile bootstrap (Efron 1979).
    """
    players = dict.fromkeys(fight.player for fight in fights)
    summary = {}
    for player in players:
        own = [fight for fight in fights if fight.player == player]
        summary[player] = {
            "fights": len(own),
            "won": dataclasses.asdict(wilson(sum(fight.won for fight in own), len(own))),
            "boss_health_removed": dataclasses.asdict(
                bootstrap([fight.boss_health_removed for fight in own])
            ),
            "seconds": dataclasses.asdict(bootstrap([fight.seconds for fight in own])),
        }
    return summary


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a share."""
    share = successes / trials
    spread = Z95 * np.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    scale = 1 + Z95**2 / trials
    middle = share + Z95**2 / (2 * trials)
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return Interval(share, float(max(low, 0.0)), float(min(high, 1.0)))


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap interval of a mean."""
    sample = np.asarray(values)
    picks = np.random.default_rng(0).integers(len(sample), size=(BOOTSTRAPS, len(sample)))
    low, high = np.percentile(sample[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(sample.mean()), float(low), float(high))


def fight_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """The summary as a table."""

    def cell(interval: Mapping[str, float], scale: float, digits: int) -> str:
        mean, low, high = (f"{scale * interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    table = console.make_table("Fights: mean [95 percent interval]")
    table.add_column("player")
    for name in ("fights", "won %", "boss health removed %", "survived s"):
        table.add_column(name, justify="right")
    for player, row in summary.items():
        table.add_row(
            player,
            str(row["fights"]),
            cell(row["won"], 100.0, 0),
            cell(row["boss_health_removed"], 100.0, 1),
            cell(row["seconds"], 1.0, 1),
        )
    return table


def report(fights: Sequence[Fight], json_file: Path) -> None:
    """Prints the table and writes every fight and the summary as JSON."""
    summary = summarize(fights)
    console.make_console().print(fight_table(summary))
    raw = {"summary": summary, "fights": [dataclasses.asdict(fight) for fight in fights]}
    json_file.write_text(json_format.dumps(raw, indent=2) + "\n")
    print(f"every fight: {json_file}")


class _Worker:
    """What a process keeps between its fights."""

    policy: Policy
    env: gymnasium.Env[Any, Any]


def _start_worker(folder: str, env_id: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # The trainer may hold the accelerator, which some kinds lend to one process only.
    jax.config.update("jax_platforms", "cpu")
    _Worker.policy = Policy.load(folder)
    _Worker.env = make_env(env_id, _Worker.policy.bundle)


def _fight(job: tuple[str, int]) -> Fight:
    player, seed = job
    env = _Worker.env
    act = _player(player, seed)
    observation, info = env.reset(seed=seed)
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(
            np.asarray(act(observation), np.int8)
        )
        over = terminated or truncated
    missing = {"outcome", "boss_health_removed", "seconds"} - info.keys()
    if missing:
        raise UserError(f"the environment's info lacks {', '.join(sorted(missing))}")
    return Fight(
        player, seed, info["outcome"] == "won", info["boss_health_removed"], info["seconds"]
    )


def _player(player: str, seed: int) -> Act:
    env = _Worker.env
    # Not the fight's own seed: the environment draws from that one.
    seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    if player == "expert":
        expert = env.get_wrapper_attr("make_expert")(seed)
        expert.reset()
        return expert.act
    if player == "random":
        env.action_space.seed(seed)
        return lambda _: env.action_space.sample()
    if player == "nothing":
        return lambda _: np.zeros(env.action_space.shape or (), np.int8)
    _Worker.policy.reset()
    return _Worker.policy.act


def rollout(
    checkpoint: Path,
    env: str,
    episodes: int = 20,
    seed: int = 1_000_000,
    json: Path | None = None,
) -> int:
    """Fights of a checkpoint beside those of the expert, random buttons and no buttons.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        env: a Gymnasium id such as boss_arena:BossArena-v0.
        episodes: fights of each player.
        seed: of the first fight; the next is one higher.
        json: where every fight goes; by default fights.json in the checkpoint's folder.
    """
    if episodes < 1:
        raise UserError(f"--episodes: {episodes} is not at least 1")
    folder = checkpoints.locate(checkpoint)
    report(fight(folder, env, episodes, seed), json or folder / "fights.json")
    return 0


def main() -> int:
    return tyro.cli(rollout, use_underscores=True, prog="python -m BC_training.rollout")


if __name__ == "__main__":
    console.run(main)
