"""This machine's keyboard, for a person who plays beside a policy on the game's own machine.

The game gets the person's keys by itself; the hook only tells which ones they are. Keys that a
program sends (injected ones, such as those of a policy) are not the person's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from gameplay_pipeline.environments.keys import HeldButtons
from gameplay_pipeline.environments.person import Shown
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.optional import require


class KeyboardHook:
    """A person at this machine's keyboard. A context manager."""

    def __init__(self, keys: Mapping[str, str], actions: tuple[str, ...]):
        """Listens to nothing yet.

        Args:
            keys: the key of each button, as pynput names it: a letter, or such as space and shift.
            actions: the A buttons in their order.

        Raises:
            UserError: pynput is not installed, or a button has no key of its own.
        """
        if unknown := [action for action in keys if action not in actions]:
            raise UserError(
                f"--keys: there is no button {', '.join(unknown)}; there are {', '.join(actions)}"
            )
        if missing := [action for action in actions if action not in keys]:
            raise UserError(f"--keys: no key for {', '.join(missing)}; every button needs one")
        self._button_of = {keys[action].lower(): n for n, action in enumerate(actions)}
        if len(self._button_of) < len(actions):
            raise UserError("--keys: two buttons have the same key")
        self._buttons = HeldButtons(len(actions))
        keyboard: Any = require("pynput.keyboard", "hook")
        named = keyboard.Key.__members__
        if wrong := [key for key in self._button_of if len(key) > 1 and key not in named]:
            raise UserError(
                f"--keys: no key is called {', '.join(wrong)}; besides single characters there are "
                f"{', '.join(named)}"
            )
        self._listener = keyboard.Listener(
            on_press=lambda key, injected: self._set(key, injected, True),
            on_release=lambda key, injected: self._set(key, injected, False),
        )

    def __enter__(self) -> "KeyboardHook":
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()

    def reset(self) -> None:
        """Forgets what was tapped while the game was loading."""
        self._buttons.take()

    def choose(self, observation: Mapping[str, Any], shown: Shown) -> Bool[np.ndarray, "A"]:
        """The buttons of the person's keys; the game itself keeps the time and shows itself."""
        return self._buttons.take()

    def _set(self, key: Any, injected: bool, down: bool) -> None:
        # A character has `char`, any other key `name`; some have neither.
        name = getattr(key, "char", None) or getattr(key, "name", None) or ""
        button = self._button_of.get(name.lower())
        if button is not None and not injected:
            self._buttons.set(button, down)
