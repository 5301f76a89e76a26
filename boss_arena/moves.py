"""The boss's and the hero's moves: data, in ticks, metres, radians and health points."""

import dataclasses
import math
from typing import NamedTuple

TICKS_PER_SECOND = 17


class Chain(NamedTuple):
    """A follow-up and how likely it is."""

    move: str
    chance: float


@dataclasses.dataclass(frozen=True)
class Move:
    """An attack of the boss.

    The pose is raised over `ramp` ticks, held for `hold`, and strikes for `active`. Moves that
    share a pose look alike at the same progress: how fast it rose and how long it has been held
    says when the blow falls, a single picture does not.
    """

    name: str
    pose: str
    animation: int
    """NpcAnimId while it lasts."""
    ramp: int
    active: int
    recovery: int
    reach: float
    """From the boss's centre to the far end of the blow."""
    half_arc: float
    """To each side of where the boss looks."""
    damage: float
    hold: int = 0
    lunge: float = 0.0
    """Way forward (negative: back) during the last ticks of the wind-up and the strike."""
    turning: float = 0.7
    """Share of the wind-up in which the boss still turns after the hero."""
    flight: int = 0
    """Ticks in the air between wind-up and strike, towards where the hero stood at take-off."""
    ring: float = 0.0
    """Radius that a shockwave on the ground reaches after the strike; 0 for none."""
    dagger: bool = False
    """Whether the strike throws a dagger instead of hitting."""
    second_hit: int = 0
    """Ticks after the first strike at which another follows; 0 for none."""
    chains: tuple[Chain, ...] = ()
    """Drawn as the strike ends; what remains of 1 is no follow-up."""
    weights: tuple[float, float] = (0.0, 0.0)
    """How often it is chosen in the first and the second phase."""
    distance: tuple[float, float] = (0.0, 4.5)
    """Distances of the hero at which it is chosen."""

    @property
    def windup(self) -> int:
        """Ticks before the blow can land, flight included."""
        return self.ramp + self.hold + self.flight


def _arc(degrees: float) -> float:
    return math.radians(degrees)


MOVES = {
    move.name: move
    for move in (
        Move("slash", "slash", 3000, 11, 2, 17, 3.9, _arc(80), 290, lunge=1.2,
             chains=(Chain("backslash", 0.3), Chain("late_backslash", 0.25)), weights=(3, 2)),
        Move("backslash", "backslash", 3001, 11, 2, 18, 3.9, _arc(80), 260, lunge=0.8),
        Move("late_backslash", "backslash", 3002, 15, 2, 18, 3.9, _arc(80), 300, hold=5, lunge=1.0),
        Move("overhead", "overhead", 3005, 12, 2, 20, 4.1, _arc(40), 340, lunge=1.0,
             weights=(2, 1)),
        Move("late_overhead", "overhead", 3006, 17, 2, 20, 4.1, _arc(40), 380, hold=8, lunge=1.4,
             weights=(2, 2)),
        Move("thrust", "thrust", 3010, 11, 2, 18, 5.2, _arc(22), 310, lunge=3.0,
             weights=(2, 1.5), distance=(0, 7)),
        Move("late_thrust", "thrust", 3011, 15, 2, 18, 5.2, _arc(22), 340, hold=7, lunge=3.4,
             weights=(1.5, 2), distance=(0, 7)),
        Move("tail", "tail", 3015, 11, 3, 16, 3.8, _arc(180), 240, turning=0.0, weights=(1, 1),
             distance=(0, 3.5)),
        Move("leap", "leap", 3020, 9, 2, 22, 3.0, _arc(180), 360, flight=9, ring=6.5,
             weights=(2, 2), distance=(4, 16)),
        Move("throw", "throw", 3025, 10, 1, 12, 0.0, 0.0, 170, dagger=True, turning=0.9,
             weights=(2, 1), distance=(5, 20)),
        Move("backstep", "backstep", 3026, 3, 6, 5, 0.0, 0.0, 0, lunge=-4.5,
             chains=(Chain("throw", 0.35), Chain("leap", 0.4)), weights=(0.7, 0.5),
             distance=(0, 3)),
        Move("jab", "jab", 3030, 9, 2, 12, 3.2, _arc(50), 190, lunge=0.8,
             chains=(Chain("slash", 0.35),)),
        Move("hammer", "hammer", 3040, 16, 2, 24, 5.0, _arc(45), 420, hold=4, lunge=1.0, ring=6.0,
             weights=(0, 2.5), distance=(0, 7)),
        Move("spin", "spin", 3041, 13, 2, 18, 4.4, _arc(180), 250, second_hit=14, weights=(0, 2)),
    )
}  # fmt: skip

PUNISH = "jab"
"""What the boss answers a roll with that ends within its reach before any blow has fallen."""

BOSS_IDLE, BOSS_WALK, BOSS_STRAFE, BOSS_ROAR, BOSS_DEAD = 20000, 20002, 20003, 20010, 20020

HERO_IDLE = 27000
HERO_WALK = {"forward": 27110, "back": 27111, "left": 27112, "right": 27113}
HERO_DASH = 27120
HERO_BACKSTEP = 27150
HERO_ROLL, HERO_TIRED_ROLL = 27160, 27165
# Above 2**24 and no multiples of 16: float32 can't hold them, as it can't hold the game's.
HERO_ATTACKS = (180032301, 180032331, 180032361)
HERO_STAGGER, HERO_DEAD = 50010, 55000


@dataclasses.dataclass(frozen=True)
class Blow:
    """One blow of the hero's combo."""

    windup: int
    active: int
    recovery: int
    damage: float
    chain_from: int
    """Ticks into the recovery from which the next blow or a roll may begin."""


COMBO = (
    Blow(windup=5, active=2, recovery=9, damage=152, chain_from=4),
    Blow(windup=5, active=2, recovery=10, damage=152, chain_from=5),
    Blow(windup=6, active=2, recovery=15, damage=178, chain_from=10),
)
