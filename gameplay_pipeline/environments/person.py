"""A person who plays: at a page in a browser, or at this machine's keyboard."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float


class Shown(NamedTuple):
    """What a person is shown beside the game."""

    pressed: Bool[np.ndarray, "A"]
    """The buttons of the tick before."""
    is_person: bool = True
    """Whether it was the person who pressed them."""
    probabilities: Float[np.ndarray, "A"] | None = None
    """What the policy decides from at this tick, where one plays."""


@runtime_checkable
class Person(Protocol):
    """Somebody who can press buttons."""

    def reset(self) -> None:
        """Forgets what was pressed before the fight."""
        ...

    def choose(self, observation: Mapping[str, Any], shown: Shown) -> Bool[np.ndarray, "A"]:
        """Shows a tick to the person, and waits for its end.

        Returns:
            The buttons that are down when the tick ends, or went down in it.
        """
        ...


class HumanPlayer:
    """A person as the play loop knows players."""

    def __init__(self, person: Person, actions: int):
        """Takes a person and the number A of `actions`."""
        self._person, self._actions = person, actions

    def reset(self) -> None:
        self._person.reset()
        self._pressed = np.zeros(self._actions, bool)

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        self._pressed = self._person.choose(observation, Shown(self._pressed))
        return self._pressed
