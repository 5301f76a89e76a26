"""How the project's plots look; names that come from a dataset are made fit for them here."""

from typing import Any

INK = "#30343b"
"""Colour of text and axes."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b9bec6",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    # Names come from the dataset: a dollar sign in one is no formula.
    "text.parse_math": False,
}
"""Settings for `matplotlib.rc_context`."""

LONGEST_NAME = 24
"""How many characters of a name a plot shows."""


def label(name: str) -> str:
    """A name on one line, short enough for a plot."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"
