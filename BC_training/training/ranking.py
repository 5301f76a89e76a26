"""Which offline figure ranks the checkpoints of a run as their fights do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.table import Table

from BC_training.common import console

OFFLINE = {
    "val/loss": -1,
    "val/exact_match": 1,
    "val/macro_f1": 1,
    "val/micro_f1": 1,
    "val/presses/f1": 1,
    "val/releases/f1": 1,
    "val/frequency_l1": -1,
    "val/frequency_kl": -1,
}
"""Figures that may rank checkpoints; those with -1 are best when low."""

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
    found: Correlations = {}
    for offline, sign in OFFLINE.items():
        found[offline] = {}
        for name in FIGHTS:
            pairs = [(row.get(offline), row.get(name)) for row in fought]
            known = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
            rho = spearman(known[:, 0], known[:, 1])
            found[offline][name] = None if rho is None else sign * rho
    return found, len(fought)


def spearman(one: Float[np.ndarray, "N"], other: Float[np.ndarray, "N"]) -> float | None:
    """Spearman's rank correlation; None where one side has no two different values."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def table(correlations: Correlations, checkpoints: int) -> Table:
    """The correlations, a row for each offline figure."""
    made = console.make_table(
        f"Rank correlation with the fights of {checkpoints} checkpoints (1: ranks them alike)"
    )
    made.add_column("offline figure", no_wrap=True)
    for name in FIGHTS:
        made.add_column(name.removeprefix("fights/").replace("_", " "), justify="right")
    for offline, row in correlations.items():
        low = " (low is good)" if OFFLINE[offline] < 0 else ""
        cells = ["-" if rho is None else f"{rho:.2f}" for rho in row.values()]
        made.add_row(offline.removeprefix("val/").replace("/", " ") + low, *cells)
    return made


def _ranks(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """From 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
