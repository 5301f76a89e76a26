"""Work done by several processes at a time."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from gameplay_pipeline.plumbing.errors import UserError

PATIENCE_S = 5.0
"""Seconds that a worker gets to end by itself."""

SAID_AFTER_S = 1.0
"""Seconds of waiting for workers after which that is said."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Worker = AbstractContextManager[Callable[[Item], Result]]
"""Does one item after another; what it holds for that is given back at its exit."""


class WorkerDied(UserError):  # noqa: N818 - what happened
    """A worker process ended in the middle of its work."""


def in_processes(
    do: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> Generator[Result]:
    """Yields `do` of each item as it is done, in no order. Close it to end the processes.

    Args:
        do: can be pickled, as can items and results.
        items: one after another goes to the process that is free.
        workers: processes; the usable cores if not given. With one, or one item, all is done here.

    Raises:
        UserError: `do` raised it.
        WorkerDied: a process died.
    """
    return spread(functools.partial(contextlib.nullcontext, do), items, workers)


def spread(
    open_worker: Callable[[], Worker[Item, Result]], items: Sequence[Item], workers: int | None
) -> Generator[Result]:
    """`in_processes` for work that needs something opened first, once in each process.

    Args:
        open_worker: can be pickled; makes what does the items.
        items: one after another goes to the process that is free.
        workers: processes; the usable cores if not given. With one, or one item, all is done here.

    Raises:
        UserError: the worker raised it.
        WorkerDied: a process died.
    """
    count = min(workers or usable_cores(), len(items))
    if count > 1:
        yield from in_worker_processes(open_worker, items, count)
    elif items:
        with open_worker() as do:
            for item in items:
                yield do(item)


def usable_cores() -> int:
    """Number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_worker_processes(
    open_worker: Callable[[], Worker[Item, Result]], items: Sequence[Item], workers: int
) -> Generator[Result]:
    """`spread` without the exception for a single worker: nothing is done in this process."""
    # Spawned, not forked: the caller may hold threads and an accelerator.
    context = multiprocessing.get_context("spawn")
    queue = deque(items)
    running: dict[Connection, BaseProcess] = {}
    try:
        with _ignoring_interrupts():
            for _ in range(min(workers, len(items))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, open_worker), daemon=True)
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
                    raise WorkerDied(
                        f"a worker process died (exit code {running[connection].exitcode}), "
                        "perhaps for want of memory; fewer workers need less"
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
        _end([*running.values()])


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ends processes: asks them to, and after a while makes them."""
    began = time.monotonic()
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(max(began + SAID_AFTER_S - time.monotonic(), 0))
    if left := sum(process.is_alive() for process in processes):
        print(
            f"waiting up to {PATIENCE_S:g} s for {left} worker processes to end",
            file=sys.stderr,
            flush=True,
        )
    for process in processes:
        process.join(max(began + PATIENCE_S - time.monotonic(), 0))
        _kill(process)


def _kill(process: BaseProcess) -> None:
    """Ends a worker with every process that it started: a game that outlives it would run on
    unseen."""
    assert process.pid is not None
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _work(connection: Connection, open_worker: Callable[[], Worker[Any, Any]]) -> None:
    """A worker process: does the items that it gets until the connection closes."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a group of its own, for `_kill`
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what it holds is given back
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)  # the cores are busy with the other workers
    try:
        with open_worker() as do:
            while True:
                try:
                    item = connection.recv()
                except (EOFError, ConnectionError):
                    return
                connection.send(do(item))
    except UserError as error:
        connection.send(error)


def _end_with_parent() -> None:
    """Ends a worker at once when its run is killed, before a new run writes the same episode."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # with the processes that it started
    os._exit(1)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Has processes start deaf to Ctrl-C, which the terminal sends to them too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
