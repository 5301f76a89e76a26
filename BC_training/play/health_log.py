"""Watches a fight for lost health: what the boss was at, and what the player did before."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.environments.play import Tick
from gameplay_pipeline.plumbing.errors import UserError

ASSUMED_FPS = 17.0
"""Ticks a second where the environment does not say."""

LATE_S = 0.12
"""A roll that begins later than this before the blow protects from nothing yet."""

EARLY_S = 0.5
"""A roll that began earlier than this before the blow protects no more."""

LOW_STAMINA = 0.15
"""Below this share of the stamina a roll may fail."""

PICTURES_S = (0.9, 0.5, 0.25, 0.0)
"""Seconds before a blow whose pictures are shown."""

PICTURE_WIDTH = 160
"""Pixels of a picture's width."""


class Hit(NamedTuple):
    """A loss of health."""

    seed: int
    tick: int
    lost: float
    """Share of the whole health."""
    animation: int | None
    """What the boss was at; None where the environment tells no animations."""
    deed: str
    """What the policy did in the second before."""
    pictures: list[UInt8[np.ndarray, "_ _ 3"]]


class HealthLosses(NamedTuple):
    """What lost health in a fight."""

    hits: list[Hit]
    shown: dict[int, int]
    """How often each animation of the boss began."""


class HealthLog:
    """Watches a fight tick by tick, and keeps what lost health."""

    def __init__(self, actions: Sequence[str], seed: int, fps: float | None):
        """Begins a fight.

        Args:
            actions: names of the A buttons.
            seed: the fight's seed, which the pictures name.
            fps: ticks a second; None where the environment does not say.
        """
        self._actions, self._seed = actions, seed
        self._fps = fps or ASSUMED_FPS
        self._dodge = find_action(actions, "dodge", "roll")
        self._attack = find_action(actions, "attack")
        self._past: deque[_Moment] = deque(maxlen=round(self._fps) + 1)
        self._ticks, self._full = 0, 0.0
        self._hits: list[Hit] = []
        self._shown: Counter[int] = Counter()

    def __call__(self, tick: Tick) -> None:
        """Adds a tick.

        Raises:
            UserError: the environment tells no health of the player.
        """
        observation = tick.observation
        name = _find(observation, r"(hero|player)?_?(hp|health)")
        if name is None:
            raise UserError(
                "--explain: the environment tells no health of the player (an attribute such as "
                f"HeroHp or HEALTH), only {', '.join(key for key in observation if key != 'frame')}"
            )
        health = float(observation[name])
        most = _find(observation, r"(hero|player)?_?max_?(hp|health)")
        self._full = max(self._full, health, 0.0 if most is None else float(observation[most]))
        animation = _find(observation, r"(npc|boss)_?anim\w*")
        moment = _Moment(
            health,
            None if animation is None else int(observation[animation]),
            _stamina(observation),
            tick.pressed,
            _shrunk(observation["frame"]),
        )
        if self._past and health < self._past[-1].health:
            self._add(self._past[-1].health - health)
        if moment.animation is not None and (
            not self._past or self._past[-1].animation != moment.animation
        ):
            self._shown[moment.animation] += 1
        self._past.append(moment)
        self._ticks += 1

    def close(self, *, died: bool) -> HealthLosses:
        """Ends the fight. The blow that killed is seen at no tick, so it is told here."""
        if died and self._past and self._past[-1].health > 0:
            self._add(self._past[-1].health)
        return HealthLosses(self._hits, dict(self._shown))

    def _add(self, lost: float) -> None:
        past = list(self._past)
        at = [max(len(past) - 1 - round(s * self._fps), 0) for s in PICTURES_S]
        pictures = [past[index].picture for index in at]
        share, animation = lost / self._full, past[-1].animation
        tick = self._ticks - 1
        self._hits.append(Hit(self._seed, tick, share, animation, self._deed(past), pictures))

    def _deed(self, past: "list[_Moment]") -> str:
        """What was done in the second before the blow."""
        pressed = np.array([moment.pressed for moment in past])
        began = pressed[1:] & ~pressed[:-1]
        if self._dodge is None:
            held = [name for name, down in zip(self._actions, pressed[-1], strict=True) if down]
            return f"pressed {' + '.join(held)}" if held else "pressed nothing"
        roll = _last(began[:, self._dodge])
        attack = None if self._attack is None else _last(began[:, self._attack])
        if roll is None:
            return "did not roll" if attack is None else "attacked into it"
        ago = (len(began) - 1 - roll) / self._fps
        if past[roll + 1].stamina < LOW_STAMINA:
            return "out of stamina"
        if attack is not None and attack > roll:
            return "attacked into it"
        if ago < LATE_S:
            return "rolled late"
        return "rolled early" if ago > EARLY_S else "rolled in time"


class _Moment(NamedTuple):
    """What a log keeps of a tick."""

    health: float
    animation: int | None
    stamina: float
    """Share of the whole stamina; infinite where the environment does not tell it."""
    pressed: Bool[np.ndarray, "A"]
    picture: UInt8[np.ndarray, "_ _ 3"]


def _shrunk(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    return resize(frame, PICTURE_WIDTH, round(PICTURE_WIDTH * frame.shape[0] / frame.shape[1]))


def _last(flags: Bool[np.ndarray, "N"]) -> int | None:
    """The last place that is True."""
    places = np.flatnonzero(flags).tolist()
    return places[-1] if places else None


def _stamina(observation: Mapping[str, Any]) -> float:
    now, most = _find(observation, "herosp"), _find(observation, "heromaxsp")
    if now is None or most is None:
        return float("inf")
    return float(observation[now]) / max(float(observation[most]), 1.0)


def _find(names: Iterable[str], pattern: str) -> str | None:
    """The first name that the pattern matches as a whole, whatever its case."""
    return next((name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def find_action(actions: Sequence[str], *parts: str) -> int | None:
    """The first action whose name contains one of the parts, whatever its case."""
    matches = (a for a, name in enumerate(actions) if any(part in name.lower() for part in parts))
    return next(matches, None)
