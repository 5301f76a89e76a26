"""How good predicted buttons are: pure functions over the rows of whole episodes, on the host.

A figure that is undefined (a precision where nothing was predicted, a recall where nothing was
pressed) is None, never NaN, so that everything here converts to plain JSON.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

LEAST_FREQUENCY = 1e-6
"""Frequencies are clipped to [this, 1 - this] in the KL distance, which is infinite without."""

NEUTRAL_THRESHOLD = 0.5
"""The calibrated threshold of an action that is never pressed."""


@dataclasses.dataclass(frozen=True)
class OnsetMetrics:
    """How well the moments of pressing, or of releasing, were met."""

    true: int
    """Onsets in the recording."""
    predicted: int
    matched: int
    """Pairs of a true and a predicted onset within the tolerance, each used once."""
    precision: float | None
    recall: float | None
    f1: float | None
    mean_error_ms: float | None
    """Over the pairs; positive where the prediction is late."""
    mean_absolute_error_ms: float | None


@dataclasses.dataclass(frozen=True)
class ActionMetrics:
    """Figures of one action."""

    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    support: int
    """Rows in which the action is pressed."""
    true_frequency: float
    predicted_frequency: float
    presses: OnsetMetrics
    releases: OnsetMetrics


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Figures of all actions together, and of each."""

    rows: int
    exact_match: float
    """Share of rows in which every action is right."""
    macro_f1: float | None
    """Mean F1 of the actions with support; those that are never pressed don't count."""
    micro_f1: float | None
    """F1 of the counts summed over actions."""
    frequency_l1: float
    """Summed over actions: |true - predicted frequency|."""
    frequency_l2: float
    """Root of the sum over actions of (true - predicted frequency) squared."""
    frequency_kl: float
    """Nats, summed over actions: KL(Bernoulli(true) || Bernoulli(predicted frequency))."""
    presses: OnsetMetrics
    """Onsets of all actions counted together."""
    releases: OnsetMetrics
    actions: dict[str, ActionMetrics]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, nested as the fields are."""
        return dataclasses.asdict(self)


def evaluate(
    probabilities: Float[np.ndarray, "N A"],
    actions: Bool[np.ndarray, "N A"],
    episode: Int[np.ndarray, "N"],
    *,
    names: Sequence[str],
    threshold: float | Float[np.ndarray, "A"],
    tolerance: int,
    fps: float | None,
) -> Metrics:
    """Compares predicted with recorded buttons.

    An action is predicted pressed where its probability reaches the threshold (>=). A press onset
    is a tick at which an action is pressed and was not one tick before; the first tick of an
    episode follows "nothing pressed", so an action held from the start has an onset there. A
    release onset is the first tick at which it no longer is pressed; an action still held at the
    episode's end has none. Of all one-to-one matchings of true and predicted onsets of one action
    and episode, at most `tolerance` ticks apart, the one with most pairs counts; among those, the
    one with the smallest total absolute error; among those, the latest predictions.

    Args:
        probabilities: of being pressed, finite.
        actions: what was recorded.
        episode: the episode of each row. Rows of an episode are adjacent and in time order.
        names: of the A actions.
        threshold: for every action, or one each.
        tolerance: in ticks.
        fps: ticks a second; with None the timing errors are None.

    Raises:
        ValueError: there are no rows, shapes disagree, a probability is not finite, or the
            tolerance or fps is out of range.
    """
    _check(probabilities, actions)
    if len(episode) != len(actions) or len(names) != actions.shape[1]:
        raise ValueError(
            f"actions have shape {actions.shape}, but there are {len(episode)} episode numbers "
            f"and {len(names)} names"
        )
    if tolerance < 0 or (fps is not None and not fps > 0):
        raise ValueError(f"tolerance {tolerance} must be 0 or more, fps {fps} above 0")
    predicted = probabilities >= threshold
    right = predicted == actions
    positives: list[int] = actions.sum(axis=0).tolist()
    claimed: list[int] = predicted.sum(axis=0).tolist()
    hits: list[int] = (predicted & actions).sum(axis=0).tolist()
    true_frequency, predicted_frequency = actions.mean(axis=0), predicted.mean(axis=0)
    difference = true_frequency - predicted_frequency
    # Spread out so that no onset is near one of another episode.
    first = first_rows(episode)
    ticks = np.arange(len(episode)) + np.cumsum(first) * (tolerance + 1)

    per_action: dict[str, ActionMetrics] = {}
    presses, releases = [], []
    true_edges, predicted_edges = onsets(actions, first), onsets(predicted, first)
    for a, name in enumerate(names):
        press, release = (
            _match(ticks[true[:, a]], ticks[guess[:, a]], tolerance)
            for true, guess in zip(true_edges, predicted_edges, strict=True)
        )
        presses.append(press)
        releases.append(release)
        per_action[name] = ActionMetrics(
            accuracy=float(right[:, a].mean()),
            precision=_ratio(hits[a], claimed[a]),
            recall=_ratio(hits[a], positives[a]),
            f1=_f1(hits[a], claimed[a], positives[a]),
            average_precision=_average_precision(probabilities[:, a], actions[:, a]),
            support=positives[a],
            true_frequency=float(true_frequency[a]),
            predicted_frequency=float(predicted_frequency[a]),
            presses=_onset_metrics(press, fps),
            releases=_onset_metrics(release, fps),
        )
    supported = [m.f1 for m in per_action.values() if m.support and m.f1 is not None]
    return Metrics(
        rows=len(actions),
        exact_match=float(right.all(axis=1).mean()),
        macro_f1=_ratio(sum(supported), len(supported)),
        micro_f1=_f1(sum(hits), sum(claimed), sum(positives)),
        frequency_l1=float(np.abs(difference).sum()),
        frequency_l2=float(np.sqrt((difference**2).sum())),
        frequency_kl=_bernoulli_kl(true_frequency, predicted_frequency),
        presses=_onset_metrics(np.sum(presses, axis=0), fps),
        releases=_onset_metrics(np.sum(releases, axis=0), fps),
        actions=per_action,
    )


def baselines(
    train_frequency: Float[np.ndarray, "A"],
    actions: Bool[np.ndarray, "N A"],
    episode: Int[np.ndarray, "N"],
    *,
    names: Sequence[str],
    tolerance: int,
    fps: float | None,
) -> dict[str, Metrics]:
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
        "repeat the previous action": previous(actions, first_rows(episode)),
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


def _ratio(part: float | int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(hits: int, claimed: int, positives: int) -> float | None:
    return _ratio(2 * hits, claimed + positives)


def _bernoulli_kl(true: Float[np.ndarray, "A"], predicted: Float[np.ndarray, "A"]) -> float:
    p, q = (np.clip(f, LEAST_FREQUENCY, 1 - LEAST_FREQUENCY) for f in (true, predicted))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum())


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
    return _ratio(float((np.diff(hits, prepend=0) * hits / claimed).sum()), int(hits[-1]))


def precision_recall(
    scores: Float[np.ndarray, "N"], pressed: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D"]]:
    """Precision and recall of one action, pressed somewhere, at each of its D distinct
    probabilities as the threshold, highest first."""
    _, hits, claimed = _ranked(scores, pressed)
    return hits / claimed, hits / hits[-1]


def first_rows(episode: Int[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Which rows begin an episode."""
    return np.append(True, episode[1:] != episode[:-1])[: len(episode)]


def previous(
    pressed: Bool[np.ndarray, "N A"], first: Bool[np.ndarray, "N"]
) -> Bool[np.ndarray, "N A"]:
    """What was pressed one tick before; nothing at an episode's first tick."""
    return np.roll(pressed, 1, axis=0) & ~first[:, None]


def onsets(
    pressed: Bool[np.ndarray, "N A"], first: Bool[np.ndarray, "N"]
) -> tuple[Bool[np.ndarray, "N A"], Bool[np.ndarray, "N A"]]:
    """Where presses and releases happen."""
    before = previous(pressed, first)
    return pressed & ~before, before & ~pressed


def _match(
    true: Int[np.ndarray, "M"], predicted: Int[np.ndarray, "P"], tolerance: int
) -> Int[np.ndarray, "5"]:
    """Matches sorted times: the numbers of true, predicted and paired ones, signed, total error.

    On a line some best matching has no crossing pairs, so that an alignment by dynamic programming
    finds it. It only visits pairs within the tolerance.
    """
    # One integer orders matchings by pairs, then total error, then lateness, and holds all three.
    base = 2 * tolerance * len(true) + 1
    lows = np.searchsorted(predicted, true - tolerance, side="left").tolist()
    highs = np.searchsorted(predicted, true + tolerance, side="right").tolist()
    guesses = predicted.tolist()
    # best[j]: the best matching of the true times so far with the first j predicted ones.
    best = [0]
    for time, low, high in zip(true.tolist(), lows, highs, strict=True):
        best.extend([best[-1]] * (high + 1 - len(best)))
        diagonal = best[low]
        for j in range(low, high):
            error = guesses[j] - time
            paired = diagonal + (base - abs(error)) * base + error
            diagonal = best[j + 1]
            best[j + 1] = max(diagonal, best[j], paired)
    half = base // 2
    signed = (best[-1] + half) % base - half
    rest = (best[-1] - signed) // base
    pairs = -(-rest // base)
    return np.array([len(true), len(predicted), pairs, signed, pairs * base - rest])


def _onset_metrics(counts: Int[np.ndarray, "5"], fps: float | None) -> OnsetMetrics:
    true, predicted, pairs, signed, absolute = counts.tolist()
    return OnsetMetrics(
        true=true,
        predicted=predicted,
        matched=pairs,
        precision=_ratio(pairs, predicted),
        recall=_ratio(pairs, true),
        f1=_f1(pairs, predicted, true),
        mean_error_ms=None if fps is None else _ratio(1000 / fps * signed, pairs),
        mean_absolute_error_ms=None if fps is None else _ratio(1000 / fps * absolute, pairs),
    )
