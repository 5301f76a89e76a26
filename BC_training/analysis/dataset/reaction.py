"""How long buttons take to follow what happens on screen: an estimate, with its uncertainty.

What happens is how much each part of the screen changes from one frame to the next. The screen also
shows what buttons do: whoever rolls once a second seems to react to the roll before. So a first
ridge regression predicts where presses begin from the buttons pressed before, and only what it
leaves over is asked of the screen: for each lag, a second one predicts it from the changes so many
ticks before. Both are fitted without the episodes they are judged on. The delay is the lag whose
predictions correlate best. Where the best is no better than what presses moved to other times of
their episodes give, there is no estimate.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from BC_training.common.episodes import Episodes
from gameplay_pipeline.plumbing.progress import track

LAGS = 20
"""The longest delay considered, in ticks."""

PARTS = (10, 6)
"""Columns and rows of the parts of the screen."""

MAX_EPISODES, MAX_TICKS = 24, 1000
"""How many episodes are looked at, evenly spaced, and how many ticks from the start of each."""

MIN_EPISODES, MIN_PRESSES = 4, 20
"""With fewer there is no estimate."""

RIDGE = 0.1
"""Penalty of the regression on the screen, as a share of the mean square of its inputs' sums."""

HISTORY = 32
"""Ticks of buttons whose effect on the screen is told from what happens by itself."""

HISTORY_RIDGE = 0.3
"""Penalty of the regression on buttons, in presses. It is hardly any: what this shrinks away, the
screen would explain as a reaction."""

MIN_CORRELATION = 0.02
"""A prediction that correlates less with presses is no more than what shrinking left."""

MAX_INTERVAL = 6
"""An interval this many ticks wide names no delay."""

FASTEST_S = 0.1
"""No person reacts sooner."""

AS_GOOD = 0.9
"""A change lasts: it is seen when it begins and when it ends. Of neighbouring lags that predict at
least this share as well as the best, the delay is the longest."""

SHUFFLES, RESAMPLES = 39, 200
"""How often presses are moved to see what chance predicts, and episodes drawn for the interval."""

FRAMES_AT_ONCE = 128
"""How many frames are decoded together."""

Episodic = list[Float[np.ndarray, "_ _"]]
"""A table for each episode, a row a tick."""


def estimate(episodes: Episodes) -> dict[str, dict[str, Any]]:
    """Delays by action: `ticks`, `low` and `high` (90 percent interval) and `correlation` by lag;
    or `ticks` None and the `reason` why there is no estimate."""
    spaced = np.linspace(0, len(episodes) - 1, min(MAX_EPISODES, len(episodes))).astype(int)
    numbers = np.unique(spaced).tolist()
    if len(numbers) < MIN_EPISODES:
        return {name: _none(f"fewer than {MIN_EPISODES} episodes") for name in episodes.actions}
    watched = track(numbers, "Watching the screen", len(numbers))
    changes = _centred([_changes(episodes, number) for number in watched])
    pressed = [
        episodes.episodes[number].actions[: len(change)]
        for number, change in zip(numbers, changes, strict=True)
    ]
    begins = [_begins(buttons) for buttons in pressed]
    counts, deviations = np.sum([b.sum(0) for b in begins], 0), np.concatenate(begins).std(0)
    judged = np.flatnonzero(counts >= MIN_PRESSES)
    rows = {
        name: _none(f"{count:.0f} presses are too few")
        for name, count in zip(episodes.actions, counts.tolist(), strict=True)
    }
    if len(judged):
        left_over = [table[:, judged] for table in _left_over(pressed, begins)]
        delays = _delays(changes, left_over, deviations[judged])
        rows |= {episodes.actions[at]: row for at, row in zip(judged, delays, strict=True)}
    return rows


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


def _none(reason: str, correlation: Sequence[float] = ()) -> dict[str, Any]:
    return {"ticks": None, "reason": reason, "correlation": list(correlation)}


def _changes(episodes: Episodes, number: int) -> Float[np.ndarray, "n F"]:
    """How much each part of the screen differs from the tick before."""
    length = min(episodes.episodes[number].length, MAX_TICKS)
    small = np.empty((length, PARTS[1], PARTS[0]), np.float32)
    for first in range(0, length, FRAMES_AT_ONCE):
        last = min(first + FRAMES_AT_ONCE, length)
        for tick, frame in enumerate(episodes.read_frames(number, slice(first, last)), first):
            grey = frame.mean(axis=-1, dtype=np.float32)
            small[tick] = cv2.resize(grey, PARTS, interpolation=cv2.INTER_AREA)
    changes = np.abs(np.diff(small, axis=0, prepend=small[:1]))
    return np.log1p(changes).reshape(length, -1)


def _begins(pressed: Bool[np.ndarray, "n A"]) -> Float[np.ndarray, "n A"]:
    """One where a press begins."""
    before = np.vstack([np.zeros_like(pressed[:1]), pressed[:-1]])
    return (pressed & ~before).astype(np.float32)


def _left_over(pressed: list[Bool[np.ndarray, "_ A"]], begins: Episodic) -> Episodic:
    """Where presses begin, less what the buttons before say of it in other episodes."""
    histories = []
    for buttons, starts in zip(pressed, begins, strict=True):
        lagged = np.zeros((len(buttons), HISTORY + 1, buttons.shape[1]), np.float32)
        for ago in range(1, min(HISTORY, len(buttons) - 1) + 1):
            lagged[ago:, ago - 1] = starts[:-ago]
        lagged[1:, HISTORY] = buttons[:-1]
        histories.append(lagged.reshape(len(buttons), -1))
    targets = _centred(begins)
    predicted = _predicted(_centred(histories), targets, HISTORY_RIDGE)
    return [target - guess for target, guess in zip(targets, predicted, strict=True)]


def _delays(
    changes: Episodic, presses: Episodic, deviation: Float[np.ndarray, "A"]
) -> list[dict[str, Any]]:
    """The delay of each action, from what is left over of its presses.

    `deviation` is that of the whole presses, so that a correlation says what share of them the
    screen tells.
    """
    rng = np.random.default_rng(0)
    actions, share = presses[0].shape[1], np.concatenate(presses).std(axis=0) / deviation
    tables = [np.hstack([p, *(_moved(p, rng) for _ in range(SHUFFLES))]) for p in presses]
    ridge = RIDGE * sum(float((change**2).sum()) for change in changes) / changes[0].shape[1]
    moments = np.stack(
        [
            _moments(changes, tables, lag, ridge)
            for lag in track(range(LAGS + 1), "Comparing delays", LAGS + 1)
        ]
    )
    shuffled = _correlation(moments[:, :, actions:].sum(axis=1)).max(axis=0)
    chance = np.quantile(shuffled.reshape(SHUFFLES, actions), 0.95, axis=0)
    picks = rng.integers(0, len(changes), (RESAMPLES, len(changes)))
    rows = []
    for action in range(actions):
        scores = _correlation(moments[:, :, action].sum(axis=1))
        resampled = _correlation(moments[:, picks, action].sum(axis=2)).T
        correlation = (scores * share[action]).tolist()
        ticks = _longest(scores)
        drawn = [_longest(resample) for resample in resampled]
        low, high = np.quantile(drawn, [0.05, 0.95]).round().astype(int).tolist()
        low, high = min(low, ticks), max(high, ticks)
        is_chance = np.quantile(resampled[:, scores.argmax()], 0.05) <= chance[action]
        if is_chance or max(correlation) < MIN_CORRELATION:
            rows.append(_none("no lag predicts presses better than chance", correlation))
        elif high - low >= MAX_INTERVAL:
            rows.append(_none(f"any of {low} to {high} ticks may be it", correlation))
        else:
            rows.append({"ticks": ticks, "low": low, "high": high, "correlation": correlation})
    return rows


def _moved(presses: Float[np.ndarray, "n A"], rng: np.random.Generator) -> Float[np.ndarray, "n A"]:
    """Moved by at least more than the longest delay, where the episode is long enough."""
    least = min(LAGS + 1, len(presses) // 2)
    return np.roll(presses, rng.integers(least, max(len(presses) - least, least) + 1), axis=0)


def _longest(scores: Float[np.ndarray, "L"]) -> int:
    """The lag of the best score, or of those right above it the longest that is nearly as good."""
    lag = best = int(scores.argmax())
    while lag + 1 < len(scores) and scores[lag + 1] >= AS_GOOD * scores[best]:
        lag += 1
    return lag


def _centred(tables: Episodic) -> Episodic:
    mean = np.concatenate(tables).mean(axis=0, dtype=np.float32)
    return [table - mean for table in tables]


def _predicted(inputs: Episodic, targets: Episodic, ridge: float) -> Episodic:
    """Each episode's targets by a ridge regression that is fitted to all other episodes."""
    grams = [x.T @ x for x in inputs]
    crosses = [x.T @ y for x, y in zip(inputs, targets, strict=True)]
    gram, cross = sum(grams) + ridge * np.eye(len(grams[0]), dtype=np.float32), sum(crosses)
    return [
        x @ np.linalg.solve(gram - without, cross - without_cross)
        for x, without, without_cross in zip(inputs, grams, crosses, strict=True)
    ]


def _moments(
    changes: Episodic, presses: Episodic, lag: int, ridge: float
) -> Float[np.ndarray, "E M 6"]:
    """By episode and column of presses, the sums that their correlation with what the screen
    predicts `lag` ticks before needs."""
    inputs = [change[: max(len(change) - lag, 0)] for change in changes]
    targets = [table[lag:] for table in presses]
    rows = []
    for p, y in zip(_predicted(inputs, targets, ridge), targets, strict=True):
        counts = np.full(p.shape[1], len(p))
        products = (p, y, p * p, y * y, p * y)
        rows.append(np.stack([counts, *(x.sum(0, dtype=np.float64) for x in products)], axis=-1))
    return np.array(rows)


def _correlation(moments: Float[np.ndarray, "*any 6"]) -> Float[np.ndarray, "*any"]:
    n, p, y, pp, yy, py = np.moveaxis(moments, -1, 0)
    spread = np.sqrt(np.maximum(n * pp - p * p, 0) * np.maximum(n * yy - y * y, 0))
    return np.where(spread > 1e-12, (n * py - p * y) / np.maximum(spread, 1e-12), 0.0)
