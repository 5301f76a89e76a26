"""Signals that end a run: the first one as soon as a checkpoint is there, the second at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import TracebackType


class Interruption:
    """Turns the first Ctrl-C, SIGTERM or hang-up into a request. A context manager."""

    def __init__(self) -> None:
        self.received = False
        self._at_once = False

    def __enter__(self) -> "Interruption":
        signals = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP"):  # Windows has none
            signals.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While all that was learned is in a checkpoint: a signal raises KeyboardInterrupt."""
        self._at_once = True
        try:
            if self.received:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _note(self, *_: object) -> None:
        if self.received or self._at_once:
            self.received = True
            raise KeyboardInterrupt
        self.received = True
        print("stopping after this step; a checkpoint will be written", file=sys.stderr)
