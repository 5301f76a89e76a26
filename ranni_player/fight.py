"""One fight of a policy, and how it went."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from gameplay_pipeline.environments import adapter
from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.play import Observer, Tick, play
from ranni_player.button_decoder import Decision


class DecidingPolicy(Protocol):
    """What decides: a checkpoint, an exported policy, or one on another machine."""

    def reset(self, instruction: str | None = None, seed: int = 0) -> None: ...

    def act(self, observation: Mapping[str, Any]) -> Decision: ...


class PolicyPlayer:
    """A policy as the play loop knows players."""

    def __init__(self, policy: DecidingPolicy, instruction: str | None, seed: int):
        self._policy, self._instruction, self._seed = policy, instruction, seed
        self.probabilities: Float[np.ndarray, "A"] | None = None
        """What the policy decided from at the last tick."""

    def reset(self) -> None:
        self._policy.reset(self._instruction, self._seed)

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        pressed, self.probabilities = self._policy.act(observation)
        return pressed


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

    def plain(self) -> dict[str, Any]:
        """The result as JSON holds it, with percentiles instead of all latencies."""
        fields = dataclasses.asdict(self)
        return {**fields, "latencies_ms": percentiles(self.latencies_ms)}


def watch_fight(
    env: Environment,
    make_player: Callable[[int], adapter.Player],
    name: str,
    seed: int,
    observers: Iterable[Observer] = (),
) -> tuple[FightResult, dict[str, Any]]:
    """Has one fight. What the environment or its player raises comes through.

    Args:
        env: the environment; it stays open.
        make_player: makes the player from a seed of its own.
        name: what the result calls the player.
        seed: seed of the fight.
        observers: others who watch.

    Returns:
        How the fight went, and what the environment said at its last tick.
    """
    before, onsets = np.zeros(len(env.action_names), bool), 0
    latencies_ms: list[float] = []

    def watch(tick: Tick) -> None:
        nonlocal before, onsets
        onsets += int((tick.pressed & ~before).sum())
        before = tick.pressed
        latencies_ms.append(tick.latency_ms)

    outcome = play(env, make_player, seed, (watch, *observers))
    info, ticks = outcome.info, outcome.ticks
    seconds = float(info.get("seconds", ticks / (env.fps or 1.0)))
    counts = {key: float(value) for key, value in info.get("counts", {}).items()}
    slow = sum(env.fps is not None and ms > 1000 / env.fps for ms in latencies_ms)
    removed = info.get("boss_health_removed")
    result = FightResult(
        player=name,
        seed=seed,
        won=info["outcome"] == "won" if "outcome" in info else None,
        boss_health_removed=None if removed is None else float(removed),
        seconds=seconds,
        reward=outcome.reward,
        presses=onsets / max(seconds, 1e-9),
        late=counts.get("late_ticks", slow) / ticks,
        counts=counts,
        latencies_ms=tuple(latencies_ms),
    )
    return result, info


def percentiles(latencies_ms: Sequence[float] | Float[np.ndarray, "N"]) -> dict[str, float]:
    """Returns the median, the 95th and the 99th percentile."""
    values = np.percentile(np.asarray(latencies_ms), [50, 95, 99])
    return {name: float(value) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
