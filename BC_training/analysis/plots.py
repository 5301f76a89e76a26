"""How the project's plots look; names that come from a dataset are made fit for them here."""

import functools
from typing import Any

from matplotlib import font_manager

INK = "#30343b"
"""Colour of text and axes."""

FONTS = (
    "DejaVu Sans",
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC"),
    *("Hiragino Sans GB", "Malgun Gothic", "Arial Unicode MS"),
)
"""Fonts to draw with, where they are installed: the first is matplotlib's own, the others have
what it lacks."""


@functools.cache
def fonts() -> tuple[str, ...]:
    """Those of FONTS that are installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in FONTS if name in installed)


@functools.cache
def _characters() -> frozenset[int]:
    """Code points that some installed font of FONTS can draw."""
    paths = (font_manager.findfont(name) for name in fonts())
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))


STYLE: Any = {
    "font.family": fonts(),
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


def drawable(name: str) -> str:
    """A label in which characters that no installed font has are escaped, as in \\u6253."""
    return "".join(
        character if ord(character) in _characters() else escaped(character)
        for character in label(name)
    )


def escaped(name: str) -> str:
    """A name in ASCII, for OpenCV, which draws nothing else."""
    return name.encode("ascii", "backslashreplace").decode()
