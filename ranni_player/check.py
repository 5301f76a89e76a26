"""Replays the golden frames of an exported policy on the machine at hand."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.fight import percentiles
from ranni_player.manifest import GOLDEN
from ranni_player.player import Player

TOLERANCE = {"float32": 1e-5, "float16": 2e-2}
"""By how much a probability may differ from the original's, by precision."""


class Golden(NamedTuple):
    """Ticks of a fight, and what the original policy made of them."""

    frames: UInt8[np.ndarray, "N H W C"]
    state: Float[np.ndarray, "N S"]
    probabilities: Float[np.ndarray, "N A"]
    pressed: Bool[np.ndarray, "N A"]

    def observation(self, tick: int, attributes: list[str]) -> dict[str, Any]:
        """Returns one tick as an environment gives it."""
        return {"frame": self.frames[tick], **dict(zip(attributes, self.state[tick], strict=True))}


class Check(NamedTuple):
    """How a replay compared with the original."""

    ticks: int
    max_difference: float
    """The largest difference of a probability."""
    presses_differ: int
    """How many decisions about a button were others."""
    latencies_ms: Float[np.ndarray, "N"]

    def require_same(self, precision: str) -> None:
        """Raises a UserError if the replay was not as the original."""
        limit = TOLERANCE[precision]
        if self.presses_differ or not self.max_difference <= limit:
            raise UserError(
                f"the replayed policy is not the original: {self.presses_differ} presses differ, "
                f"probabilities by up to {self.max_difference:.2g} (at most {limit:g} is allowed)"
            )


def read_golden(player: Player) -> Golden:
    """Reads the golden frames beside a policy."""
    with np.load(player.folder / GOLDEN, allow_pickle=False) as arrays:
        return Golden(*(arrays[name] for name in Golden._fields))


def replay(player: Player, golden: Golden) -> Check:
    """Plays the golden ticks from a fight's start and compares what comes out."""
    player.reset()
    probabilities, pressed, latencies = [], [], []
    for tick in range(len(golden.frames)):
        observation = golden.observation(tick, player.manifest.attributes)
        began = time.perf_counter()
        decision = player.act(observation)
        latencies.append(1000 * (time.perf_counter() - began))
        pressed.append(decision.pressed)
        probabilities.append(decision.probabilities)
    difference = np.abs(np.array(probabilities) - golden.probabilities).max()
    differ = int((np.array(pressed) != golden.pressed).sum())
    return Check(len(pressed), float(difference), differ, np.array(latencies))


def report(player: Player, check: Check) -> str:
    """Returns the comparison and the latency in words, with advice where the machine is slow."""
    p50, p95, p99 = percentiles(check.latencies_ms).values()
    fps = player.manifest.frame["fps"]
    lines = [
        f"{check.ticks} golden ticks: probabilities differ by at most {check.max_difference:.2g}, "
        f"{check.presses_differ} presses differ",
        f"act: p50 {p50:.2f} ms, p95 {p95:.2f}, p99 {p99:.2f}, "
        f"worst {check.latencies_ms.max():.2f}",
    ]
    if fps:
        late = int((check.latencies_ms > 1000 / fps).sum())
        lines.append(f"{late} of {check.ticks} ticks took longer than the {1000 / fps:.1f} ms that "
                     f"{fps:g} ticks a second allow")  # fmt: skip
        if late:
            lines.append("this machine is slow for it: close other programs, lower the game's "
                         "settings, try another --provider, or play from another machine "
                         "(BC_training.serve)")  # fmt: skip
    return "\n".join(lines)
