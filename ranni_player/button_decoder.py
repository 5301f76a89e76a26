"""From probabilities to buttons."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Rule = Literal["threshold", "sample"]
"""How probabilities become presses."""


class Decision(NamedTuple):
    """What a policy decides at a tick."""

    pressed: Bool[np.ndarray, "A"]
    """The buttons to press now."""
    probabilities: Float[np.ndarray, "A"]
    """How probable the policy holds each button, from which it decided."""


class ButtonDecoder:
    """Decides tick by tick which buttons are down."""

    def __init__(self, rule: Rule, thresholds: Float[np.ndarray, "A"], seed: int):
        """Begins a fight.

        Args:
            rule: threshold presses what is as probable as its threshold; sample presses with the
                probability itself.
            thresholds: the threshold of each action, which only the rule threshold reads.
            seed: seed of the draws of the rule sample.
        """
        self._rule, self._thresholds = rule, thresholds
        self._rng = np.random.default_rng(seed)

    def __call__(self, probabilities: Float[np.ndarray, "A"]) -> Bool[np.ndarray, "A"]:
        """Returns the buttons that are down at this tick."""
        if self._rule == "sample":
            return self._rng.random(len(probabilities)) < probabilities
        return probabilities >= self._thresholds
