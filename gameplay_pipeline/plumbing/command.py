"""How every command of the project ends."""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from gameplay_pipeline.plumbing.errors import UserError

BEGINS_ANEW = "interrupted; nothing of it is kept, the same command begins anew"
"""What to say after Ctrl-C where the whole is written or nothing."""


def end_imports_on_signals(package: str) -> None:
    """Has a signal end a command at once while it still imports, which takes seconds: otherwise a
    library may swallow the KeyboardInterrupt, or it ends in a traceback. `run` puts an end to it.

    Does nothing where the package is imported by anything else than one of its own commands.

    Args:
        package: the `__file__` of its `__init__.py`.
    """
    script = Path(sys.argv[0] if sys.argv else "")
    is_command = script.name == "-m" or script.resolve().parent == Path(package).resolve().parent
    # A worker imports the command too, and knows of its parent only afterwards.
    is_worker = "--multiprocessing-fork" in sys.orig_argv
    if is_command and not is_worker:
        for number in ending_signals():
            signal.signal(number, _end_at_once)


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
    """Has every signal that ends a command raise KeyboardInterrupt, as Ctrl-C does."""
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in ending_signals()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ending_signals() -> list[signal.Signals]:
    """Ctrl-C, SIGTERM and a terminal that hangs up, which Windows lacks; without those that are
    ignored, as nohup has it."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN]


def _end_at_once(*_: object) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(130)


def to_be_continued(out: object) -> str:
    """What to say after Ctrl-C where a dataset is written that the same command continues."""
    return f"interrupted; the complete episodes are in {out}, run the same command to continue"
