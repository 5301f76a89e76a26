"""How good predicted buttons are: pure functions over the rows of whole episodes, on the host.

A figure that is undefined (a precision where nothing was predicted, a recall where nothing was
pressed) is None, never NaN, so that everything here converts to plain JSON.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from BC_training.common import onsets
from BC_training.common.onsets import f1_score, ratio

LEAST_FREQUENCY = 1e-6
"""Frequencies are clipped to [this, 1 - this] in the KL distance, which is infinite without."""

NEUTRAL_THRESHOLD = 0.5
"""The calibrated threshold of an action that is never pressed."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Predicted and recorded buttons, and the counts that metrics are made of."""

    probabilities: Float[np.ndarray, "N A"]
    actions: Bool[np.ndarray, "N A"]
    predicted: Bool[np.ndarray, "N A"]
    """Where the probability reaches the threshold (>=)."""
    onset_counts: Int[np.ndarray, "A 5"]
    """True, predicted and matched ones, signed and absolute error in ticks, of each action."""
    offset_counts: Int[np.ndarray, "A 5"]
    fps: float | None
    loss: float | None

    @functools.cached_property
    def hits(self) -> list[int]:
        """Rows in which each action is pressed and predicted."""
        return (self.predicted & self.actions).sum(axis=0).tolist()

    @functools.cached_property
    def claimed(self) -> list[int]:
        """Rows in which each action is predicted."""
        return self.predicted.sum(axis=0).tolist()

    @functools.cached_property
    def positives(self) -> list[int]:
        """Rows in which each action is pressed."""
        return self.actions.sum(axis=0).tolist()

    @functools.cached_property
    def frequencies(self) -> tuple[Float[np.ndarray, "A"], Float[np.ndarray, "A"]]:
        """Shares of the rows in which each action is pressed, and in which it is predicted."""
        return self.actions.mean(axis=0), self.predicted.mean(axis=0)

    @functools.cached_property
    def f1(self) -> list[float | None]:
        """The F1 of each action."""
        counts = zip(self.hits, self.claimed, self.positives, strict=True)
        return [f1_score(*count) for count in counts]


def exact_match(comparison: Comparison) -> float:
    """Share of rows in which every action is right."""
    return float((comparison.predicted == comparison.actions).all(axis=1).mean())


def macro_f1(comparison: Comparison) -> float | None:
    """Mean F1 of the actions with support; those that are never pressed don't count."""
    pairs = zip(comparison.f1, comparison.positives, strict=True)
    supported = [f1 for f1, support in pairs if support and f1 is not None]
    return ratio(sum(supported), len(supported))


def micro_f1(comparison: Comparison) -> float | None:
    """F1 of the counts summed over actions."""
    return f1_score(sum(comparison.hits), sum(comparison.claimed), sum(comparison.positives))


def onset_f1(comparison: Comparison) -> float | None:
    """F1 of the moments at which a button goes down, of all actions counted together."""
    return onsets.summarize(comparison.onset_counts.sum(axis=0), comparison.fps).f1


def offset_f1(comparison: Comparison) -> float | None:
    """F1 of the moments at which a button goes up, of all actions counted together."""
    return onsets.summarize(comparison.offset_counts.sum(axis=0), comparison.fps).f1


def frequency_l1(comparison: Comparison) -> float:
    """Summed over actions: |true - predicted frequency|."""
    true, predicted = comparison.frequencies
    return float(np.abs(true - predicted).sum())


def frequency_l2(comparison: Comparison) -> float:
    """Root of the sum over actions of (true - predicted frequency) squared."""
    true, predicted = comparison.frequencies
    return float(np.sqrt(((true - predicted) ** 2).sum()))


def frequency_kl(comparison: Comparison) -> float:
    """Nats, summed over actions: KL(Bernoulli(true) || Bernoulli(predicted frequency))."""
    true, predicted = comparison.frequencies
    p, q = (np.clip(f, LEAST_FREQUENCY, 1 - LEAST_FREQUENCY) for f in (true, predicted))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum())


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a whole policy: what it is called, and what it is good for."""

    key: str
    """Its name in evaluation.best_metric."""
    title: str
    """Heading of its column on the console."""
    compute: Callable[[Comparison], float | None]
    higher_is_better: bool = True
    chooses: bool = False
    """Whether it may choose the best checkpoint."""
    while_training: bool = False
    """Whether the table of a training run shows it; that of an evaluation shows all."""
    rewards_holding: bool = False
    """Whether it counts every tick for which a button is held, so that repeating the previous
    action does well at it."""
    log_key: str = ""
    """In the figures of a checkpoint, and behind val/ in the log; `key` unless given."""

    def read(self, figures: Mapping[str, Any]) -> float | None:
        """Its value among the figures of `evaluate`, or of a checkpoint."""
        value: Any = figures
        for part in (self.log_key or self.key).split("/"):
            value = value.get(part)
        return value


METRICS = (
    Metric("loss", "val", lambda comparison: comparison.loss, higher_is_better=False,
           chooses=True, while_training=True),
    Metric("exact_match", "exact", exact_match, chooses=True, while_training=True,
           rewards_holding=True),
    Metric("macro_f1", "macro F1", macro_f1, chooses=True, while_training=True,
           rewards_holding=True),
    Metric("micro_f1", "micro F1", micro_f1, chooses=True, while_training=True,
           rewards_holding=True),
    Metric("onset_f1", "onset F1", onset_f1, chooses=True, while_training=True,
           log_key="onsets/f1"),
    Metric("offset_f1", "offset F1", offset_f1, log_key="offsets/f1"),
    Metric("frequency_l1", "freq L1", frequency_l1, higher_is_better=False, while_training=True),
    Metric("frequency_l2", "freq L2", frequency_l2, higher_is_better=False),
    Metric("frequency_kl", "freq KL", frequency_kl, higher_is_better=False),
)  # fmt: skip
"""All figures of a whole policy. The console, the log, the choice of the best checkpoint, the rank
correlation with fights and the documentation follow this table."""

CHOOSING = tuple(metric.key for metric in METRICS if metric.chooses)
"""The values of evaluation.best_metric that the validation split decides."""


def by_key(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)


def evaluate(
    probabilities: Float[np.ndarray, "N A"],
    actions: Bool[np.ndarray, "N A"],
    episode: Int[np.ndarray, "N"],
    *,
    names: Sequence[str],
    threshold: float | Float[np.ndarray, "A"],
    tolerance: int,
    fps: float | None,
    loss: float | None = None,
) -> dict[str, Any]:
    """Compares predicted with recorded buttons.

    An action is predicted pressed where its probability reaches the threshold (>=). An onset is a
    tick at which an action is pressed and was not one tick before; the first tick of an episode
    follows "nothing pressed", so an action held from the start has an onset there. An offset is the
    first tick at which it no longer is pressed; an action still held at the episode's end has none.
    Of all one-to-one matchings of true and predicted onsets of one action and episode, at most
    `tolerance` ticks apart, the one with most pairs counts; among those, the one with the smallest
    total absolute error; among those, the latest predictions.

    Args:
        probabilities: of being pressed, each finite.
        actions: what was recorded.
        episode: the episode of each row. Rows of an episode are adjacent and in time order.
        names: names of the A actions.
        threshold: for every action, or one each.
        tolerance: in ticks.
        fps: ticks a second; with None the timing errors are None.
        loss: that the model has on these rows, where there is a model.

    Returns:
        Plain JSON values: the number of `rows`, each of METRICS by its `log_key`, the fields of
        OnsetMetrics as `onsets` and `offsets`, and the figures of each action under `actions`.

    Raises:
        ValueError: there are no rows, shapes disagree, a probability is not finite, or the
            tolerance or fps is out of range.
    """
    _check(probabilities, actions)
    if len(episode) != len(actions) or len(names) != actions.shape[1]:
        raise ValueError(f"{len(episode)} episodes, {len(names)} names for actions {actions.shape}")
    if tolerance < 0 or (fps is not None and not fps > 0):
        raise ValueError(f"tolerance {tolerance} must be 0 or more, fps {fps} above 0")
    predicted = probabilities >= threshold
    onset_counts, offset_counts = onsets.count_edges(
        actions, predicted, onsets.first_rows(episode), tolerance
    )
    counts = onset_counts, offset_counts
    comparison = Comparison(probabilities, actions, predicted, *counts, fps, loss)
    figures: dict[str, Any] = {
        "rows": len(actions),
        "onsets": dataclasses.asdict(onsets.summarize(onset_counts.sum(axis=0), fps)),
        "offsets": dataclasses.asdict(onsets.summarize(offset_counts.sum(axis=0), fps)),
        "actions": {name: _of_action(comparison, a) for a, name in enumerate(names)},
    }
    for metric in METRICS:
        section, _, name = (metric.log_key or metric.key).rpartition("/")
        (figures[section] if section else figures)[name] = metric.compute(comparison)
    return figures


def _of_action(comparison: Comparison, a: int) -> dict[str, Any]:
    """The figures of one action."""
    hits, claimed, positives = (
        counts[a] for counts in (comparison.hits, comparison.claimed, comparison.positives)
    )
    probabilities, actions = comparison.probabilities[:, a], comparison.actions[:, a]
    true_frequency, predicted_frequency = comparison.frequencies
    fps = comparison.fps
    return {
        "accuracy": float((comparison.predicted[:, a] == actions).mean()),
        "precision": ratio(hits, claimed),
        "recall": ratio(hits, positives),
        "f1": comparison.f1[a],
        "average_precision": _average_precision(probabilities, actions),
        "support": positives,
        "true_frequency": float(true_frequency[a]),
        "predicted_frequency": float(predicted_frequency[a]),
        "onsets": dataclasses.asdict(onsets.summarize(comparison.onset_counts[a], fps)),
        "offsets": dataclasses.asdict(onsets.summarize(comparison.offset_counts[a], fps)),
    }


def baselines(
    train_frequency: Float[np.ndarray, "A"],
    actions: Bool[np.ndarray, "N A"],
    episode: Int[np.ndarray, "N"],
    *,
    names: Sequence[str],
    tolerance: int,
    fps: float | None,
) -> dict[str, dict[str, Any]]:
    """What needs no model, scored as `evaluate` scores a model.

    `nothing pressed`; `majority`: an action is always pressed if it is in more than half of the
    training ticks, else never; `repeat the previous action`: what was truly pressed one tick
    before, nothing at an episode's first tick.

    Args:
        train_frequency: share of the training ticks in which each action is pressed.
        actions, episode, names, tolerance, fps: as in `evaluate`.

    Raises:
        ValueError: as in `evaluate`.
    """
    predictions = {
        "nothing pressed": np.zeros_like(actions),
        "majority": np.broadcast_to(train_frequency > 0.5, actions.shape),
        "repeat the previous action": onsets.previous(actions, onsets.first_rows(episode)),
    }
    return {
        baseline: evaluate(
            pressed.astype(np.float32),
            actions,
            episode,
            names=names,
            threshold=0.5,
            tolerance=tolerance,
            fps=fps,
        )
        for baseline, pressed in predictions.items()
    }


def calibrate(
    probabilities: Float[np.ndarray, "N A"], actions: Bool[np.ndarray, "N A"]
) -> Float[np.ndarray, "A"]:
    """The threshold per action at which it is pressed as often as on these rows it really was.

    Matching the frequency is what play needs of a rare button: the threshold of the best F1 rests
    on a handful of presses, may come out near zero, and then holds the button down for good.

    Each threshold lies halfway between the lowest probability that counts as pressed ("pressed
    where >=") and the next one below (zero where there is none). Where ties allow no exact match,
    the nearest count is taken, of two the lower one, but always at least one press. An action that
    is never pressed gets `NEUTRAL_THRESHOLD`.

    Raises:
        ValueError: as in `evaluate`.
    """
    _check(probabilities, actions)
    thresholds = np.full(actions.shape[1], NEUTRAL_THRESHOLD)
    for a in np.flatnonzero(actions.any(axis=0)):
        scores, _, claimed = _ranked(probabilities[:, a], actions[:, a])
        cut = int(np.argmin(np.abs(claimed - actions[:, a].sum())))
        score, below = float(scores[cut]), float(np.append(scores, 0.0)[cut + 1])
        middle = (score + below) / 2
        # Between neighbouring floats there is no middle.
        thresholds[a] = middle if middle > below else score
    return thresholds


def _check(probabilities: np.ndarray, actions: np.ndarray) -> None:
    if probabilities.shape != actions.shape:
        raise ValueError(f"probabilities are {probabilities.shape}, but actions {actions.shape}")
    if len(actions) == 0:
        raise ValueError("there are no rows to evaluate (zero ticks)")
    if not np.isfinite(probabilities).all():
        row, column = np.argwhere(~np.isfinite(probabilities))[0]
        raise ValueError(f"the probability in row {row}, action {column} is not finite")


def _ranked(
    scores: Float[np.ndarray, "N"], pressed: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "D"], Int[np.ndarray, "D"], Int[np.ndarray, "D"]]:
    """Distinct scores, highest first, and the hits and claims when pressing at each and above."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ranked[last], np.cumsum(pressed[order])[last], last + 1


def _average_precision(
    scores: Float[np.ndarray, "N"], pressed: Bool[np.ndarray, "N"]
) -> float | None:
    _, hits, claimed = _ranked(scores, pressed)
    return ratio(float((np.diff(hits, prepend=0) * hits / claimed).sum()), int(hits[-1]))


def precision_recall(
    scores: Float[np.ndarray, "N"], pressed: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D"]]:
    """Precision and recall of one action, pressed somewhere, at each of its D distinct
    probabilities as the threshold, highest first."""
    _, hits, claimed = _ranked(scores, pressed)
    return hits / claimed, hits / hits[-1]
