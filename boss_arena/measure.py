"""How a fight was played, by whomever: told from what was observed and pressed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from boss_arena.attributes import ACTIONS, NPC_Y_OFFSET
from boss_arena.moves import TICKS_PER_SECOND


class Play(NamedTuple):
    """Figures of one fight."""

    attacks: float
    """Presses of attack a second. A key that is held counts once."""
    dodges: float
    """Presses of dodge a second."""
    distance: float
    """Mean distance to the boss on the ground, in metres."""


def measure(observations: Sequence[Mapping[str, Any]], actions: npt.ArrayLike) -> Play:
    """How a fight was played.

    Args:
        observations: what was seen at each tick; of it only the four horizontal positions are read.
            Rows of a recorded `state` will do as `dict(zip(attributes, row))`.
        actions: [N, 7], what was pressed upon each.

    Raises:
        ValueError: there are no ticks, or their numbers differ, or it isn't seven buttons.
    """
    pressed = np.asarray(actions).astype(bool).astype(np.int8)
    if not observations or pressed.shape != (len(observations), len(ACTIONS)):
        raise ValueError(
            f"{len(observations)} observations and actions of shape {list(pressed.shape)}; "
            f"expected at least one, and [N, {len(ACTIONS)}]"
        )
    presses = (np.diff(pressed, axis=0, prepend=0) == 1).sum(axis=0)
    rates = dict(zip(ACTIONS, presses * TICKS_PER_SECOND / len(pressed), strict=True))
    return Play(
        attacks=float(rates["attack"]),
        dodges=float(rates["dodge_roll/dash"]),
        distance=float(np.mean([_distance(observation) for observation in observations])),
    )


def _distance(observation: Mapping[str, Any]) -> float:
    return math.hypot(
        float(observation["NpcGlobalPosX"]) - float(observation["HeroGlobalPosX"]),
        float(observation["NpcGlobalPosY"]) - NPC_Y_OFFSET - float(observation["HeroGlobalPosY"]),
    )
