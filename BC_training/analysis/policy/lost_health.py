"""Why a policy loses its health: what the boss was at, and what the policy did in the second
before.

A `HealthLog` watches one fight; `explain` puts those of several together.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from rich.table import Table

from BC_training.analysis.policy import strip
from BC_training.common import console
from gameplay_pipeline.plumbing.errors import UserError

ASSUMED_FPS = 17.0
"""Ticks a second where the environment does not say."""

LATE_S = 0.12
"""A roll that begins later than this before the blow protects from nothing yet."""

EARLY_S = 0.5
"""A roll that began earlier than this before the blow protects no more."""

LOW_STAMINA = 0.15
"""Below this share of the stamina a roll may fail."""

SPECIFIC_RATE, SPECIFIC_SHARE = 1.5, 0.15
"""An animation is a weakness of its own if a showing of it costs so many times the health that one
of the others costs, and it costs this share of all lost health."""

SHOWN = 12
"""How many of the worst blows are shown in pictures."""

PICTURES_S = (0.9, 0.5, 0.25, 0.0)
"""Seconds before a blow whose pictures are shown."""

ADVICE = {
    "did not roll": "It often does not roll at all. Record more fights that dodge (`--disturb` "
    "leads into more blows), train longer, or lower the threshold of {dodge!r}.",
    "rolled early": "It rolls too early. A model with a longer window sees how long an attack "
    "has lasted; recordings of late, delayed attacks help most.",
    "rolled late": "It rolls too late. Record fights of a player who reacts sooner, or give the "
    "model more pixels of the boss; check that play is not slower than the recordings.",
    "rolled in time": "It rolls in time and is hit all the same: in the wrong direction, or by a "
    "second blow. Record fights in which such blows are escaped.",
    "out of stamina": "It runs out of stamina. Record fights that keep some for the next roll, "
    "and let the model read the stamina (state) if the environment tells it.",
    "attacked into it": "It attacks while a blow is coming. Record fights that wait for an "
    "opening.",
    "pressed nothing": "It often does nothing before it is hit. Train longer, or lower the "
    "thresholds of its buttons.",
}
"""What recordings would help, by what the policy did."""


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
        self._dodge = _column(actions, "dodge", "roll")
        self._attack = _column(actions, "attack")
        self._past: deque[_Moment] = deque(maxlen=round(self._fps) + 1)
        self._ticks, self._full = 0, 0.0
        self.hits: list[Hit] = []
        self.shown: Counter[int] = Counter()
        """How often each animation of the boss began."""

    def __call__(self, observation: Mapping[str, Any], pressed: Bool[np.ndarray, "A"]) -> None:
        """Adds a tick.

        Raises:
            UserError: the environment tells no health of the player.
        """
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
            pressed,
            strip.shrunk(observation["frame"]),
        )
        if self._past and health < self._past[-1].health:
            self._add(self._past[-1].health - health)
        if moment.animation is not None and (
            not self._past or self._past[-1].animation != moment.animation
        ):
            self.shown[moment.animation] += 1
        self._past.append(moment)
        self._ticks += 1

    def close(self, *, died: bool) -> None:
        """Ends the fight. The blow that killed is seen at no tick, so it is told here."""
        if died and self._past and self._past[-1].health > 0:
            self._add(self._past[-1].health)

    def _add(self, lost: float) -> None:
        past = list(self._past)
        at = [max(len(past) - 1 - round(s * self._fps), 0) for s in PICTURES_S]
        pictures = [past[index].picture for index in at]
        share, animation = lost / self._full, past[-1].animation
        tick = self._ticks - 1
        self.hits.append(Hit(self._seed, tick, share, animation, self._deed(past), pictures))

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
        if past[roll].stamina < LOW_STAMINA:
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


class Weakness(NamedTuple):
    """Something that costs health."""

    what: str
    share: float
    """Share of all lost health."""
    hits: int
    advice: str


def weaknesses(logs: Sequence[HealthLog], actions: Sequence[str]) -> list[Weakness]:
    """What costs health, the worst first: animations of the boss that a showing of costs far more
    health than one of the others, then what the policy did before it was hit."""
    hits = [hit for log in logs for hit in log.hits]
    total = sum(hit.lost for hit in hits)
    shown = sum((log.shown for log in logs), Counter[int]())
    dangerous = {hit.animation for hit in hits if hit.animation is not None}
    specific = []
    for animation in dangerous:
        those = [hit for hit in hits if hit.animation == animation]
        lost, times = sum(hit.lost for hit in those), shown[animation]
        others = sum(shown[other] for other in dangerous - {animation})
        usual = (total - lost) / max(others, 1)
        if lost >= SPECIFIC_SHARE * total and lost / max(times, 1) >= SPECIFIC_RATE * usual:
            deed = Counter(hit.deed for hit in those).most_common(1)[0][0]
            deed = "was out of stamina" if deed == "out of stamina" else deed
            advice = (
                f"It was hit in {len(those)} of the {times} times that this animation began; most "
                f"often it {deed}. Record more fights in which it is answered."
            )
            specific.append(Weakness(f"animation {animation}", lost / total, len(those), advice))
    dodge = _column(actions, "dodge", "roll")
    deeds = []
    for deed in {hit.deed for hit in hits}:
        those = [hit.lost for hit in hits if hit.deed == deed]
        default = "Record more fights in which this situation ends well."
        advice = ADVICE.get(deed, default).format(dodge=None if dodge is None else actions[dodge])
        deeds.append(Weakness(deed, sum(those) / total, len(those), advice))
    return [
        *sorted(specific, key=lambda weakness: -weakness.share),
        *sorted(deeds, key=lambda weakness: -weakness.share),
    ]


def report(logs: Sequence[HealthLog], actions: Sequence[str], folder: Path, is_bgr: bool) -> None:
    """Prints what lost health, and draws the worst blows into the folder.

    Args:
        logs: one log a fight, closed.
        actions: names of the A buttons.
        folder: where lost_health.png goes; made if need be.
        is_bgr: whether frames are BGR, not RGB.
    """
    out = console.make_console()
    hits = sorted((hit for log in logs for hit in log.hits), key=lambda hit: -hit.lost)
    if not hits:
        out.print(f"no health was lost in {len(logs)} fights")
        return
    total = sum(hit.lost for hit in hits)
    out.print(f"{len(hits)} blows cost {total:.2f} of a whole health in {len(logs)} fights")
    out.print(_table(hits, total))
    for number, weakness in enumerate(weaknesses(logs, actions)[:3], 1):
        out.print(f"{number}. {weakness.what}: {100 * weakness.share:.0f} % of the lost health")
        out.print(f"   {weakness.advice}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (
            hit.pictures,
            (
                f"seed {hit.seed}, tick {hit.tick}: -{100 * hit.lost:.0f} %",
                "" if hit.animation is None else f"animation {hit.animation}",
                hit.deed,
            ),
        )
        for hit in hits[:SHOWN]
    ]
    strip.draw(rows, folder / "lost_health.png", is_bgr=is_bgr)
    out.print(f"the {len(rows)} worst blows: {folder / 'lost_health.png'}")


def _table(hits: Sequence[Hit], total: float) -> Table:
    """Lost health by animation, and by what the policy did: the costliest rows first."""
    table = console.make_table("Lost health, in percent of all that was lost")
    deeds = [deed for deed, _ in Counter(hit.deed for hit in hits).most_common(6)]
    table.add_column("animation")
    for name in ("blows", "all", *deeds):
        table.add_column(name, justify="right")
    animations: dict[int | None, float] = {}
    for hit in hits:
        animations[hit.animation] = animations.get(hit.animation, 0.0) + hit.lost
    for animation, lost in sorted(animations.items(), key=lambda item: -item[1]):
        those = [hit for hit in hits if hit.animation == animation]
        cells = [sum(hit.lost for hit in those if hit.deed == deed) for deed in deeds]
        shares = (f"{100 * cell / total:.0f}" if cell else "-" for cell in (lost, *cells))
        table.add_row("any" if animation is None else str(animation), str(len(those)), *shares)
    return table


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


def _column(actions: Sequence[str], *parts: str) -> int | None:
    """The first action whose name contains one of the parts, whatever its case."""
    matches = (a for a, name in enumerate(actions) if any(part in name.lower() for part in parts))
    return next(matches, None)
