"""What is wrong with a dataset: all that opening it finds, and all that only its frames show."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8

from BC_training.common.console import progress
from BC_training.common.episodes import Episode, Episodes
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.store.checks import stretches

BLOCK = 128
"""Frames looked at together."""

STILL_S = 1.0
"""Seconds from which a stretch of equal or of black frames is worth a warning."""

ASSUMED_FPS = 17.0
"""Where the dataset does not say."""

BLACK = 16
"""Level that no pixel of a black frame exceeds: video's own black."""

FPS_TOLERANCE = 0.02
"""Share by which an episode's rate may differ from the dataset's."""

JUMP = 3.0
"""A step between timestamps of so many usual ones is a jump."""


def inspect(episodes: Episodes, *, threads: int = 2) -> list[Problem]:
    """All that is wrong: errors before warnings, each in the dataset's order.

    Decodes every frame once. An error means that training skips the episode, or refuses the dataset
    if dataset.validate_episodes is false.
    """
    found = [*episodes.skipped, *_of_buttons(episodes)]
    fps = episodes.fps()
    for episode in episodes.episodes:
        found += _of_rate(episode, fps)
    found += _of_frames(episodes, round(STILL_S * (fps or ASSUMED_FPS)), threads)
    return sorted(found, key=lambda problem: problem.severity != "error")


def _of_buttons(episodes: Episodes) -> Iterator[Problem]:
    """Actions that a policy can learn nothing about."""
    pressed = sum(episode.actions.sum(axis=0) for episode in episodes.episodes)
    for name, count in zip(episodes.actions, np.asarray(pressed).tolist(), strict=True):
        if count == 0:
            yield Problem("warning", None, f"the action {name!r} is never pressed")
        elif count == episodes.ticks:
            yield Problem("warning", None, f"the action {name!r} is always pressed")


def _of_rate(episode: Episode, fps: float | None) -> Iterator[Problem]:
    """An episode's own rate against the dataset's, and steps in its timestamps."""
    own = episode.attributes.get("fps")
    if own is not None and not isinstance(own, int | float):
        yield Problem("warning", episode.name, f"its fps is {own!r}, not a number")
    elif own is not None and fps is not None and abs(own / fps - 1) > FPS_TOLERANCE:
        yield Problem("warning", episode.name, f"its fps is {own:g}, the dataset's is {fps:g}")
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


def _of_frames(episodes: Episodes, least: int, threads: int) -> Iterator[Problem]:
    """What only decoded frames show."""
    numbers = range(len(episodes))
    with ThreadPoolExecutor(threads) as pool:
        looked = pool.map(lambda number: _look_at(episodes, number, least), numbers)
        for problems in progress(looked, "Looking at frames", len(numbers)):
            yield from problems


def _look_at(episodes: Episodes, number: int, least: int) -> list[Problem]:
    """An episode's unreadable frames; its stretches of equal and of black ones."""
    episode, before = episodes.episodes[number], None
    same, black = np.zeros(episode.length, bool), np.zeros(episode.length, bool)
    found: dict[tuple[int, int] | None, str] = {}
    for first in range(0, episode.length, BLOCK):
        for tick, frames in _readable(episodes, number, first, found):
            black[tick : tick + len(frames)] = frames.max(axis=(1, 2, 3)) <= BLACK
            if before is not None and before[0] == tick:
                same[tick] = np.array_equal(before[1], frames[0])
            same[tick + 1 : tick + len(frames)] = [
                np.array_equal(one, other) for one, other in itertools.pairwise(frames)
            ]
            before = tick + len(frames), frames[-1]
    problems = [Problem("error", episode.name, what, ticks) for ticks, what in found.items()]
    for first, last in stretches(black, least):
        what = f"{last - first} black frames in a row"
        problems.append(Problem("warning", episode.name, what, (first, last)))
    # Black ones are equal to each other; they are said to be black.
    for first, last in stretches(same & ~black, least - 1):
        what = f"the screen is frozen for {last - first + 1} frames"
        problems.append(Problem("warning", episode.name, what, (first - 1, last)))
    return problems


def _readable(
    episodes: Episodes, number: int, first: int, found: dict[tuple[int, int] | None, str]
) -> Iterator[tuple[int, UInt8[np.ndarray, "n H W C"]]]:
    """The frames of a block that can be read, with their first ticks; the others go to `found`."""
    last = min(first + BLOCK, episodes.episodes[number].length)
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
            found[error.ticks] = str(error)
