"""The figures of a dataset, as plain JSON data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from BC_training.analysis.dataset import interventions
from BC_training.common.episodes import Episodes
from BC_training.common.types import Problem
from BC_training.networks import losses
from gameplay_pipeline.store.checks import stretches

MAX_VOCABULARY = 256
"""A column of animation ids with at most so many distinct values is listed as a vocabulary."""


PHASES = 20
"""In how many equal parts of a fight the rate of pressing is shown."""

BINS = 24
"""How many bins the histogram of a state attribute has."""

SHOWN_ANIMATIONS = 12
"""How many boss animations are listed with the dodges they provoke, the commonest first."""


def summarize(episodes: Episodes, problems: Sequence[Problem]) -> dict[str, Any]:
    """Everything that the tables and the page show except frames and delays."""
    lengths = np.array([episode.length for episode in episodes.episodes])
    judged = np.concatenate([episode.judged for episode in episodes.episodes])
    # What a policy pressed and nobody judged is no example.
    actions = np.concatenate([episode.actions for episode in episodes.episodes])[judged]
    spec, fps = episodes.spec(), episodes.fps()
    return {
        "path": str(episodes.path),
        "episodes": len(episodes),
        "frames": int(lengths.sum()),
        "targets": int(judged.sum()),
        "frame_shape": list(episodes.frame_shape),
        "raw_bytes": int(lengths.sum()) * int(np.prod(episodes.frame_shape)),
        "fps": fps,
        "color_order": spec.frame.color_order,
        "resize": spec.frame.resize,
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "all": {episode.name: episode.length for episode in episodes.episodes},
        },
        "actions": _actions(episodes, actions, fps),
        "rows_with_several_actions": float((actions.sum(axis=1) > 1).mean()),
        "rows_with_no_action": float((~actions.any(axis=1)).mean()),
        "co_pressed": _co_pressed(episodes.actions, actions),
        "pressed_given": _pressed_given(actions),
        "rate_over_the_fight": _rate_over_the_fight(episodes),
        "state": _state(episodes),
        "dodges": _dodges(episodes),
        "interventions": interventions.summarize(episodes, _boss_animation(episodes)),
        "problems": [problem._asdict() for problem in problems],
    }


def press_lengths(pressed: Bool[np.ndarray, "N"]) -> list[int]:
    """Ticks of each press, in order; those at the episode's edges as far as they were recorded."""
    return [last - first for first, last in stretches(pressed)]


def _counted(values: Sequence[int]) -> tuple[list[int], list[int]]:
    """Distinct values, rising, and how often each occurs."""
    distinct, counts = np.unique(np.array(values, np.int64), return_counts=True)
    return distinct.tolist(), counts.tolist()


def onsets(pressed: Bool[np.ndarray, "N"]) -> list[int]:
    """Ticks at which a press begins."""
    return [first for first, _ in stretches(pressed)]


def _actions(
    episodes: Episodes, actions: Bool[np.ndarray, "N A"], fps: float | None
) -> dict[str, Any]:
    weights = losses.class_weights(actions)
    rows = {}
    for column, name in enumerate(episodes.actions):
        presses = [
            length
            for episode in episodes.episodes
            for length in press_lengths(episode.actions[:, column])
        ]
        median = float(np.median(presses)) if presses else None
        rows[name] = {
            "frequency": float(actions[:, column].mean()),
            "presses": len(presses),
            "press_ticks": {
                str(ticks): count for ticks, count in zip(*_counted(presses), strict=True)
            },
            "median_press_ticks": median,
            "longest_press_ticks": max(presses, default=None),
            "median_press_ms": None if median is None or fps is None else 1000 * median / fps,
            "class_weight": float(weights[column]),
        }
    return rows


def _co_pressed(names: tuple[str, ...], actions: Bool[np.ndarray, "N A"]) -> list[dict[str, Any]]:
    """Pairs by how often they are pressed together, the commonest first."""
    together = actions.astype(np.float64).T @ actions / len(actions)
    pairs = [
        {"actions": [names[a], names[b]], "frequency": float(together[a, b])}
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if together[a, b] > 0
    ]
    return sorted(pairs, key=lambda pair: -pair["frequency"])


def _state(episodes: Episodes) -> dict[str, Any]:
    tables = [table for episode in episodes.episodes if (table := episode.state) is not None]
    if not tables:
        return {}
    state = np.concatenate(tables)
    rows = {}
    for column in range(state.shape[1]):
        name = episodes.state_names[column] if episodes.state_names else f"column {column}"
        values = state[:, column]
        finite = values[np.isfinite(values)]
        distinct, counts = np.unique(finite, return_counts=True)
        whole = len(finite) > 0 and bool((distinct == np.round(distinct)).all())
        is_vocabulary = whole and 1 < len(distinct) <= MAX_VOCABULARY and "Anim" in name
        rows[name] = {
            "min": float(finite.min()) if len(finite) else None,
            "mean": float(finite.mean(dtype=np.float64)) if len(finite) else None,
            "max": float(finite.max()) if len(finite) else None,
            "distinct": len(distinct),
            "histogram": _histogram(finite),
            "not_finite": len(values) - len(finite),
            "vocabulary": {
                str(int(distinct[i])): int(counts[i]) for i in np.argsort(-counts, kind="stable")
            }
            if is_vocabulary
            else None,
        }
    return rows


def _histogram(values: Float[np.ndarray, "N"]) -> dict[str, list[Any]] | None:
    # One value has no range to divide, and a large one has none around it either.
    if len(values) == 0 or values.min() == values.max():
        return None
    counts, edges = np.histogram(values.astype(np.float64), bins=BINS)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def _pressed_given(actions: Bool[np.ndarray, "N A"]) -> list[list[float | None]]:
    """Row given, column asked: how often an action is pressed when another is."""
    together = actions.astype(np.float64).T @ actions
    counts = np.diag(together)
    return [
        [None if counts[a] == 0 else float(together[a, b] / counts[a]) for b in range(len(counts))]
        for a in range(len(counts))
    ]


def _rate_over_the_fight(episodes: Episodes) -> dict[str, list[float | None]]:
    """Share of ticks in which an action is pressed, by part of the fight; the mean of episodes."""
    rates = np.full((len(episodes), PHASES, len(episodes.actions)), np.nan)
    for number, episode in enumerate(episodes.episodes):
        phase = np.arange(episode.length) * PHASES // episode.length
        for part in np.unique(phase):
            rates[number, part] = episode.actions[phase == part].mean(axis=0)
    is_reached = ~np.isnan(rates)
    counts = is_reached.sum(axis=0)
    means = np.where(is_reached, rates, 0).sum(axis=0) / np.maximum(counts, 1)
    return {
        name: [
            float(mean) if count else None
            for mean, count in zip(means[:, column], counts[:, column], strict=True)
        ]
        for column, name in enumerate(episodes.actions)
    }


def _dodges(episodes: Episodes) -> dict[str, Any] | None:
    """How often, and when, each of the boss's animations is dodged; None without such columns."""
    column = _boss_animation(episodes)
    action = _find(episodes.actions, "dodge", "roll")
    if column is None or action is None or not all(e.has_state for e in episodes.episodes):
        return None
    animations: dict[int, dict[str, Any]] = {}
    for episode in episodes.episodes:
        assert episode.state is not None
        ids = episode.state[:, column].astype(np.int64)
        begins = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        dodges = np.array(onsets(episode.actions[:, action]), np.int64)
        which = np.searchsorted(begins, dodges, "right") - 1
        ends = np.append(begins[1:], episode.length)
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            row = animations.setdefault(
                int(ids[begin]), {"times": 0, "ticks": 0, "dodged": 0, "delays": []}
            )
            delays = (dodges[which == number] - begin).tolist()
            row["times"] += 1
            row["ticks"] += end - begin
            row["dodged"] += bool(delays)
            row["delays"] += delays
    common = sorted(animations.items(), key=lambda item: -item[1]["times"])[:SHOWN_ANIMATIONS]
    return {
        "attribute": episodes.state_names[column],
        "action": episodes.actions[action],
        "animations": {str(number): row for number, row in common},
    }


def _boss_animation(episodes: Episodes) -> int | None:
    """The column of the state that says what the boss does."""
    return _find(episodes.state_names, "npcanim", "bossanim")


def _find(names: Sequence[str], *parts: str) -> int | None:
    """The first name that contains one of the parts, whatever its case."""
    matches = (at for at, name in enumerate(names) if any(p in name.lower() for p in parts))
    return next(matches, None)
