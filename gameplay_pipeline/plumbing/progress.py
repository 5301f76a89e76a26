"""How far a long job over episodes is."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""

Result = TypeVar("Result")


def track(
    results: Iterator[Result],
    doing: str,
    *,
    total: int,
    pending: int,
    frames_of: Callable[[Result], int],
) -> Iterator[Result]:
    """Passes results on, one an episode, showing how far they are and how fast.

    A bar on a terminal, sparse lines otherwise.

    Args:
        results: of the episodes that are still to be done.
        doing: the verb, such as "recording".
        total: all episodes.
        pending: how many of them are still to be done.
        frames_of: frames that a result stands for.
    """
    began = last = time.monotonic()
    frames = 0
    columns = (
        TextColumn(doing, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[speed]:.0f} frames/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(doing, total=total, completed=total - pending, speed=0.0)
        for number, result in enumerate(results, total - pending + 1):
            frames += frames_of(result)
            now = time.monotonic()
            speed = frames / max(now - began, 1e-9)
            bar.update(task, advance=1, speed=speed)
            if bar.disable and now - last > LINE_EVERY_S:
                last = now
                print(f"{doing} {number}/{total} episodes, {speed:.0f} frames/s", flush=True)
            yield result
