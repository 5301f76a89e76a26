"""What fights come to: means with intervals, and tables of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from rich.table import Table

from BC_training.common import console
from BC_training.play.fight import FightResult
from ranni_player.fight import percentiles

RESAMPLES = 10_000

Summary = dict[str, dict[str, Any]]
"""By player: how many fights, and each figure with its interval."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 percent confidence interval."""

    mean: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """A share with its Wilson score interval (Wilson 1927)."""
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high))


def bootstrap(values: Sequence[float]) -> Interval:
    """A mean with its percentile bootstrap interval (Efron 1979)."""
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if np.ptp(sample) == 0:
        return Interval(mean, mean, mean)
    interval = scipy.stats.bootstrap(
        (sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))


def summarize(fights: Sequence[FightResult]) -> Summary:
    """Returns a row for each player: fights, and means with 95 percent intervals; None where there
    is no figure."""

    def mean(values: Sequence[float | None]) -> dict[str, float] | None:
        told = [value for value in values if value is not None]
        return dataclasses.asdict(bootstrap(told)) if told else None

    summary = {}
    for player in dict.fromkeys(fight.player for fight in fights):
        played = [fight for fight in fights if fight.player == player]
        won = [fight.won for fight in played if fight.won is not None]
        counts = sorted({key for fight in played for key in fight.counts})
        summary[player] = {
            "fights": len(played),
            "won": dataclasses.asdict(wilson(sum(won), len(won))) if won else None,
            "boss_health_removed": mean([fight.boss_health_removed for fight in played]),
            "seconds": mean([fight.seconds for fight in played]),
            "reward": mean([fight.reward for fight in played]),
            "presses": mean([fight.presses for fight in played]),
            "latency_ms": percentiles([ms for fight in played for ms in fight.latencies_ms]),
            "late": float(np.mean([fight.late for fight in played])),
            "counts": {key: sum(fight.counts.get(key, 0) for fight in played) for key in counts},
        }
    return summary


def fight_tables(summary: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The summary as two tables: how the fights went, and how they were played."""
    columns = {
        "won": ("won %", 100.0, 0),
        "boss_health_removed": ("boss health removed %", 100.0, 1),
        "seconds": ("survived s", 1.0, 1),
        "reward": ("return", 1.0, 2),
    }
    told = [key for key in columns if any(row[key] is not None for row in summary.values())]
    outcome = console.make_table("Fights: mean [95 percent interval]")
    outcome.add_column("player", overflow="fold")
    outcome.add_column("fights", justify="right")
    for key in told:
        outcome.add_column(columns[key][0], justify="right")
    play = console.make_table("Play")
    play.add_column("player", overflow="fold")
    for title in ("presses/s", "act ms p50", "p95", "p99", "ticks too late %"):
        play.add_column(title, justify="right")
    for player, row in summary.items():
        cells = ["-" if row[key] is None else _cell(row[key], *columns[key][1:]) for key in told]
        outcome.add_row(player, str(row["fights"]), *cells)
        latency = [f"{value:.2f}" for value in row["latency_ms"].values()]
        late = f"{100 * row['late']:.1f}"
        play.add_row(player, _cell(row["presses"], 1.0, 2), *latency, late)
    return [outcome, play]


def means(row: Mapping[str, Any]) -> dict[str, float | None]:
    """A row of `summarize` without its intervals, as a checkpoint keeps it."""
    keys = ("won", "boss_health_removed", "seconds", "reward", "presses")
    figures = {key: None if row[key] is None else row[key]["mean"] for key in keys}
    figures["return"] = figures.pop("reward")
    return figures


def in_a_line(row: Mapping[str, Any]) -> str:
    """A row of `summarize` beneath the table of a training run."""
    cells = []
    if row["won"] is not None:
        cells.append(f"won {_cell(row['won'], 100.0, 0)} %")
    if row["boss_health_removed"] is not None:
        cells.append(f"boss health removed {_cell(row['boss_health_removed'], 100.0, 1)} %")
    cells += [f"{row['seconds']['mean']:.1f} s", f"return {row['reward']['mean']:.4g}"]
    return f"{'fights':>9}  {', '.join(cells)}"


def _cell(interval: Mapping[str, float], scale: float, digits: int) -> str:
    mean, low, high = (f"{scale * interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
