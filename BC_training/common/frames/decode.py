"""Decodes whole episodes, in order, in threads."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from BC_training.common.episodes import Episodes
from BC_training.common.frames.buffer_pool import BufferPool
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.progress import track

FRAMES_AT_ONCE = 128
"""Frames that are decoded at once where a whole dataset is: enough for all decoding threads."""


class Decoded(NamedTuple):
    """Consecutive frames of one episode, or why it has no more."""

    number: int
    """The episode's position in `Episodes.episodes`."""
    tick: int
    """Tick of the first frame."""
    frames: UInt8[np.ndarray, "n H W C"] | Problem


def decode(episodes: Episodes, numbers: Sequence[int], threads: int) -> Iterator[Decoded]:
    """All frames of some episodes, in order. An episode ends where a frame of it can't be read:
    the problem comes instead.

    Raises:
        DataError: a frame can't be read now, but perhaps another time.
    """
    pieces = [
        (number, slice(tick, min(tick + FRAMES_AT_ONCE, episodes.episodes[number].length)))
        for number in numbers
        for tick in range(0, episodes.episodes[number].length, FRAMES_AT_ONCE)
    ]
    broken, pool = None, BufferPool()

    def read(number: int, ticks: slice) -> UInt8[np.ndarray, "n H W C"]:
        out = pool.empty((ticks.stop - ticks.start, *episodes.image_shape))
        return episodes.read_frames(number, ticks, out)

    with ThreadPoolExecutor(threads) as executor:
        ahead: collections.deque[Future[UInt8[np.ndarray, "n H W C"]]] = collections.deque()
        left = iter(pieces)
        for number, ticks in track(pieces, "Decoding frames", len(pieces)):
            for piece in itertools.islice(left, 2 * threads - len(ahead)):
                ahead.append(executor.submit(read, *piece))
            frames = ahead.popleft()
            if number == broken:
                continue
            try:
                yield Decoded(number, ticks.start, frames.result())
            except DataError as error:
                if error.is_transient:
                    raise
                broken = number
                name = episodes.episodes[number].name
                problem = Problem("error", name, str(error), error.ticks)
                yield Decoded(number, ticks.start, problem)
