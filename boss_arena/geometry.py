"""Angles and points on the court's ground."""

import math

from boss_arena.scene import COURT_HALF


def wrap(angle: float) -> float:
    """Returns the same angle in (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2 * math.pi)


def turn(yaw: float, target: float, most: float) -> float:
    """Returns `yaw` turned towards `target` by at most `most` radians."""
    off = wrap(target - yaw)
    return wrap(yaw + max(-most, min(most, off)))


def side(lean: float) -> str:
    """Returns where an angle against one's line of sight leads: forward, back, left or right."""
    if abs(lean) < math.pi / 4:
        return "forward"
    if abs(lean) > 3 * math.pi / 4:
        return "back"
    return "left" if lean > 0 else "right"


def inside(coordinate: float) -> float:
    """Returns the coordinate, held within the court's walls."""
    edge = COURT_HALF - 1
    return max(-edge, min(edge, coordinate))


def closest(x0: float, y0: float, x1: float, y1: float, x: float, y: float) -> float:
    """Returns the distance of the point (x, y) from a segment."""
    dx, dy = x1 - x0, y1 - y0
    share = max(0.0, min(1.0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)))
    return math.hypot(x0 + share * dx - x, y0 + share * dy - y)
