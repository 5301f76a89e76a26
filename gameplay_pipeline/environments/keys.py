"""Buttons as keys hold them down: written by the thread that hears of keys, read once a tick."""

import threading
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool


class HeldButtons:
    """Which buttons are down, and which were tapped for less than a tick."""

    def __init__(self, actions: int):
        self._lock = threading.Lock()
        self._down = np.zeros(actions, bool)
        self._tapped = np.zeros(actions, bool)
        """Those that went down since the last tick."""

    def hold(self, buttons: Iterable[int]) -> None:
        """Says which buttons are down from now on, by their numbers."""
        down = np.zeros_like(self._down)
        down[list(buttons)] = True
        with self._lock:
            self._tapped |= down & ~self._down
            self._down = down

    def set(self, button: int, down: bool) -> None:
        """Says that one button goes down or up."""
        with self._lock:
            self._tapped[button] |= down and not self._down[button]
            self._down[button] = down

    def release(self) -> None:
        """Lets go of everything, also of what was tapped since the last tick."""
        with self._lock:
            self._down[:] = self._tapped[:] = False

    def take(self) -> Bool[np.ndarray, "A"]:
        """The buttons that are down now, or went down since the last call."""
        with self._lock:
            taken = self._down | self._tapped
            self._tapped[:] = False
        return taken
