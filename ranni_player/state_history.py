"""What one tick of a game's state can't tell: how long a value has lasted, how far it moved."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

MAX_AGE = 255.0
"""Ticks at which counting how long a value has lasted ends."""


class StateHistory(NamedTuple):
    """The S attributes of a game's state with their history; NumPy's arrays or JAX's."""

    value: Float[Any, "*axes S"]
    age: Float[Any, "*axes S"]
    """Ticks since the value began, `MAX_AGE` at most."""
    change: Float[Any, "*axes S"]
    """The difference from the value a tick before; zero at an episode's first tick."""

    def joined(self) -> Float[np.ndarray, "*axes 3*S"]:
        """Returns one array, as tables of a dataset and batches hold it."""
        return np.concatenate(self, axis=-1)

    @classmethod
    def split(cls, columns: Float[Any, "*axes 3*S"]) -> "StateHistory":
        """Takes apart what `joined` put together."""
        size = columns.shape[-1] // 3
        return cls(*(columns[..., part * size : (part + 1) * size] for part in range(3)))


class HistoryState(NamedTuple):
    """What `add_history` must remember of the tick before."""

    value: Float[np.ndarray, "S"]
    age: Float[np.ndarray, "S"]


def add_history(
    state: Float[np.ndarray, "N S"], before: HistoryState | None
) -> tuple[StateHistory, HistoryState]:
    """Adds to each value the ticks since it began, and its change since the tick before.

    Args:
        state: N consecutive ticks of an episode: whole episodes in training, one tick in play.
        before: what the last tick before these left; None at an episode's start.

    Returns:
        The history of these ticks, and what the next call must be given.
    """
    before = before or HistoryState(state[0], np.full(state.shape[1], -1, np.float32))
    previous = np.concatenate([before.value[None], state[:-1]])
    changed = state != previous
    ticks = np.arange(len(state))[:, None]
    began = np.maximum.accumulate(np.where(changed, ticks, -1), axis=0)
    age = np.where(began >= 0, ticks - began, before.age + 1 + ticks)
    age = np.minimum(age, MAX_AGE).astype(np.float32)
    return StateHistory(state, age, state - previous), HistoryState(state[-1], age[-1])
