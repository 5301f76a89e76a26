"""How every command of the project ends."""

import contextlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from gameplay_pipeline.plumbing.errors import UserError

BEGINS_ANEW = "interrupted; nothing of it is kept, the same command begins anew"
"""What to say after Ctrl-C where the whole is written or nothing."""


def run(main: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Runs a command. A mistake of the user is one message, and so is an interruption, by Ctrl-C,
    by SIGTERM or by a terminal that hangs up.

    Args:
        main: the work; it returns a number above zero where some of it could not be done.
        interrupted: what to say after an interruption.

    Returns:
        The exit status: 0, 1 after a mistake or where something is left undone, 130 after an
        interruption.
    """
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        with _ends_as_interruptions():
            return 1 if main() else 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


@contextlib.contextmanager
def _ends_as_interruptions() -> Iterator[None]:
    """Has SIGTERM, and SIGHUP where there is one, raise KeyboardInterrupt as Ctrl-C does."""
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    # What nohup had a command ignore stays ignored.
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in numbers
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def to_be_continued(out: object) -> str:
    """What to say after Ctrl-C where a dataset is written that the same command continues."""
    return f"interrupted; the complete episodes are in {out}, run the same command to continue"
