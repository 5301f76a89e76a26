"""A person at the page, tick by tick."""

import re
import time
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.person import Shown
from gameplay_pipeline.environments.play import Outcome
from gameplay_pipeline.page.desk import Desk

QUALITY = 88
"""Of the JPEG, 0 to 100."""
FULL = ("Max", "max_", "MAX_")
"""What the name of a quantity's largest value has more than the quantity's."""
GAUGE = re.compile(r"(?i)health|hp$|stamina|sp$|fp$|ammo|armor|lives")
"""Names of quantities that are shown though nobody says how large they can be."""


class PagePerson:
    """A person who plays one fight at the page. It keeps the environment's tick rate, unless the
    environment itself does."""

    def __init__(self, desk: Desk, env: Environment):
        """Takes the environment of one fight, which knows its tick rate, before the first tick."""
        assert env.fps is not None
        self._desk, self._env = desk, env
        self._tick_s = 1 / env.fps
        self._gauges = find_gauges(env.attribute_names)
        self._largest: dict[str, float] = {}
        self._due: float | None = None
        self._paused_s = 0.0
        self._times: list[float] = []
        self.late_ticks = 0
        """Ticks that began more than a whole tick after their time."""

    def reset(self) -> None:
        """Forgets what was tapped before there was anything to see."""
        self._desk.take()

    def choose(self, observation: Mapping[str, Any], shown: Shown) -> Bool[np.ndarray, "A"]:
        """Shows a tick and waits for its end; `Person` has what comes of it."""
        now = time.monotonic()
        due = now if self._due is None else self._due
        if now - due > self._tick_s:
            self.late_ticks += 1
            due = now
        self._due = due + self._tick_s
        self._times.append(now - self._paused_s)
        self._show(observation, shown)
        can_pause = not self._env.is_real_time
        end = self._due if can_pause else now
        while paused := self._desk.wait_until(end, can_pause):
            self._paused_s += paused
            end = self._due = time.monotonic() + self._tick_s
        return self._desk.take()

    def show_end(self, outcome: Outcome) -> None:
        """Shows how the fight ended."""
        removed = outcome.info.get("boss_health_removed")
        self._desk.show(
            outcome=str(outcome.info.get("outcome", "over")),
            removed=None if removed is None else _finite(removed),
            reward=_finite(round(outcome.reward, 2)),
        )

    def timestamps(self) -> Float64[np.ndarray, "N"]:
        """Seconds at which each tick was shown, since the first and without the pauses."""
        times = np.array(self._times)
        return times - times[0]

    def rate(self) -> dict[str, float]:
        """The ticks a second as they really came, and how many were late, as an episode's
        attributes."""
        times = self.timestamps()
        fps = (len(times) - 1) / float(times[-1]) if len(times) > 1 else 1 / self._tick_s
        return {"fps": fps, "late_ticks": self.late_ticks}

    def _show(self, observation: Mapping[str, Any], shown: Shown) -> None:
        recent = self._times[-round(2 / self._tick_s) - 1 :]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else None
        chances = shown.probabilities
        self._desk.show(
            jpeg(self._env.picture(), self._env.color_order),
            tick=len(self._times) - 1,
            seconds=(len(self._times) - 1) * self._tick_s,
            rate=rate,
            late=self.late_ticks,
            pressed=shown.pressed.tolist(),
            driver="you" if shown.is_person else "policy",
            probabilities=None if chances is None else np.round(chances, 3).tolist(),
            state={name: _finite(observation[name]) for name in self._env.attribute_names},
            gauges=[self._gauge(name, full, observation) for name, full in self._gauges],
        )

    def _gauge(
        self, name: str, full: str | None, observation: Mapping[str, Any]
    ) -> tuple[str, float, float]:
        """A quantity's name, its value, and the largest that it can have or has had."""
        value = _finite(observation[name])
        if full is not None:
            return name, value, _finite(observation[full])
        self._largest[name] = max(self._largest.get(name, 0.0), value)
        return name, value, self._largest[name]


def _finite(value: Any) -> float:
    """A number as JSON can hold it: 0 for NaN and infinity."""
    return float(value) if np.isfinite(value) else 0.0


def find_gauges(attributes: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Which attributes are shown as bars, such as HeroHp, each with the one that says how large it
    can be, such as HeroMaxHp."""
    found: list[tuple[str, str | None]] = []
    largest = {a.replace(word, "", 1): a for a in attributes for word in FULL if word in a}
    for attribute in attributes:
        if attribute in largest:
            found.append((attribute, largest[attribute]))
        elif attribute not in largest.values() and GAUGE.search(attribute):
            found.append((attribute, None))
    return found


def jpeg(frame: UInt8[np.ndarray, "H W 3"], color_order: str) -> bytes:
    """A frame as a JPEG picture."""
    image = frame if color_order == "BGR" else frame[..., ::-1]
    done, picture = cv2.imencode(".jpg", np.ascontiguousarray(image), (1, QUALITY))
    assert done
    return picture.tobytes()
