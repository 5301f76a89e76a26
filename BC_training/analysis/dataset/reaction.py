"""How long buttons take to follow what happens on screen: an estimate, with its uncertainty.

What happens is how much each part of the screen changes from one frame to the next. The screen also
shows what buttons do: whoever rolls once a second seems to react to the roll before. So a first
ridge regression predicts where presses begin from the buttons pressed before, and only what it
leaves over is asked of the screen: for each lag, a second one predicts it from the changes so many
ticks before. Both are fitted without the episodes they are judged on. The delay is the lag whose
predictions correlate best. Where the best is no better than what presses moved to other times of
their episodes give, there is no estimate.
"""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from BC_training.analysis.dataset.statistics import onsets
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

HISTORY = 32
"""Ticks of buttons whose effect on the screen is told from what happens by itself."""

HISTORY_RIDGE = 0.3
"""In presses. Hardly any: what this shrinks away, the screen would explain as a reaction."""

LEAST = 0.02
"""Correlation with presses below which a prediction is no more than what shrinking left."""

WIDEST = 6
"""Ticks between the ends of an interval from which it names no delay."""

FASTEST_S = 0.1
"""No person reacts sooner."""

NEARLY = 0.9
"""A change lasts: it is seen when it begins and when it ends. Of neighbouring lags that predict at
least this share as well as the best, the delay is the longest."""

SHIFTS = 39
"""Times that presses are moved, to see what chance predicts."""

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
    pressed = [
        episodes.episodes[number].actions[: len(change)]
        for number, change in zip(numbers, changes, strict=True)
    ]
    counts = sum(_begins(own).sum(axis=0) for own in pressed)
    found: dict[str, dict[str, Any]] = {
        name: {"ticks": None, "reason": f"{count:.0f} presses are too few", "correlation": []}
        for name, count in zip(episodes.actions, np.asarray(counts).tolist(), strict=True)
    }
    if len(numbers) < MIN_EPISODES:
        reason = f"fewer than {MIN_EPISODES} episodes"
        return {name: {**row, "reason": reason} for name, row in found.items()}
    judged = np.flatnonzero(np.asarray(counts) >= MIN_PRESSES)
    if len(judged):
        begins = np.concatenate([_begins(own)[:, judged] for own in pressed])
        left_over = [marks[:, judged] for marks in _left_over(pressed)]
        delays = _delays(changes, left_over, begins.std(axis=0))
        found |= {episodes.actions[at]: row for at, row in zip(judged, delays, strict=True)}
    return found


def in_words(row: dict[str, Any], fps: float | None) -> str:
    """A delay for a person."""
    if row["ticks"] is None:
        return f"no estimate: {row['reason']}"
    words = f"{row['ticks']} [{row['low']}, {row['high']}]"
    if fps is None:
        return words
    words += f", about {1000 * row['ticks'] / fps:.0f} ms"
    if row["ticks"] / fps < FASTEST_S:
        words += ": too soon for a reaction, rather what was going on already"
    return words


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


def _begins(pressed: Bool[np.ndarray, "n A"]) -> Float[np.ndarray, "n A"]:
    """One where a press begins."""
    return np.stack(
        [np.bincount(onsets(own), minlength=len(own)) for own in pressed.T], axis=1
    ).astype(np.float32)


def _left_over(pressed: list[Bool[np.ndarray, "_ A"]]) -> list[Float[np.ndarray, "_ A"]]:
    """Where presses begin, less what the buttons before say of it in other episodes."""
    histories = []
    for own in pressed:
        begins, before = _begins(own), np.zeros((len(own), HISTORY + 1, own.shape[1]), np.float32)
        for ago in range(1, min(HISTORY, len(own) - 1) + 1):
            before[ago:, ago - 1] = begins[:-ago]
        before[1:, HISTORY] = own[:-1]
        histories.append(before.reshape(len(own), -1))
    targets = [_begins(own) for own in pressed]
    mean, rate = np.concatenate(histories).mean(axis=0), np.concatenate(targets).mean(axis=0)
    histories = [part - mean for part in histories]
    targets = [marks - rate for marks in targets]
    grams = [part.T @ part for part in histories]
    crosses = [part.T @ marks for part, marks in zip(histories, targets, strict=True)]
    gram, cross = sum(grams) + HISTORY_RIDGE * np.eye(len(mean), dtype=np.float32), sum(crosses)
    return [
        marks - part @ np.linalg.solve(gram - own, cross - own_cross)
        for part, marks, own, own_cross in zip(histories, targets, grams, crosses, strict=True)
    ]


def _delays(
    changes: list[Float[np.ndarray, "_ F"]],
    presses: list[Float[np.ndarray, "_ A"]],
    deviation: Float[np.ndarray, "A"],
) -> list[dict[str, Any]]:
    """Of each action: what is left over of its presses against the screen. `deviation` is that of
    the whole presses, so that a correlation says what share of them the screen tells."""
    rng = np.random.default_rng(0)
    count = presses[0].shape[1]
    share = np.concatenate(presses).std(axis=0) / deviation
    moved = [
        np.concatenate([marks, *(_moved(marks, rng) for _ in range(SHIFTS))], axis=1)
        for marks in presses
    ]
    lags = progress(range(LAGS + 1), "Comparing delays", LAGS + 1)
    sums = np.stack([_held_out(changes, moved, lag) for lag in lags])
    chance = _correlation(sums[:, :, count:].sum(axis=1)).max(axis=0).reshape(SHIFTS, count)
    picks = rng.integers(0, len(changes), (RESAMPLES, len(changes)))
    found = []
    for column in range(count):
        own = sums[:, :, column]
        scores = _correlation(own.sum(axis=1))
        resampled = np.stack([_correlation(own[:, pick].sum(axis=1)) for pick in picks])
        row: dict[str, Any] = {"ticks": None, "correlation": (scores * share[column]).tolist()}
        worst = np.quantile(resampled[:, scores.argmax()], 0.05)
        ticks = _longest(scores)
        delays = [_longest(one) for one in resampled]
        low, high = np.quantile(delays, [0.05, 0.95]).round().astype(int).tolist()
        low, high = min(low, ticks), max(high, ticks)
        is_chance = worst <= np.quantile(chance[:, column], 0.95)
        if is_chance or scores.max() * share[column] < LEAST:
            row["reason"] = "no lag predicts presses better than chance"
        elif high - low >= WIDEST:
            row["reason"] = f"any of {low} to {high} ticks may be it"
        else:
            row |= {"ticks": ticks, "low": low, "high": high}
        found.append(row)
    return found


def _moved(marks: Float[np.ndarray, "n A"], rng: np.random.Generator) -> Float[np.ndarray, "n A"]:
    """Moved by at least more than the longest delay, where the episode is long enough."""
    least = min(LAGS + 1, len(marks) // 2)
    return np.roll(marks, int(rng.integers(least, max(len(marks) - least, least) + 1)), axis=0)


def _longest(scores: Float[np.ndarray, "L"]) -> int:
    """The lag of the best score, or of those right above it the longest that is nearly as good."""
    lag = best = int(scores.argmax())
    while lag + 1 < len(scores) and scores[lag + 1] >= NEARLY * scores[best]:
        lag += 1
    return lag


def _held_out(
    changes: list[Float[np.ndarray, "_ F"]], presses: list[Float[np.ndarray, "_ M"]], lag: int
) -> Float[np.ndarray, "E M 6"]:
    """Per episode, the sums that a correlation of presses with their predictions needs."""
    inputs = [change[: max(len(change) - lag, 0)] for change in changes]
    targets = [marks[lag:] for marks in presses]
    mean, rate = np.concatenate(inputs).mean(axis=0), np.concatenate(targets).mean(axis=0)
    inputs = [part - mean for part in inputs]
    grams = [part.T @ part for part in inputs]
    crosses = [part.T @ (marks - rate) for part, marks in zip(inputs, targets, strict=True)]
    gram, cross = np.sum(grams, axis=0), np.sum(crosses, axis=0)
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9) * np.eye(len(gram))
    found = []
    for part, marks, own, own_cross in zip(inputs, targets, grams, crosses, strict=True):
        p = part @ np.linalg.solve(gram - own + ridge, cross - own_cross).astype(np.float32)
        n = np.full(p.shape[1], len(p))
        sums = [n, *(x.sum(axis=0, dtype=np.float64)
                     for x in (p, marks, p * p, marks * marks, p * marks))]  # fmt: skip
        found.append(np.stack(sums, axis=-1))
    return np.array(found, np.float64)


def _correlation(sums: Float[np.ndarray, "*any 6"]) -> Float[np.ndarray, "*any"]:
    n, p, y, pp, yy, py = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum(n * pp - p * p, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 1e-12, (n * py - p * y) / np.maximum(spread, 1e-12), 0.0)
