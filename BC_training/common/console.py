"""Tables as a person at the keyboard sees them."""

import sys

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Columns that every table fits in."""


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
