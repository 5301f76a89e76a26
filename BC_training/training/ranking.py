"""Which offline figure ranks the checkpoints of a run as their fights do."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float
from rich.table import Table

from BC_training.common import console
from BC_training.common.metrics import METRICS

FIGHTS = ("fights/won", "fights/boss_health_removed", "fights/seconds", "fights/return")

FEWEST = 4
"""Checkpoints below which chance alone often ranks them alike."""

Correlations = dict[str, dict[str, float | None]]


def correlate(history: Sequence[Mapping[str, Any]]) -> tuple[Correlations, int]:
    """Spearman's rank correlation of each offline figure with each figure of the fights; 1 where
    the figure ranks checkpoints as the fights do, -1 where the other way round.

    Args:
        history: figures of each step, by name.

    Returns:
        Correlations by offline figure and figure of the fights, None where all checkpoints are
        equal in one or fewer than two have both; and how many checkpoints fought.
    """
    fought = [row for row in history if any(name in row for name in FIGHTS)]
    correlations: Correlations = {}
    for metric in METRICS:
        offline = f"val/{metric.log_key or metric.key}"
        correlations[offline] = {}
        for name in FIGHTS:
            pairs = [(row.get(offline), row.get(name)) for row in fought]
            both = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
            rho = spearman(both[:, 0], both[:, 1])
            sign = 1 if metric.higher_is_better else -1
            correlations[offline][name] = None if rho is None else sign * rho
    return correlations, len(fought)


def tell(history: Sequence[Mapping[str, Any]]) -> Correlations:
    """Prints the correlations of a run, or warns that there are too few fights for any."""
    correlations, count = correlate(history)
    if count > 1:
        console.make_console().print(table(correlations, count))
    if count < FEWEST:
        warnings.warn(
            f"{count} checkpoints fought: with fewer than {FEWEST}, chance ranks them alike",
            stacklevel=2,
        )
    return correlations


def spearman(one: Float[np.ndarray, "N"], other: Float[np.ndarray, "N"]) -> float | None:
    """Spearman's rank correlation; None where one side has no two different values."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    result: Any = scipy.stats.spearmanr(one, other)
    return float(result.statistic)


def table(correlations: Correlations, checkpoints: int) -> Table:
    """The correlations, a row for each offline figure."""
    made = console.make_table(
        f"Rank correlation with the fights of {checkpoints} checkpoints (1: ranks them alike)"
    )
    made.add_column("offline figure", overflow="fold")
    for name in FIGHTS:
        made.add_column(name.removeprefix("fights/").replace("_", " "), justify="right")
    for metric, row in zip(METRICS, correlations.values(), strict=True):
        low = "" if metric.higher_is_better else " (low is good)"
        cells = ["-" if rho is None else f"{rho:.2f}" for rho in row.values()]
        made.add_row(metric.key.replace("_", " ") + low, *cells)
    return made
