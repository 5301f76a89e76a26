"""The scripted expert's styles of play: data, in ticks, metres and points of stamina."""

import dataclasses
from typing import Literal

RollKey = Literal["side", "forward", "back"]


@dataclasses.dataclass(frozen=True)
class Style:
    """How the expert plays, and how a person would ask for it. The defaults are `balanced`."""

    instructions: tuple[str, ...]
    """Ways to ask for it."""
    strike_range: float = 2.6
    """Distance from which it attacks."""
    least_opening: int = 1
    """Ticks of an opening that must be left to attack in it: the boss pauses and winds up after."""
    idle_opening: int = 0
    """Ticks of a pause of the boss that count as an opening: a gamble on when the pause ends."""
    rest: int = 8
    """Ticks from one press of attack to the next."""
    least_stamina: float = 34.0
    """An attack must leave enough for a roll."""
    tired: float = 25.0
    """Stamina below which it steps back."""
    close: float = 2.2
    """Distance to which it walks up when it can be there before an opening ends."""
    nearest: float = 0.0
    """Distance below which it walks back at other times."""
    farthest: float = 2.2
    """Distance above which it walks up at other times."""
    roll: tuple[RollKey, ...] = ("side", "forward")
    """Keys held while it rolls; the side is drawn for each of the boss's moves."""


BALANCED = Style(
    instructions=(
        "beat the boss",
        "fight the boss and win",
        "dodge the blows and strike back",
        "play a balanced fight",
    )
)

STYLES = {
    "balanced": BALANCED,
    "aggressive": Style(
        instructions=(
            "attack whenever you can",
            "press the boss hard, stay close",
            "be aggressive",
            "get in close and keep hitting",
            "give the boss no rest",
        ),
        idle_opening=6,
        rest=5,
        close=1.3,
        farthest=1.3,
        roll=("forward",),
    ),
    "defensive": Style(
        instructions=(
            "play it safe",
            "dodge first, attack only when it is safe",
            "be defensive",
            "take your time and don't get hit",
            "wait for a clear opening",
        ),
        strike_range=2.2,
        least_stamina=60.0,
        tired=40.0,
        nearest=2.8,
        farthest=3.5,
        roll=("side",),
    ),
    "keep_distance": Style(
        instructions=(
            "keep your distance",
            "stay away from the boss",
            "back off and keep out of reach",
            "keep far from the boss, strike only after it misses",
        ),
        least_opening=2,
        nearest=6.0,
        farthest=7.0,
        roll=("side", "back"),
    ),
}
