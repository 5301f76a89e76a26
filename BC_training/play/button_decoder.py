"""From probabilities to buttons."""

import numpy as np
from jaxtyping import Bool, Float

from BC_training.common.config import PlayConfig


class Decision:
    """Decides tick by tick which buttons are down."""

    def __init__(self, play: PlayConfig, thresholds: Float[np.ndarray, "A"], seed: int):
        """Begins a fight with every button up.

        Args:
            play: the rule.
            thresholds: per action; of the rule threshold.
            seed: of the rule sample.
        """
        self._play, self._thresholds = play, thresholds
        self._rng = np.random.default_rng(seed)
        self.pressed: Bool[np.ndarray, "A"] = np.zeros(len(thresholds), bool)
        self._since = np.full(len(thresholds), np.iinfo(np.int64).max // 2)
        """Ticks since each button last changed."""

    def __call__(self, probabilities: Float[np.ndarray, "A"]) -> Bool[np.ndarray, "A"]:
        """The buttons that are down at this tick."""
        play, pressed = self._play, self.pressed
        if play.rule == "sample":
            with np.errstate(divide="ignore"):
                odds = np.log(probabilities) - np.log1p(-probabilities)
            sharpened = 1 / (1 + np.exp(-np.clip(odds / play.temperature, -50, 50)))
            wanted = self._rng.random(len(pressed)) < sharpened
        else:
            lower = self._thresholds * np.where(pressed, 1 - play.hysteresis, 1.0)
            wanted = probabilities >= lower
        least = np.where(pressed, play.min_hold, play.min_release)
        self.pressed = np.where(self._since >= least, wanted, pressed)
        self._since = np.where(self.pressed == pressed, self._since + 1, 1)
        return self.pressed
