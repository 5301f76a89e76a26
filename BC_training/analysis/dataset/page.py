"""Describes a dataset on one HTML page that needs no other file."""

import base64
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import matplotlib
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from BC_training.analysis.dataset import advice, interventions, reaction
from BC_training.analysis.plots import INK, STYLE, label
from BC_training.common.episodes import Episodes
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.store.checks import stretches

TEMPLATE = Path(__file__).parent / "page.html.j2"

OFFSETS = (-8, -4, 0, 4, 8)
"""Which ticks around a press are shown."""

MAX_WIDTH = 240
"""The widest that a frame is shown, in pixels."""

FIRST, SECOND = "#3b6ea5", "#c2703d"

NAMED_EPISODES = 60
"""More episodes than these are shown as a histogram of their lengths."""


class Press(NamedTuple):
    """A press and the frames around it."""

    action: str
    episode: str
    tick: int
    frames: list[tuple[int, str]]
    """Offset in ticks, and the image as a data URL."""


def sample_presses(episodes: Episodes) -> list[Press]:
    """One press of each action, of median length, from the middle of the dataset."""
    presses = []
    is_bgr = episodes.spec().frame.color_order == "BGR"
    columns = range(len(episodes.actions))
    for column in track(columns, "Picking frames", len(columns)):
        number, tick = _typical_press(episodes, column)
        if number is None:
            continue
        length = episodes.episodes[number].length
        ticks = [tick + offset for offset in OFFSETS if 0 <= tick + offset < length]
        images = episodes.read_frames(number, np.array(ticks))
        shown = [
            (at - tick, _as_address(image, is_bgr)) for at, image in zip(ticks, images, strict=True)
        ]
        name = episodes.actions[column]
        presses.append(Press(name, episodes.episodes[number].name, tick, shown))
    return presses


def _typical_press(episodes: Episodes, column: int) -> tuple[int | None, int]:
    """Episode and tick of the press of median length; of several, the one in the middle."""
    presses = []
    for number, episode in enumerate(episodes.episodes):
        pressed = episode.actions[:, column]
        presses += [(last - first, number, first) for first, last in stretches(pressed)]
    if not presses:
        return None, 0
    median = sorted(press[0] for press in presses)[len(presses) // 2]
    alike = [press for press in presses if press[0] == median]
    return alike[len(alike) // 2][1:]


def _as_address(frame: UInt8[np.ndarray, "H W C"], is_bgr: bool) -> str:
    height, width = frame.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, round(height * MAX_WIDTH / width))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    bgr = frame if is_bgr else frame[..., ::-1]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def render(summary: Mapping[str, Any], presses: list[Press]) -> str:
    """The text of the page.

    Args:
        summary: the figures of `statistics.summarize`, and as `delays` those of
            `reaction.estimate`.
        presses: sample frames, as `sample_presses` gives them.
    """
    suggested = advice.advise(summary)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        presses=presses,
        plots=_plots(summary),
        delays={a: reaction.in_words(row, summary["fps"]) for a, row in summary["delays"].items()},
        corrections=interventions.in_words(summary["interventions"])
        if summary["interventions"]
        else [],
        advice=suggested,
        yaml=advice.as_yaml(suggested),
    )


def _plots(summary: Mapping[str, Any]) -> dict[str, Markup]:
    style = STYLE | {"svg.fonttype": "none", "svg.hashsalt": "page"}
    with matplotlib.rc_context(style):
        plots = {
            "lengths": _lengths(summary),
            "frequencies": _frequencies(summary),
            "durations": _durations(summary),
            "pressed_given": _pressed_given(summary),
            "rate": _rate(summary),
            "delays": _delays(summary),
        }
        if _varying(summary):
            plots["state"] = _state(summary)
        if _dodged(summary):
            plots["dodges"] = _dodges(summary)
    return plots


def _svg(figure: Figure) -> Markup:
    """A figure as part of the page. Matplotlib escapes its texts."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Texts are drawn by the browser, which has more fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def _grid(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` small plots."""
    rows = -(-count // columns)
    figure = Figure(figsize=(10, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, at + 1) for at in range(count)]
    return figure, axes


def _single(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = _grid(1, 1, height)
    return figure, axes


def _lengths(summary: Mapping[str, Any]) -> Markup:
    lengths = summary["lengths"]["all"]
    figure, axes = _single(2.4)
    if len(lengths) <= NAMED_EPISODES:
        axes.bar(range(len(lengths)), list(lengths.values()), color=FIRST)
        axes.set(xlabel="episode, in order", ylabel="ticks")
    else:
        shortest, longest = summary["lengths"]["min"], summary["lengths"]["max"]
        step = -(-(longest - shortest + 1) // 30)
        edges = (np.arange(shortest, longest + step + 1, step) - 0.5).tolist()
        axes.hist(list(lengths.values()), edges, color=FIRST)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="ticks", ylabel="episodes")
    return _svg(figure)


def _frequencies(summary: Mapping[str, Any]) -> Markup:
    names = list(summary["actions"])
    values = [100 * summary["actions"][name]["frequency"] for name in names]
    figure, axes = _single(0.5 + 0.3 * len(names))
    bars = axes.barh(range(len(names)), values, color=FIRST)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.bar_label(bars, [f"{value:.2f} %" for value in values], padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="% of ticks", xlim=(0, 1.15 * max(*values, 1e-3)))
    return _svg(figure)


def _durations(summary: Mapping[str, Any]) -> Markup:
    figure, grid = _grid(len(summary["actions"]), 4, 1.7)
    fps = summary["fps"]
    for axes, (name, row) in zip(grid, summary["actions"].items(), strict=True):
        counts = {int(ticks): count for ticks, count in row["press_ticks"].items()}
        if counts:
            ticks = np.repeat(list(counts), list(counts.values()))
            most = max(int(np.quantile(ticks, 0.98)), 2)
            step = -(-most // 30)
            edges = np.arange(0.5, most + step + 0.5, step).tolist()
            axes.hist(np.minimum(ticks, most), edges, color=FIRST)
        median = row["median_press_ticks"]
        said = "never pressed" if median is None else f"median {median:g} ticks"
        if median is not None and fps is not None:
            said += f", {1000 * median / fps:.0f} ms"
        axes.set_title(f"{label(name)}\n{said}")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[-1].set_xlabel("ticks")
    return _svg(figure)


def _pressed_given(summary: Mapping[str, Any]) -> Markup:
    names = [label(name) for name in summary["actions"]]
    values = np.array(
        [[np.nan if v is None else 100 * v for v in row] for row in summary["pressed_given"]]
    )
    side = 1.6 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "white" if value > 55 else INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="% of those ticks in which this is pressed too", ylabel="when this is pressed")
    return _svg(figure)


def _rate(summary: Mapping[str, Any]) -> Markup:
    figure, grid = _grid(len(summary["rate_over_the_fight"]), 4, 1.5)
    for axes, (name, rates) in zip(grid, summary["rate_over_the_fight"].items(), strict=True):
        values = [np.nan if rate is None else 100 * rate for rate in rates]
        middles = (np.arange(len(values)) + 0.5) * 100 / len(values)
        axes.plot(middles, values, color=FIRST)
        axes.set_xlim(0, 100)
        axes.set_title(label(name))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(3))
    grid[-1].set_xlabel("% of the fight")
    grid[0].set_ylabel("% of ticks")
    return _svg(figure)


def _delays(summary: Mapping[str, Any]) -> Markup:
    figure, grid = _grid(len(summary["delays"]), 4, 1.6)
    for axes, (name, row) in zip(grid, summary["delays"].items(), strict=True):
        axes.plot(row["correlation"], color=FIRST)
        if row["ticks"] is not None:
            axes.axvspan(row["low"] - 0.3, row["high"] + 0.3, color=SECOND, alpha=0.2, lw=0)
            axes.axvline(row["ticks"], color=SECOND)
        said = "no estimate" if row["ticks"] is None else f"{row['ticks']} ticks"
        axes.set_title(f"{label(name)}: {said}")
        axes.set_xlim(0, reaction.LAGS)
        axes.yaxis.set_major_locator(MaxNLocator(3))
    grid[-1].set_xlabel("ticks before the press")
    grid[0].set_ylabel("correlation")
    return _svg(figure)


def _varying(summary: Mapping[str, Any]) -> list[str]:
    """State attributes whose histogram tells something: neither constants nor ids."""
    return [
        name
        for name, row in summary["state"].items()
        if row["distinct"] > 1 and row["vocabulary"] is None
    ]


def _state(summary: Mapping[str, Any]) -> Markup:
    varying = _varying(summary)
    figure, grid = _grid(len(varying), 5, 1.3)
    for axes, name in zip(grid, varying, strict=True):
        histogram = summary["state"][name]["histogram"]
        axes.stairs(histogram["counts"], histogram["edges"], fill=True, color=FIRST)
        axes.set_title(label(name))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(2))
        axes.tick_params(labelsize=7)
    return _svg(figure)


def _dodged(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The boss animations during which a dodge began."""
    animations = summary["dodges"]["animations"] if summary["dodges"] else {}
    return {number: row for number, row in animations.items() if row["delays"]}


def _dodges(summary: Mapping[str, Any]) -> Markup:
    animations = _dodged(summary)
    figure, grid = _grid(len(animations), 4, 1.6)
    longest = max((delay for row in animations.values() for delay in row["delays"]), default=1)
    for axes, (number, row) in zip(grid, animations.items(), strict=True):
        axes.hist(row["delays"], bins=range(0, longest + 2), color=SECOND)
        axes.set_title(f"{number}: dodged {row['dodged']} of {row['times']}")
        axes.set_xlim(0, longest + 1)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    grid[-1].set_xlabel("ticks since it began")
    return _svg(figure)
