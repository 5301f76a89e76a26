"""How the process of a host ends where several train together: soon, and with a status that says
why, whatever JAX is doing at that moment."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

GRACE_S = 20.0
"""Seconds that a host has to end by itself once another one has ended, or once it wants to."""

_handlers: list[Any] = []
"""What C may call must not be collected."""


def leave_at_once(status: int) -> None:
    """Ends the process without anything that would otherwise be done first."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def leave_soon(status: int) -> None:
    """Has the interpreter's end be the process's, with this status, and by force where a thread
    holds that up: JAX's own farewell would wait minutes for hosts that will not come."""
    atexit.register(leave_at_once, status)
    leave_after(2 * GRACE_S, lambda: leave_at_once(status))


def leave_after(seconds: float, leave: Callable[[], None]) -> None:
    """Calls that later, unless the process has ended by then."""

    def wait() -> None:
        time.sleep(seconds)
        leave()

    threading.Thread(target=wait, daemon=True).start()


def replace_aborts(find_status: Callable[[], int | None]) -> None:
    """Has an abort of this process end it with another status, where there is one.

    JAX aborts every process (SIGABRT, status 134) as soon as that of host 0 is gone, with a stack
    trace that names no host. Its clients take a callback for that, but converting the error for
    one in Python fails (std::bad_cast; JAX 0.10.2 and 0.12), and a handler of Python's `signal`
    runs in the main thread only, which may wait for a collective.

    Args:
        find_status: called in the thread that aborts; None lets it.
    """
    if os.name != "posix":
        return

    def on_abort(_: int) -> None:
        status = find_status()
        if status is not None:
            leave_at_once(status)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
