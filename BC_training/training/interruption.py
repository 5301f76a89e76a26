"""Signals that end a run: the first one as soon as a checkpoint is there, the second at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from BC_training.training.hosts import Hosts
from gameplay_pipeline.plumbing.command import ending_signals


class Interruption:
    """Turns the first Ctrl-C, SIGTERM or hang-up, but for those that are ignored, into a request.
    A context manager."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts, self._received = hosts, False
        self.awaited = "this step"
        """What a signal waits for, in words."""
        self._at_once: str | None = None

    def must_stop(self) -> bool:
        """Whether to stop now: true on all hosts at the same call, which all make equally often."""
        return self._hosts.must_stop(self._received)

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in ending_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, said: str) -> Iterator[None]:
        """While all that was learned is in a checkpoint: a signal raises KeyboardInterrupt, once it
        was said what becomes of the work at hand."""
        self._at_once = said
        try:
            if self._received:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = None

    def _note(self, *_: object) -> None:
        if self._received or self._hosts.ended is not None:
            raise KeyboardInterrupt
        self._received = True
        if self._at_once is not None:
            print(self._at_once, file=sys.stderr)
            raise KeyboardInterrupt
        print(f"stopping after {self.awaited}; a checkpoint will be written", file=sys.stderr)
