"""One recorded fight as training reads it."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gameplay_pipeline.store.reader import JUDGED, Entry


class Episode:
    """One recorded fight. Its frames and its state stay on disk."""

    def __init__(self, entry: Entry):
        """Reads what was pressed, and how that was corrected, if it was.

        Raises:
            DataError: it can't be read.
        """
        self.name, self.attributes = entry.name, entry.attributes
        self.frames = entry.arrays["frames"]
        self._entry = entry
        self._state_columns: list[int] | None = None
        self.actions: Bool[np.ndarray, "N A"] = entry.arrays["actions"].read()
        """What should have been pressed, where somebody said so (see `judged`)."""
        self.policy_actions: Bool[np.ndarray, "N A"] | None
        self.policy_actions = self._table("policy_actions", np.bool_)
        """What a policy wanted, where one was corrected."""
        self.intervention: Bool[np.ndarray, "N"] | None = self._table("intervention", np.bool_)
        """Whether somebody else than the policy drove, where one was corrected."""

    @property
    def length(self) -> int:
        """Ticks of the episode."""
        return len(self.actions)

    @property
    def state(self) -> Float[np.ndarray, "N S"] | None:
        """The game state at each tick, read anew each time: it weighs ten times what the actions
        do."""
        state = self._table("state", np.float32)
        if state is None or self._state_columns is None:
            return state
        return state[:, self._state_columns]

    @property
    def timestamps(self) -> Float[np.ndarray, "N"] | None:
        """Seconds at which each frame was taken, where the recorder knew."""
        return self._table("timestamps", np.float64)

    @property
    def has_state(self) -> bool:
        """Whether the game state was recorded."""
        return "state" in self._entry.arrays

    @property
    def is_checksummed(self) -> bool:
        """Whether damage to any byte of its arrays is noticed when they are read."""
        return self._entry.is_checksummed

    @property
    def judged(self) -> Bool[np.ndarray, "N"]:
        """Ticks at which `actions` says what should have been pressed. At the others a policy drove
        and nobody judged: they can be seen by a window, but are no example."""
        if self.intervention is None or self.attributes.get(JUDGED) == "all":
            return np.ones(self.length, bool)
        return self.intervention

    @property
    def corrected(self) -> Bool[np.ndarray, "N"]:
        """Ticks at which a policy was corrected: somebody else drove, or would have pressed
        otherwise."""
        corrected = np.zeros(self.length, bool)
        if self.intervention is not None:
            corrected |= self.intervention
        if self.policy_actions is not None:
            corrected |= self.judged & (self.actions != self.policy_actions).any(axis=1)
        return corrected

    @property
    def pressed(self) -> Bool[np.ndarray, "N A"]:
        """What was really pressed: what the policy wanted, where it drove and was recorded."""
        if self.policy_actions is None or self.intervention is None:
            return self.actions
        return np.where(self.intervention[:, None], self.actions, self.policy_actions)

    def renamed(
        self, name: str, columns: Sequence[int], state_columns: Sequence[int] | None
    ) -> "Episode":
        """The same episode under another name, its columns in another order."""
        other = copy.copy(self)
        other.name = name
        other.actions = self.actions[:, list(columns)]
        if self.policy_actions is not None:
            other.policy_actions = self.policy_actions[:, list(columns)]
        other._state_columns = None if state_columns is None else list(state_columns)
        return other

    def _table(self, name: str, dtype: type[np.generic]) -> Any:
        array = self._entry.arrays.get(name)
        return None if array is None else array.read().astype(dtype, copy=False)
