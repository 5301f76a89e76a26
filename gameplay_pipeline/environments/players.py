"""Players that need no model."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Int8

from gameplay_pipeline.environments.adapter import Environment, Player

NO_MODEL = ("expert", "random", "nothing", "previous")
"""The environment's own expert; any buttons, anew at each tick; no buttons; and repeating what was
pressed a tick before, from random buttons at the first: what a clone that only copies its own past
would do."""


class RandomPlayer:
    """Presses any buttons, each with even odds, anew at each tick."""

    def __init__(self, space: gymnasium.Space[Any], seed: int):
        self._space, self._seed = space, seed

    def reset(self) -> None:
        self._space.seed(self._seed)

    def act(self, observation: Any) -> Int8[np.ndarray, "A"]:
        return self._space.sample()


class ConstantPlayer:
    """Holds the same buttons throughout."""

    def __init__(self, pressed: Bool[np.ndarray, "A"] | Int8[np.ndarray, "A"]):
        self._pressed = pressed

    def reset(self) -> None:
        pass

    def act(self, observation: Any) -> Bool[np.ndarray, "A"] | Int8[np.ndarray, "A"]:
        return self._pressed


def make_player(env: Environment, name: str, seed: int, style: str | None = None) -> Player:
    """Makes one of the players `NO_MODEL`.

    Args:
        env: where it plays.
        name: which player.
        seed: seed of its choices.
        style: one of the expert's styles; None for the expert as it is.
    """
    if name == "expert":
        return env.make_expert(seed, style)
    if name == "random":
        return RandomPlayer(env.action_space, seed)
    if name == "nothing":
        return ConstantPlayer(np.zeros(len(env.action_names), bool))
    assert name == "previous", name
    env.action_space.seed(seed)
    return ConstantPlayer(env.action_space.sample())
