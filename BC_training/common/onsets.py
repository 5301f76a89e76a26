"""Onsets and offsets: the moments at which buttons go down and up, and how well they are met."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int


@dataclasses.dataclass(frozen=True)
class OnsetMetrics:
    """How well the moments at which a button goes down, or up, were met."""

    true: int
    """Moments in the recording."""
    predicted: int
    matched: int
    """Pairs of a true and a predicted moment within the tolerance, each used once."""
    precision: float | None
    recall: float | None
    f1: float | None
    mean_error_ms: float | None
    """Over the pairs; positive where the prediction is late."""
    mean_absolute_error_ms: float | None


def first_rows(episode: Int[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Which rows begin an episode."""
    return np.append(True, episode[1:] != episode[:-1])[: len(episode)]


def previous(
    pressed: Bool[np.ndarray, "N A"], first: Bool[np.ndarray, "N"]
) -> Bool[np.ndarray, "N A"]:
    """What was pressed one tick before; nothing at an episode's first tick."""
    return np.roll(pressed, 1, axis=0) & ~first[:, None]


def find(
    pressed: Bool[np.ndarray, "N A"], first: Bool[np.ndarray, "N"]
) -> tuple[Bool[np.ndarray, "N A"], Bool[np.ndarray, "N A"]]:
    """Where buttons go down (onsets), and where they go up (offsets)."""
    before = previous(pressed, first)
    return pressed & ~before, before & ~pressed


def count_edges(
    actions: Bool[np.ndarray, "N A"],
    predicted: Bool[np.ndarray, "N A"],
    first: Bool[np.ndarray, "N"],
    tolerance: int,
) -> tuple[Int[np.ndarray, "A 5"], Int[np.ndarray, "A 5"]]:
    """Onsets and offsets of each action: the numbers of true, predicted and matched ones, and the
    signed and the absolute error over the matches, in ticks."""
    # Spread out so that no onset is near one of another episode.
    ticks = np.arange(len(first)) + np.cumsum(first) * (tolerance + 1)
    edges = zip(find(actions, first), find(predicted, first), strict=True)
    onset_counts, offset_counts = (
        np.array([
            _match(ticks[true[:, a]], ticks[guessed[:, a]], tolerance)
            for a in range(actions.shape[1])
        ])
        for true, guessed in edges
    )  # fmt: skip
    return onset_counts, offset_counts


def summarize(counts: Int[np.ndarray, "5"], fps: float | None) -> OnsetMetrics:
    """The figures of one action's counts, or of their sum over actions."""
    true, predicted, pairs, signed, absolute = counts.tolist()
    return OnsetMetrics(
        true=true,
        predicted=predicted,
        matched=pairs,
        precision=ratio(pairs, predicted),
        recall=ratio(pairs, true),
        f1=f1_score(pairs, predicted, true),
        mean_error_ms=None if fps is None else ratio(1000 / fps * signed, pairs),
        mean_absolute_error_ms=None if fps is None else ratio(1000 / fps * absolute, pairs),
    )


def ratio(part: float | int, whole: int) -> float | None:
    """A share; None of nothing."""
    return part / whole if whole else None


def f1_score(hits: int, claimed: int, positives: int) -> float | None:
    """The harmonic mean of precision and recall; None where nothing is claimed or pressed."""
    return ratio(2 * hits, claimed + positives)


def _match(
    true: Int[np.ndarray, "M"], predicted: Int[np.ndarray, "P"], tolerance: int
) -> Int[np.ndarray, "5"]:
    """Matches sorted times: the numbers of true, predicted and paired ones, signed, total error.

    On a line some best matching has no crossing pairs, so that an alignment by dynamic programming
    finds it. It only visits pairs within the tolerance.
    """
    lows = np.searchsorted(predicted, true - tolerance, side="left").tolist()
    highs = np.searchsorted(predicted, true + tolerance, side="right").tolist()
    guesses = predicted.tolist()
    # best[j]: the best matching of the true times so far with the first j predicted ones, as
    # (pairs, -total error, signed error), whose order is that of the matchings.
    best = [(0, 0, 0)]
    for time, low, high in zip(true.tolist(), lows, highs, strict=True):
        best.extend([best[-1]] * (high + 1 - len(best)))
        diagonal = best[low]
        for j in range(low, high):
            error = guesses[j] - time
            pairs, total, signed = diagonal
            paired = (pairs + 1, total - abs(error), signed + error)
            diagonal = best[j + 1]
            best[j + 1] = max(diagonal, best[j], paired)
    pairs, total, signed = best[-1]
    return np.array([len(true), len(predicted), pairs, signed, -total])
