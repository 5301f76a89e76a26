"""How long buttons take to follow what happens on screen: an estimate, with its uncertainty.

What happens is how much each part of the screen changes from one frame to the next. For each lag, a
ridge regression predicts where presses begin from the changes so many ticks before; it is fitted
without the episodes it is judged on. The delay is the lag whose predictions correlate best. Where
the best is no better than what presses moved by half an episode give, there is no estimate.

The screen also shows what buttons do, but only after they are pressed: lags are never negative.
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from BC_training.analysis.statistics import onsets
from BC_training.common.console import progress
from BC_training.common.episodes import Episodes

LAGS = 20
"""The longest delay considered, in ticks."""

PARTS = (10, 6)
"""Columns and rows of the parts of the screen."""

MAX_EPISODES, MAX_TICKS = 24, 1000
"""Looked at, evenly spaced, and of each from its start."""

MIN_EPISODES, MIN_PRESSES = 4, 20

RIDGE = 0.1
"""Of the mean diagonal."""

RESAMPLES = 200
"""Of the episodes, for the interval."""

BLOCK = 128


def estimate(episodes: Episodes) -> dict[str, dict[str, Any]]:
    """By action: `ticks`, `low` and `high` (90 percent interval) and `correlation` by lag; or
    `ticks` None and the `reason` why there is no estimate."""
    spaced = np.linspace(0, len(episodes) - 1, min(MAX_EPISODES, len(episodes))).astype(int)
    numbers = np.unique(spaced).tolist()
    changes = [
        _changes(episodes, number)
        for number in progress(numbers, "Watching the screen", len(numbers))
    ]
    found = {}
    for column, name in enumerate(episodes.actions):
        presses = []
        for number, change in zip(numbers, changes, strict=True):
            marks = np.zeros(len(change))
            begins = onsets(episodes.episodes[number].actions[: len(change), column])
            marks[begins] = 1
            presses.append(marks)
        found[name] = _delay(changes, presses)
    return found


def in_words(row: dict[str, Any], fps: float | None) -> str:
    """A delay for a person."""
    if row["ticks"] is None:
        return f"no estimate: {row['reason']}"
    words = f"{row['ticks']} [{row['low']}, {row['high']}]"
    return words if fps is None else f"{words}, about {1000 * row['ticks'] / fps:.0f} ms"


def _changes(episodes: Episodes, number: int) -> Float[np.ndarray, "n F"]:
    """How much each part of the screen differs from the tick before."""
    length = min(episodes.episodes[number].length, MAX_TICKS)
    small = np.empty((length, PARTS[1], PARTS[0]), np.float32)
    for first in range(0, length, BLOCK):
        frames = episodes.read_frames(number, slice(first, min(first + BLOCK, length)))
        for tick, frame in enumerate(frames, first):
            small[tick] = cv2.resize(frame, PARTS, interpolation=cv2.INTER_AREA).mean(axis=-1)
    changes = np.abs(np.diff(small, axis=0, prepend=small[:1]))
    return np.log1p(changes).reshape(length, -1)


def _delay(
    changes: list[Float[np.ndarray, "_ F"]], presses: list[Float[np.ndarray, "_"]]
) -> dict[str, Any]:
    def none(reason: str) -> dict[str, Any]:
        return {"ticks": None, "reason": reason, "correlation": []}

    if len(changes) < MIN_EPISODES:
        return none(f"fewer than {MIN_EPISODES} episodes")
    count = int(sum(marks.sum() for marks in presses))
    if count < MIN_PRESSES:
        return none(f"{count} presses are too few")
    sums = np.stack([_held_out(changes, presses, lag) for lag in range(LAGS + 1)])
    moved = [np.roll(marks, len(marks) // 2) for marks in presses]
    chance = np.stack([_held_out(changes, moved, lag) for lag in range(LAGS + 1)])
    scores = _correlation(sums.sum(axis=1))
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(changes), (RESAMPLES, len(changes)))
    resampled = np.stack([_correlation(sums[:, pick].sum(axis=1)) for pick in picks])
    by_chance = np.stack([_correlation(chance[:, pick].sum(axis=1)) for pick in picks])
    best = int(scores.argmax())
    if np.quantile(resampled[:, best], 0.05) <= np.quantile(by_chance.max(axis=1), 0.95):
        return {
            **none("no lag predicts presses better than chance"),
            "correlation": scores.tolist(),
        }
    low, high = np.quantile(resampled.argmax(axis=1), [0.05, 0.95]).round().astype(int).tolist()
    return {
        "ticks": best,
        "low": min(low, best),
        "high": max(high, best),
        "correlation": scores.tolist(),
    }


def _held_out(
    changes: list[Float[np.ndarray, "_ F"]], presses: list[Float[np.ndarray, "_"]], lag: int
) -> Float[np.ndarray, "E 6"]:
    """Per episode, the sums that a correlation of presses with their predictions needs."""
    inputs = [change[: len(change) - lag] for change in changes]
    targets = [marks[lag:] for marks in presses]
    mean = np.concatenate(inputs).mean(axis=0)
    inputs = [part - mean for part in inputs]
    rate = np.concatenate(targets).mean()
    grams = [part.T @ part for part in inputs]
    crosses = [part.T @ (marks - rate) for part, marks in zip(inputs, targets, strict=True)]
    gram, cross = np.sum(grams, axis=0), np.sum(crosses, axis=0)
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9) * np.eye(len(gram))
    found = []
    for part, marks, own, own_cross in zip(inputs, targets, grams, crosses, strict=True):
        weights = np.linalg.solve(gram - own + ridge, cross - own_cross)
        p = part @ weights
        found.append([len(p), p.sum(), marks.sum(), p @ p, marks @ marks, p @ marks])
    return np.array(found, np.float64)


def _correlation(sums: Float[np.ndarray, "L 6"]) -> Float[np.ndarray, "L"]:
    n, p, y, pp, yy, py = sums.T
    spread = np.sqrt(np.maximum(n * pp - p * p, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 1e-12, (n * py - p * y) / np.maximum(spread, 1e-12), 0.0)
