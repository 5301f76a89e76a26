"""Scripted players for the two scenarios. They read the engine's list of objects, not pixels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

THRUST = 0.75
"""What a held button adds to the sideways speed each tic."""
FRICTION = 0.90625
"""What is left of the speed after each tic."""
REACH = 22.0
"""Distance at which a fireball's and the player's boxes touch."""
ROOM = (16.0, 752.0)
"""Between these the player can move sideways."""
HORIZON = 70
"""Tics that the dodger looks ahead."""


class Ball(NamedTuple):
    """A fireball: position, and speed per tic."""

    number: int
    x: float
    y: float
    vx: float
    vy: float


class Target(NamedTuple):
    """A foe: position, and the columns of the screen that it covers."""

    x: float
    y: float
    left: int
    width: int


class View(NamedTuple):
    """What an expert sees."""

    tic: int
    x: float
    y: float
    speed: float
    """Speed of the player along y."""
    width: int
    """Width of the screen in pixels."""
    balls: list[Ball]
    targets: list[Target]
    """Those on the screen."""


class Dodger:
    """Follows the way that keeps it farthest from every fireball; where several do, the middle."""

    def __init__(self, look: Callable[[], View]):
        """Args:
        look: what there is to see now.
        """
        self._look = look
        # Hold one button (left 1, right -1, none 0) for a while, then another.
        self._plans = np.array(
            [
                [first] * hold + [then] * (HORIZON - hold)
                for first in (0, 1, -1)
                for hold in (4, 10, 18, 28, 40)
                for then in (0, 1, -1)
            ],
            np.float64,
        )
        self.reset()

    def reset(self) -> None:
        self._known: dict[int, tuple[int, Ball]] = {}

    def act(self, observation: Any) -> np.ndarray:
        """The buttons: move_left, move_right."""
        view = self._look()
        # Fireballs that have left the screen to the sides still fly on.
        self._known |= {ball.number: (view.tic, ball) for ball in view.balls}
        balls = []
        for number, (tic, ball) in list(self._known.items()):
            age = view.tic - tic
            moved = ball._replace(x=ball.x + age * ball.vx, y=ball.y + age * ball.vy)
            if moved.x < view.x - REACH or age > 60:
                del self._known[number]
            else:
                balls.append(moved)
        ways = self._ways(view)
        clear = np.full(len(ways), 60.0)
        tics = np.arange(1, HORIZON + 1)
        for ball in balls:
            near = np.abs(ball.x + tics * ball.vx - view.x) <= REACH + 12
            if near.any():
                gap = np.abs(ball.y + tics[near] * ball.vy - ways[:, near]).min(axis=1)
                clear = np.minimum(clear, gap)
        middle = sum(ROOM) / 2
        effort = np.abs(self._plans).mean(axis=1)
        score = clear - 0.02 * np.abs(ways[:, -1] - middle) - 4 * effort
        first = self._plans[int(np.argmax(score)), 0]
        return np.array([first > 0, first < 0], np.int8)

    def _ways(self, view: View) -> np.ndarray:
        """Where each plan leads [plans, HORIZON], by the engine's own arithmetic."""
        y = np.full(len(self._plans), view.y)
        speed = np.full(len(self._plans), view.speed)
        ways = np.empty_like(self._plans)
        for tic in range(HORIZON):
            speed = speed + THRUST * self._plans[:, tic]
            y = np.clip(y + speed, *ROOM)
            speed = speed * FRICTION
            ways[:, tic] = y
        return ways


class Aimer:
    """Turns to the nearest foe in sight and shoots when it stands behind the sight."""

    def __init__(self, look: Callable[[], View]):
        """Args:
        look: what there is to see now.
        """
        self._look = look

    def reset(self) -> None:
        pass

    def act(self, observation: Any) -> np.ndarray:
        """The buttons: turn_left, turn_right, attack."""
        view = self._look()
        if not view.targets:
            return np.array([1, 0, 0], np.int8)
        foe = min(view.targets, key=lambda target: np.hypot(target.x - view.x, target.y - view.y))
        offset = foe.left + foe.width / 2 - view.width / 2
        aimed = abs(offset) <= foe.width / 2
        return np.array([not aimed and offset < 0, not aimed and offset > 0, aimed], np.int8)
