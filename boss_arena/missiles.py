"""What flies or spreads across the court: thrown daggers and shockwaves."""

import math
from typing import NamedTuple

from boss_arena.geometry import closest
from boss_arena.moves import TICKS_PER_SECOND

DAGGER_STEP = 17.0 / TICKS_PER_SECOND
"""Metres that a dagger flies in a tick."""
DAGGER_SIZE = 0.6
RING_STEP = 17.0 / TICKS_PER_SECOND
"""Metres by which a shockwave's radius grows in a tick."""


class Dagger(NamedTuple):
    """A thrown dagger."""

    x: float
    y: float
    yaw: float
    left: int
    """Ticks until it is spent."""

    def moved(self) -> "Dagger":
        """Returns the dagger a tick later."""
        x = self.x + DAGGER_STEP * math.cos(self.yaw)
        y = self.y + DAGGER_STEP * math.sin(self.yaw)
        return Dagger(x, y, self.yaw, self.left - 1)

    def hits(self, x: float, y: float) -> bool:
        """Whether it passes through the point (x, y) in the coming tick."""
        end = self.moved()
        return closest(self.x, self.y, end.x, end.y, x, y) < DAGGER_SIZE


class Ring(NamedTuple):
    """A shockwave on the ground."""

    x: float
    y: float
    radius: float
    reach: float
    """Radius at which it ends."""
    damage: float

    def grown(self) -> "Ring":
        """Returns the shockwave a tick later."""
        return self._replace(radius=self.radius + RING_STEP)

    def reaches(self, x: float, y: float) -> bool:
        """Whether it passes the point (x, y) in the coming tick."""
        distance = math.hypot(x - self.x, y - self.y)
        return self.radius < distance <= self.grown().radius
