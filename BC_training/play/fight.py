"""One fight of a policy, or of a player without a model."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from BC_training.play.film import Film
from BC_training.play.health_log import HealthLog, HealthLosses
from BC_training.play.policy import Policy
from gameplay_pipeline.environments.adapter import Environment, Player
from gameplay_pipeline.environments.play import Tick, play, player_seed
from gameplay_pipeline.environments.players import NO_MODEL, make_player


class FightTask(NamedTuple):
    """A fight to be had."""

    player: str
    """The name of the model, or one of `NO_MODEL`."""
    seed: int
    video: Path | None = None
    instruction: str | None = None


@dataclasses.dataclass(frozen=True)
class FightResult:
    """How one fight went."""

    player: str
    seed: int
    won: bool | None
    """None where the environment doesn't say (`outcome`)."""
    boss_health_removed: float | None
    """Share of the boss's health, 0 to 1; None where the environment doesn't say."""
    seconds: float
    reward: float
    """Sum of the rewards."""
    presses: float
    """Number of buttons that went down, per second."""
    late: float
    """Share of the ticks that came too late: those that the environment counted, or else those for
    which `act` alone took longer than a tick."""
    counts: dict[str, float]
    """What else the environment counted, such as frames that were missing."""
    latencies_ms: tuple[float, ...] = dataclasses.field(repr=False)
    """How long `act` took at each tick."""
    health: HealthLosses | None = dataclasses.field(default=None, repr=False)
    """What lost health; None where nobody asked."""

    def plain(self) -> dict[str, Any]:
        """The result as JSON holds it, with percentiles instead of all latencies."""
        fields = dataclasses.asdict(dataclasses.replace(self, health=None))
        del fields["health"]
        return {**fields, "latencies_ms": percentiles(self.latencies_ms)}


class _PolicyPlayer:
    """A policy as the play loop knows players."""

    def __init__(self, policy: Policy, instruction: str | None, seed: int):
        self._policy, self._instruction, self._seed = policy, instruction, seed
        self.probabilities: Float[np.ndarray, "A"] | None = None
        """What the policy decided from at the last tick."""

    def reset(self) -> None:
        self._policy.reset(self._instruction, self._seed)

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        pressed, self.probabilities = self._policy.act(observation)
        return pressed


class _Watch:
    """Counts presses and keeps latencies."""

    def __init__(self, actions: int):
        self.presses, self.latencies_ms = 0, []
        self._before = np.zeros(actions, bool)

    def __call__(self, tick: Tick) -> None:
        self.presses += int((tick.pressed & ~self._before).sum())
        self._before = tick.pressed
        self.latencies_ms.append(tick.latency_ms)


def fight(
    policy: Policy, env: Environment, task: FightTask, *, explain: bool = False
) -> FightResult:
    """Has one fight; with `explain`, one of the policy is watched for what loses its health.

    What the environment or its expert raises comes through.
    """

    seed = player_seed(task.seed)
    policy_player = _PolicyPlayer(policy, task.instruction, seed)

    def make(seed: int) -> Player:
        if task.player in NO_MODEL:
            return make_player(env, task.player, seed)
        return policy_player

    watch = _Watch(len(env.action_names))
    is_explained = explain and task.player not in NO_MODEL
    log = HealthLog(env.action_names, task.seed, env.fps) if is_explained else None
    with contextlib.ExitStack() as stack:
        observers: list[Any] = [watch] if log is None else [watch, log]
        if task.video is not None:
            film = Film(task.video, env, lambda: policy_player.probabilities, seed)
            observers.append(stack.enter_context(film))
        outcome = play(env, make, task.seed, observers)
    info, ticks = outcome.info, outcome.ticks
    seconds = float(info.get("seconds", ticks / (env.fps or 1.0)))
    counts = {key: float(value) for key, value in info.get("counts", {}).items()}
    slow = sum(env.fps is not None and ms > 1000 / env.fps for ms in watch.latencies_ms)
    removed = info.get("boss_health_removed")
    return FightResult(
        player=task.player,
        seed=task.seed,
        won=info["outcome"] == "won" if "outcome" in info else None,
        boss_health_removed=None if removed is None else float(removed),
        seconds=seconds,
        reward=outcome.reward,
        presses=watch.presses / max(seconds, 1e-9),
        late=counts.get("late_ticks", slow) / ticks,
        counts=counts,
        latencies_ms=tuple(watch.latencies_ms),
        health=None if log is None else log.close(died=info.get("outcome") == "lost"),
    )


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Returns the median, the 95th and the 99th percentile."""
    values = np.percentile(np.asarray(latencies_ms), [50, 95, 99])
    return {name: float(value) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
