"""What the renderer draws: one tick of a fight, without its rules."""

from typing import Literal, NamedTuple

Phase = Literal["windup", "active", "recovery", "loop"]

BossPose = Literal[
    "idle",
    "walk",
    "slash",
    "backslash",
    "overhead",
    "thrust",
    "tail",
    "leap",
    "throw",
    "jab",
    "hammer",
    "spin",
    "backstep",
    "roar",
    "dead",
]
HeroPose = Literal["idle", "walk", "roll", "attack", "stagger", "dead"]

COURT_HALF = 20.0
"""Half the side of the square court, in metres."""


class Figure(NamedTuple):
    """A fighter. Metres and radians; yaw 0 looks along +x, pi/2 along +y."""

    x: float
    y: float
    z: float
    """Height of the feet above the ground, above zero in a leap."""
    yaw: float
    pose: str
    """A BossPose or a HeroPose."""
    phase: Phase
    """`loop` for poses without phases (idle, walk)."""
    progress: float
    """0 to 1 through the phase. A delayed blow stays at one wind-up progress for a while."""
    stride: float
    """Walk cycle in radians; grows with the way walked."""
    variant: int = 0
    """Which blow of the hero's combo (0, 1, 2), else 0."""
    lean: float = 0.0
    """Direction of a hero's roll or walk relative to yaw, in radians."""


class Scene(NamedTuple):
    """One tick."""

    hero: Figure
    boss: Figure
    camera_yaw: float
    """Where the camera looks. It stands behind the hero and above."""
    locked: bool
    """Whether the lock-on dot is shown on the boss."""
    hero_health: float
    """Share, 0 to 1; so are the other bars."""
    hero_stamina: float
    hero_focus: float
    boss_health: float
    second_phase: bool
    daggers: tuple[tuple[float, float, float, float], ...]
    """Flying daggers: x, y, z, yaw."""
    shockwaves: tuple[tuple[float, float, float, float], ...]
    """Rings on the ground: x, y, radius, strength (1 fresh, 0 gone)."""
