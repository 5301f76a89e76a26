"""How far a long job is."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 20.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    doing: str,
    total: int,
    done: int = 0,
    frames_of: Callable[[Item], int] | None = None,
) -> Iterator[Item]:
    """Passes items on, showing how many have come: a bar on a terminal, sparse lines otherwise.

    Args:
        items: one for each part of the job that is still to be done.
        doing: what is done, such as "Recording episodes".
        total: number of parts of the whole job.
        done: parts that were done before.
        frames_of: frames that an item stands for, where their rate is to be shown too.
    """
    began = last = time.monotonic()
    frames, rate = 0, ""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(doing, total=total, completed=done, rate=rate)
        for number, item in enumerate(items, done + 1):
            yield item
            now = time.monotonic()
            if frames_of is not None:
                frames += frames_of(item)
                rate = f", {frames / max(now - began, 1e-9):,.0f} frames/s"
            bar.update(task, advance=1, rate=rate)
            if bar.disable and now - last > LINE_EVERY_S:
                last = now
                print(f"{doing} {number}/{total}{rate}", flush=True)
