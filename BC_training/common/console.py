"""What a person at the keyboard sees: messages, progress, errors."""

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from gameplay_pipeline.plumbing.errors import UserError

Item = TypeVar("Item")

WIDTH = 100
"""Columns that every table fits in."""

LINE_EVERY_S = 30.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""


def make_console() -> Console:
    """A console on standard output; tables keep their width when it is a file or a pipe.

    Text is printed as it is: names come from datasets, and `[key]` in one is no markup.
    """
    terminal = sys.stdout.isatty()
    return Console(
        width=None if terminal else WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not terminal,
    )


def make_table(title: str) -> Table:
    """A table narrow enough for a dozen columns of figures."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def progress(items: Iterable[Item], description: str, total: int, start: int = 0) -> Iterator[Item]:
    """Passes items on, showing how far they are: a bar on a terminal, sparse lines otherwise."""
    if sys.stdout.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(description, total=total, completed=start)
            for item in items:
                yield item
                bar.advance(task)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start + 1):
        yield item
        now = time.monotonic()
        if now - last > LINE_EVERY_S:
            last = now
            print(f"{description} {done}/{total}", flush=True)


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits: mistakes of the user print one message, Ctrl-C none."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
