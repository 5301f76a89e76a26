"""How often, for how long and when a policy was corrected in a dataset's fights."""

from collections import Counter
from typing import Any

import numpy as np

from BC_training.common.episodes import Episodes
from gameplay_pipeline.store.checks import stretches

SHOWN_ANIMATIONS = 12
"""How many boss animations are listed, those first in which most corrections began."""


def summarize(episodes: Episodes, animation: int | None) -> dict[str, Any] | None:
    """Returns figures of the episodes in which a policy was corrected; None where there are none.

    A correction is a run of ticks at which somebody else drove, or would have pressed otherwise.

    Args:
        episodes: the dataset.
        animation: the state's column that says what the boss does, if there is one.
    """
    chosen = [episode for episode in episodes.episodes if episode.intervention is not None]
    if not chosen:
        return None
    ticks, fps = sum(episode.length for episode in chosen), episodes.fps()
    lengths: list[int] = []
    driven, times, began = 0, Counter[int](), Counter[int]()
    for episode in chosen:
        assert episode.intervention is not None
        driven += int(episode.intervention.sum())
        runs = stretches(episode.corrected)
        lengths += [last - first for first, last in runs]
        if animation is not None and (state := episode.state) is not None:
            ids = state[:, animation].astype(np.int64)
            times.update(ids[np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))].tolist())
            began.update(ids[np.array([first for first, _ in runs], int)].tolist())
    return {
        "episodes": len(chosen),
        "driven": driven / ticks,
        "corrected": sum(lengths) / ticks,
        "judged": float(sum(episode.judged.sum() for episode in chosen) / ticks),
        "times": len(lengths),
        "times_a_minute": None if fps is None else len(lengths) * fps * 60 / ticks,
        "median_ticks": float(np.median(lengths)) if lengths else None,
        "longest_ticks": max(lengths, default=None),
        "attribute": None if animation is None else episodes.state_names[animation],
        "animations": {
            str(number): {"times": times[number], "corrected": count}
            for number, count in began.most_common(SHOWN_ANIMATIONS)
        },
    }


def in_words(figures: dict[str, Any]) -> list[str]:
    """Returns the figures of `summarize` as lines for a person."""
    rate = figures["times_a_minute"]
    lines = [
        f"a policy was corrected in {figures['episodes']} episodes, {figures['times']} times"
        + ("" if rate is None else f", {rate:.1f} a minute")
        + (
            f", for {figures['median_ticks']:g} ticks (median; longest {figures['longest_ticks']})"
            if figures["times"]
            else ""
        ),
        f"of their ticks, others drove at {figures['driven']:.1%}, would have pressed otherwise or "
        f"drove at {figures['corrected']:.1%}, and said what should be pressed at "
        f"{figures['judged']:.1%}",
        "frequencies below are of those ticks; durations, dodges and delays are of all, with what "
        "the policy pressed",
    ]
    if figures["animations"]:
        listed = ", ".join(
            f"{number} ({row['corrected']}; shown {row['times']} times)"
            for number, row in figures["animations"].items()
        )
        lines.append(f"corrections began most often during {figures['attribute']} {listed}")
    return lines
