"""Which ticks a sample needs. Pure index arithmetic; a window never leaves its episode."""

import bisect
import functools

import numpy as np
from jaxtyping import Bool, Int

from BC_training.common.types import WindowSpec

ROUNDS = 6
"""Of the network that permutes samples; four would already pass for random."""


SLAB = 4096
"""Places of a permutation that are worked out together: as costly as a few."""


def observed(
    tick: Int[np.ndarray, "B"], window: WindowSpec
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Observed ticks for predictions at `tick` (counted from the episode's start), oldest first.

    Ticks before the episode's start become its first tick and are marked invalid.
    """
    back = np.arange(window.ticks - 1, -1, -1) * window.stride
    indices = tick[:, None] - back
    return np.maximum(indices, 0), indices >= 0


def predicted(
    tick: Int[np.ndarray, "B"], length: Int[np.ndarray, "B"], window: WindowSpec
) -> tuple[Int[np.ndarray, "B K"], Bool[np.ndarray, "B K"]]:
    """Predicted ticks for predictions at `tick`, in episodes of `length` ticks.

    Ticks after the episode's end become its last tick and are marked invalid.
    """
    indices = tick[:, None] + np.arange(window.chunk)
    last = length[:, None] - 1
    return np.minimum(indices, last), indices <= last


class Order:
    """The order in which epochs visit samples: a pure function of the seed and the epoch.

    Where each frame can be decoded by itself, an epoch is one shuffle of all samples. Where `block`
    neighbours can only be decoded together, blocks are shuffled, and samples within `buffer` of
    them: each block is decoded once, and batches still mix as many places as the buffer has.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, "E"],
        *,
        seed: int,
        block: int = 1,
        buffer: int = 1,
    ):
        """Lays episodes end to end.

        Args:
            lengths: of the episodes, in ticks.
            seed: of all epochs.
            block: neighbouring ticks of an episode that stay together, from its start.
            buffer: blocks whose samples are shuffled among each other.
        """
        self._seed, self._block = seed, block
        self._buffer = buffer
        self._size = int(lengths.sum())
        self._firsts = np.cumsum(lengths) - lengths
        self._lengths = lengths
        self._blocks = -(-lengths // block)
        self._plan = functools.lru_cache(2)(self._make_plan)
        self._group = functools.lru_cache(4)(self._make_group)

    def __len__(self) -> int:
        """Places in an epoch."""
        return self._size

    def samples(self, epoch: int, start: int, stop: int) -> Int[np.ndarray, "n"]:
        """The samples at places `start` to `stop` of an epoch."""
        if self._block == 1:
            first, last = start // SLAB, (stop - 1) // SLAB
            before = first * SLAB
        else:
            ends = self._plan(epoch)[1]
            first, last = np.searchsorted(ends, [start, stop - 1], "right").tolist()
            before = int(ends[first - 1]) if first else 0
        found = np.concatenate([self._group(epoch, group) for group in range(first, last + 1)])
        return found[start - before : stop - before]

    def ahead(self, epoch: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Blocks, as (first sample, one past the last), to decode while places `start` to `stop` of
        an epoch are in use, so that each group of blocks is there when its turn comes."""
        if self._block == 1:
            return []
        found: list[tuple[int, int]] = []
        ends = self._plan(epoch)[1].tolist()
        while start < stop:
            group = bisect.bisect_right(ends, start)
            begin, end = ([0, *ends])[group], ends[group]
            following = (epoch, group + 1) if group + 1 < len(ends) else (epoch + 1, 0)
            firsts, lasts = self._group_blocks(*following)
            share = [
                (min(place, end) - begin) * len(firsts) // (end - begin) for place in (start, stop)
            ]
            found += zip(firsts[slice(*share)].tolist(), lasts[slice(*share)].tolist(), strict=True)
            start = min(stop, end)
        return found

    def _make_plan(self, epoch: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "G"]]:
        """An epoch's order of the blocks, and where each group of them ends."""
        order = np.random.default_rng([self._seed, epoch]).permutation(int(self._blocks.sum()))
        firsts, lasts = self._bounds(order)
        ends = np.cumsum(lasts - firsts)
        ends = ends[self._buffer - 1 :: self._buffer]
        if len(order) % self._buffer:
            ends = np.append(ends, self._size)
        return order, ends

    def _bounds(
        self, blocks: Int[np.ndarray, "n"]
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """First sample of each block, and one past its last."""
        ends = np.cumsum(self._blocks)
        episode = np.searchsorted(ends, blocks, "right")
        within = (blocks - (ends - self._blocks)[episode]) * self._block
        last = np.minimum(within + self._block, self._lengths[episode])
        return self._firsts[episode] + within, self._firsts[episode] + last

    def _group_blocks(
        self, epoch: int, group: int
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        order, _ = self._plan(epoch)
        return self._bounds(order[group * self._buffer : (group + 1) * self._buffer])

    def _make_group(self, epoch: int, group: int) -> Int[np.ndarray, "n"]:
        """All samples of a group of blocks, shuffled; of single ticks, the next ones in order."""
        if self._block == 1:
            places = np.arange(group * SLAB, min((group + 1) * SLAB, self._size))
            return permuted(places, self._size, np.random.SeedSequence([self._seed, epoch]))
        firsts, lasts = self._group_blocks(epoch, group)
        found = np.concatenate([np.arange(a, b) for a, b in zip(firsts, lasts, strict=True)])
        return np.random.default_rng([self._seed, epoch, group]).permutation(found)


def permuted(
    places: Int[np.ndarray, "n"], size: int, seed: np.random.SeedSequence
) -> Int[np.ndarray, "n"]:
    """What a seeded permutation of range(size) has at some places, without making all of it.

    A Feistel network over the next power of four, walked until it falls below `size` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift, mixed = np.uint64(half), np.uint64(29)
    keys = seed.generate_state(ROUNDS, np.uint64)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> shift, found[outside] & mask
        for key in keys:
            turned = (right + key) * np.uint64(0x9E3779B97F4A7C15)
            turned = (turned ^ (turned >> mixed)) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((turned >> np.uint64(32)) & mask)
        found[outside] = (left << shift) | right
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)
