"""Pictures of what a policy made of the validation split."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from BC_training.analysis.plots import STYLE, drawable
from BC_training.common import metrics
from gameplay_pipeline.store.checks import stretches

TICKS_A_ROW = 300
"""How many ticks a row of a timeline shows; longer episodes go on beneath."""
MOST_ROWS = 5
"""How many rows a timeline has; the rest of a longer episode is not drawn."""
TRUE, RIGHT, WRONG, FAINT = "#4a5568", "#2f9e63", "#d9622b", "#9aa5b4"


def draw(
    probabilities: Float[np.ndarray, "N A"],
    actions: Bool[np.ndarray, "N A"],
    episode: Int[np.ndarray, "N"],
    *,
    title: str,
    names: Sequence[str],
    thresholds: Float[np.ndarray, "A"],
    threshold: float,
    fps: float | None,
) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """RGB pictures by name: the timeline of the first episode, precision against recall,
    frequencies.

    Args:
        probabilities: how probable it is that each action is pressed.
        actions: the recorded actions.
        episode: the episode of each row, as in `metrics.evaluate`.
        title: the timeline's title.
        names: names of the A actions.
        thresholds: the probability from which each action counts as pressed in the timeline.
        threshold: the same for all actions where frequencies are compared; calibrated thresholds
            would make them equal whatever the policy is.
        fps: ticks a second; with None a timeline counts ticks.
    """
    first = episode == episode[0]
    predicted = (probabilities >= threshold).mean(axis=0)
    figures = {
        "timeline": timeline(
            probabilities[first],
            actions[first],
            title=title,
            names=names,
            thresholds=thresholds,
            fps=fps,
        ),
        "precision_recall": precision_recall(probabilities, actions, names),
        "frequency": frequency(predicted, actions.mean(axis=0), names, threshold),
    }
    return {name: _pixels(figure) for name, figure in figures.items()}


def timeline(
    probabilities: Float[np.ndarray, "N A"],
    actions: Bool[np.ndarray, "N A"],
    *,
    title: str,
    names: Sequence[str],
    thresholds: Float[np.ndarray, "A"],
    fps: float | None,
) -> Figure:
    """One episode, named by the title: what was recorded, beneath it what is predicted, and how
    likely that was. Other arguments as in `draw`."""
    length, rate = len(actions), fps or 1.0
    rows = min(-(-length // TICKS_A_ROW), MOST_ROWS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.6 + rows * (0.5 + 0.3 * len(names))), layout="constrained")
        for row in range(rows):
            axes = figure.add_subplot(rows, 1, row + 1)
            ticks = np.arange(row * TICKS_A_ROW, min((row + 1) * TICKS_A_ROW, length))
            for a in range(len(names)):
                chance, true = probabilities[ticks, a], actions[ticks, a]
                pressed = chance >= thresholds[a]
                seconds = ticks / rate
                _bars(axes, seconds, true, a - 0.42, TRUE, 1 / rate)
                _bars(axes, seconds, pressed & true, a + 0.04, RIGHT, 1 / rate)
                _bars(axes, seconds, pressed & ~true, a + 0.04, WRONG, 1 / rate)
                axes.step(
                    seconds, a + 0.42 - 0.38 * chance, where="post", color=FAINT, linewidth=0.7
                )
                axes.axhline(a, color="#e3e6ea", linewidth=0.6, zorder=0)
            axes.set_yticks(range(len(names)), [drawable(name) for name in names])
            axes.set(
                xlim=(ticks[0] / rate, (ticks[0] + min(length, TICKS_A_ROW)) / rate),
                ylim=(len(names) - 0.4, -0.6),
            )
            axes.tick_params(axis="y", length=0)
        drawn = "" if rows * TICKS_A_ROW >= length else f" (its first {rows * TICKS_A_ROW} ticks)"
        figure.axes[0].set_title(
            f"{title}{drawn}. Dark: pressed by the player. Beneath: by the policy, "
            "green where the player did, orange where not.\nGrey line: its probability"
        )
        figure.axes[-1].set_xlabel("ticks" if fps is None else "seconds")
    return figure


def precision_recall(
    probabilities: Float[np.ndarray, "N A"],
    actions: Bool[np.ndarray, "N A"],
    names: Sequence[str],
) -> Figure:
    """Precision against recall of each action that is ever pressed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        colors = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
        for a in np.flatnonzero(actions.any(axis=0)).tolist():
            precision, recall = metrics.precision_recall(probabilities[:, a], actions[:, a])
            axes.plot(
                *(np.append(recall[:1] * 0, recall), np.append(precision[:1], precision)),
                color=colors(a % colors.N), label=drawable(names[a]), linewidth=1.4,
            )  # fmt: skip
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        axes.set_title("Each action alone, at any threshold")
        if axes.lines:
            figure.legend(loc="outside right upper", frameon=False)
    return figure


def frequency(
    predicted: Float[np.ndarray, "A"],
    true: Float[np.ndarray, "A"],
    names: Sequence[str],
    threshold: float,
) -> Figure:
    """How often each action is pressed, by the policy and by the player, as shares of all ticks."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.5 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(names))
        for offset, share, color, player in (
            (-0.2, true, TRUE, "player"),
            (0.2, predicted, RIGHT, f"policy, from {threshold:g}"),
        ):
            bars = axes.barh(places + offset, 100 * share, 0.36, color=color, label=player)
            axes.bar_label(bars, [f"{100 * value:.1f}" for value in share], padding=3)
        axes.set_yticks(places, [drawable(name) for name in names])
        axes.invert_yaxis()
        most = 100 * max(predicted.max(), true.max(), 1e-3)
        axes.set(xlabel="% of ticks", xlim=(0, 1.12 * most))
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _bars(
    axes: Axes,
    seconds: Float[np.ndarray, "N"],
    flags: Bool[np.ndarray, "N"],
    top: float,
    color: str,
    tick: float,
) -> None:
    """A bar for each run of True."""
    runs = [(seconds[first], (last - first) * tick) for first, last in stretches(flags)]
    axes.broken_barh(runs, (top, 0.38), color=color, linewidth=0)
