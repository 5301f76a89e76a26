"""Episodes made by several processes at a time."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import cv2

from gameplay_pipeline.plumbing.errors import UserError

PATIENCE_S = 5.0
"""Seconds that a worker gets to end by itself."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    do: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> Generator[Result]:
    """Yields `do` of each item as it is done, in no order. Close it to end the processes.

    Args:
        do: can be pickled, as can items and results.
        items: one after another goes to the process that is free.
        workers: processes; the usable cores if not given. With one, or one item, all is done here.

    Raises:
        UserError: `do` raised it, or a process died.
    """
    count = min(workers or usable_cores(), len(items))
    if count > 1:
        yield from _in_processes(do, items, count)
    else:
        for item in items:
            yield do(item)


def usable_cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_processes(
    do: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Result]:
    # Spawned, not forked: the caller may hold threads and an accelerator.
    context = multiprocessing.get_context("spawn")
    queue = deque(items)
    running: dict[Connection, BaseProcess] = {}
    try:
        with _ignoring_interrupts():
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, do), daemon=True)
                process.start()
                theirs.close()
                running[ours] = process
        for connection in running:
            connection.send(queue.popleft())
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                try:
                    result = connection.recv()
                except (EOFError, ConnectionError):
                    running[connection].join()
                    raise UserError(
                        f"a worker died (exit code {running[connection].exitcode}), perhaps for "
                        "want of memory; try again with fewer --workers"
                    ) from None
                if isinstance(result, UserError):
                    raise result
                if queue:
                    connection.send(queue.popleft())
                else:
                    connection.close()
                    running.pop(connection).join()
                yield result
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(PATIENCE_S)
            process.kill()
            process.join()


def _work(connection: Connection, do: Callable[[Any], Any]) -> None:
    """A worker: does the items that it gets until the connection closes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that locks are given back
    threading.Thread(target=end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the cores are busy with the other workers
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            connection.send(do(item))
        except UserError as error:
            connection.send(error)


def end_with_parent() -> None:
    """Ends a worker at once when its run is killed, before a new run writes the same episode."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Lets processes start deaf to Ctrl-C, which the terminal sends to them too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
