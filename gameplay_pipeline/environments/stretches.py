"""Ticks in a row at which something else happens than at the others."""

import numpy as np


class Stretches:
    """Says of one tick after another whether it lies in a stretch; stretches begin at random."""

    def __init__(self, share: float, lengths: tuple[int, int], rng: np.random.Generator):
        """Draws nothing yet.

        Args:
            share: of all ticks that lie in a stretch, 0 to 1.
            lengths: shortest and longest stretch, in ticks.
            rng: draws when a stretch begins, and how long it is.
        """
        self._lengths, self._rng, self._left = lengths, rng, 0
        mean = sum(lengths) / 2
        # Beginning so often that the share comes out, ticks between two stretches not counted.
        self._odds = share / (mean * (1 - share) + share)
        self.begins = False
        """Whether the last tick was the first of a stretch."""

    def __call__(self) -> bool:
        """Returns whether the next tick lies in a stretch."""
        self.begins = self._left == 0 and self._rng.random() < self._odds
        if self.begins:
            low, high = self._lengths
            self._left = int(self._rng.integers(low, high + 1))
        if self._left == 0:
            return False
        self._left -= 1
        return True
