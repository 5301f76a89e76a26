"""All problems of a dataset: what opening it finds, and what its frames and buttons show."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8

from BC_training.common.episode import Episode
from BC_training.common.episodes import Episodes
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.store.checks import is_rate, stretches

FRAMES_AT_ONCE = 128
"""How many frames are looked at together."""

STILL_S = 1.0
"""From how many seconds on equal or black frames are worth a warning."""

ASSUMED_FPS = 17.0
"""Ticks a second where the dataset does not say."""

BLACK = 16
"""No pixel of a black frame exceeds this level, which is video's own black."""

FPS_TOLERANCE = 0.02
"""Share by which an episode's rate may differ from the dataset's."""

JUMP = 3.0
"""A step between timestamps that is so many times the usual one is a jump."""

MIN_HELD_S, MIN_HELD_RATIO, MIN_PRESSES = 2.0, 4.0, 5
"""A press is implausibly long from so many seconds on, if it also lasts so many times as long as
nineteen of twenty presses of its action, of which there must be so many."""


def inspect(episodes: Episodes, *, threads: int = 2) -> list[Problem]:
    """All problems: errors before warnings.

    Every frame is decoded once. An error means that training skips the episode, or refuses the
    dataset if dataset.validate_episodes is false.
    """
    fps = episodes.fps()
    problems = [*episodes.skipped, *episodes.notes, *_button_problems(episodes)]
    problems += _long_presses(episodes, fps or ASSUMED_FPS)
    for episode in episodes.episodes:
        problems += _rate_problems(episode, fps)
    problems += _frame_problems(episodes, round(STILL_S * (fps or ASSUMED_FPS)), threads)
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _button_problems(episodes: Episodes) -> Iterator[Problem]:
    """Actions that a policy can learn nothing about."""
    pressed = sum(episode.actions.sum(axis=0) for episode in episodes.episodes)
    for name, count in zip(episodes.actions, np.asarray(pressed).tolist(), strict=True):
        if count == 0:
            yield Problem("warning", None, f"the action {name!r} is never pressed")
        elif count == episodes.ticks:
            yield Problem("warning", None, f"the action {name!r} is always pressed")


def _long_presses(episodes: Episodes, fps: float) -> Iterator[Problem]:
    """Presses so much longer than others of their action that the recorder may have missed their
    release."""
    for column, name in enumerate(episodes.actions):
        presses = [
            (episode.name, first, last)
            for episode in episodes.episodes
            for first, last in stretches(episode.actions[:, column])
        ]
        if len(presses) < MIN_PRESSES:
            continue
        lengths = np.array([last - first for _, first, last in presses])
        usual = int(np.quantile(lengths, 0.95, method="lower"))
        limit = max(MIN_HELD_S * fps, MIN_HELD_RATIO * usual)
        for number in np.flatnonzero(lengths >= limit).tolist():
            episode, first, last = presses[number]
            what = (
                f"{name!r} is held for {last - first} ticks ({(last - first) / fps:.1f} s), though "
                f"nineteen of twenty presses last at most {usual}; was its release missed?"
            )
            yield Problem("warning", episode, what, (first, last))


def _rate_problems(episode: Episode, fps: float | None) -> Iterator[Problem]:
    """An episode's rate against the dataset's, and steps in its timestamps."""
    rate = episode.attributes.get("fps")
    if rate is not None and not is_rate(rate):
        yield Problem("warning", episode.name, f"its fps is {rate!r}, not a rate above zero")
    elif rate is not None and fps is not None and abs(rate / fps - 1) > FPS_TOLERANCE:
        yield Problem("warning", episode.name, f"its fps is {rate:g}, the dataset's is {fps:g}")
    timestamps: Float[np.ndarray, "N"] | None = episode.timestamps
    if timestamps is None or len(timestamps) < 3:
        return
    steps = np.diff(timestamps)
    usual = float(np.median(steps))
    for tick in np.flatnonzero(steps > JUMP * usual).tolist():
        what = f"its timestamps jump by {steps[tick]:.3f} s, usually they rise by {usual:.3f}"
        yield Problem("warning", episode.name, what, (tick, tick + 2))
    if fps is not None and abs(usual * fps - 1) > 10 * FPS_TOLERANCE:
        what = f"its timestamps say {1 / usual:.1f} ticks a second, its fps {fps:g}"
        yield Problem("warning", episode.name, what)


def _frame_problems(episodes: Episodes, least: int, threads: int) -> Iterator[Problem]:
    """Problems that only decoded frames show."""
    numbers = range(len(episodes))
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda number: _look_at(episodes, number, least), numbers)
        for problems in track(results, "Looking at frames", len(numbers)):
            yield from problems


def _look_at(episodes: Episodes, number: int, least: int) -> list[Problem]:
    """An episode's unreadable frames, and its stretches of equal and of black ones."""
    episode, before = episodes.episodes[number], None
    same, black = np.zeros(episode.length, bool), np.zeros(episode.length, bool)
    unreadable: dict[tuple[int, int] | None, str] = {}
    for first in range(0, episode.length, FRAMES_AT_ONCE):
        for tick, frames in _readable(episodes, number, first, unreadable):
            black[tick : tick + len(frames)] = frames.max(axis=(1, 2, 3)) <= BLACK
            if before is not None and before[0] == tick:
                same[tick] = np.array_equal(before[1], frames[0])
            same[tick + 1 : tick + len(frames)] = [
                np.array_equal(one, other) for one, other in itertools.pairwise(frames)
            ]
            before = tick + len(frames), frames[-1]
    problems = [Problem("error", episode.name, what, ticks) for ticks, what in unreadable.items()]
    for first, last in stretches(black, least):
        what = f"{last - first} black frames in a row"
        problems.append(Problem("warning", episode.name, what, (first, last)))
    # Black frames are equal to each other too, but are only said to be black.
    for first, last in stretches(same & ~black, least - 1):
        what = f"the screen is frozen for {last - first + 1} frames"
        problems.append(Problem("warning", episode.name, what, (first - 1, last)))
    return problems


def _readable(
    episodes: Episodes, number: int, first: int, unreadable: dict[tuple[int, int] | None, str]
) -> Iterator[tuple[int, UInt8[np.ndarray, "n H W C"]]]:
    """The frames from `first` on that can be read, with their first ticks; others are noted."""
    last = min(first + FRAMES_AT_ONCE, episodes.episodes[number].length)
    try:
        yield first, episodes.read_frames(number, slice(first, last))
        return
    except DataError:
        pass
    step = episodes.episodes[number].frames.chunk_length
    for tick in range(first, last, step):
        try:
            yield tick, episodes.read_frames(number, slice(tick, min(tick + step, last)))
        except DataError as error:
            unreadable[error.ticks] = str(error)
