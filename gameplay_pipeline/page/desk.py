"""What the game and the page tell one another: the game plays in one thread, the page is served by
another."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from gameplay_pipeline.environments.keys import HeldButtons
from gameplay_pipeline.plumbing.errors import UserError

Phase = Literal["ready", "playing", "paused", "over", "ended"]
"""Before a fight; in one; held up in one; after one, until somebody says what shall become of it;
after the last one."""

REQUESTS = {
    "start": ("ready", "over"),
    "pause": ("playing",),
    "resume": ("paused",),
    "abandon": ("playing", "paused"),
    "discard": ("over",),
    "finish": ("ready", "over"),
}
"""What a person can ask for, and in which phases."""


class FightAbandoned(UserError):  # noqa: N818 - what happened
    """The person ended a fight before its end."""


class Desk:
    """The place between the game's thread and the page's.

    `on_change` is called, by either thread, when there is something new to show.
    """

    def __init__(self, actions: int, on_change: Callable[[], None] = lambda: None):
        self.on_change = on_change
        self._picture: bytes | None = None
        self._buttons = HeldButtons(actions)
        self._condition = threading.Condition()
        self._phase: Phase = "ready"
        self._request: str | None = None
        self._shown: dict[str, Any] = {"notice": ""}

    # Of the page's thread.

    def hold(self, buttons: Iterable[int]) -> None:
        """Says which buttons the person holds from now on; none count outside of a fight."""
        with self._condition:
            if self._phase == "playing":
                self._buttons.hold(buttons)

    def ask(self, request: str) -> None:
        """Says what the person wants. What can't be had in this phase is not heard."""
        with self._condition:
            if self._phase not in REQUESTS[request]:
                return
            if request in ("pause", "resume"):
                self._to("paused" if request == "pause" else "playing")
            else:
                self._request = request
            self._condition.notify_all()
        self.on_change()

    def leave(self, why: str) -> None:
        """Lets go of every button and pauses: the person is away."""
        with self._condition:
            self._buttons.release()
            if self._phase != "playing":
                return
            self._to("paused", why)
            self._condition.notify_all()
        self.on_change()

    def newest(self) -> tuple[dict[str, Any], bytes | None]:
        """What is to be shown, as plain JSON, and the newest frame as JPEG."""
        with self._condition:
            return {**self._shown, "phase": self._phase}, self._picture

    # Of the game's thread.

    def show(self, picture: bytes | None = None, **shown: Any) -> None:
        """Shows a frame, if one is given, and whatever else has changed."""
        with self._condition:
            self._picture = picture or self._picture
            self._shown |= shown
        self.on_change()

    def rest(self, phase: Phase, notice: str = "") -> None:
        """Says that no fight is on."""
        with self._condition:
            self._request = None  # it was meant for the phase before
            self._to(phase, notice)
        self.on_change()

    def wait(self) -> str:
        """Waits for what the person wants, between fights: "start", "discard" or "finish"."""
        with self._condition:
            while self._request is None:
                self._condition.wait(0.5)  # signals are heard in between
            request, self._request = self._request, None
            if request == "start":
                self._to("playing")
        self.on_change()
        return request

    def wait_until(self, due: float, can_pause: bool = True) -> float:
        """Waits in a fight for a moment of `time.monotonic`, and for the end of a pause.

        Returns:
            The seconds of the pause; 0 where there was none.

        Raises:
            FightAbandoned: the person wants no more of it.
        """
        paused_at: float | None = None
        with self._condition:
            while True:
                if self._request == "abandon":
                    self._request = None
                    raise FightAbandoned("the fight was abandoned")
                now = time.monotonic()
                if can_pause and self._phase == "paused":
                    paused_at = now if paused_at is None else paused_at
                    self._condition.wait(0.5)
                elif paused_at is not None:
                    return now - paused_at
                elif now >= due:
                    return 0.0
                else:
                    self._condition.wait(due - now)

    def take(self) -> Bool[np.ndarray, "A"]:
        """The buttons that are down, or went down since the last tick."""
        with self._condition:
            return self._buttons.take()

    def _to(self, phase: Phase, notice: str = "") -> None:
        self._phase = phase
        self._buttons.release()
        self._shown["notice"] = notice
