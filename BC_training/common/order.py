"""The order in which epochs visit samples, and what streaming has to keep for it."""

import bisect
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

ROUNDS = 6
"""Of the network that permutes samples; four would already pass for random."""

SLAB = 4096
"""Places of a permutation that are worked out together: as costly as a few."""

BLOCKS_PER_WINDOW = 4
"""Windows that fit into a block, at least, where zarr chunks hold several frames: what a block's
first windows need of the block before is decoded besides."""


class StreamPlan(NamedTuple):
    """How samples are shuffled where several frames can only be decoded together, and the memory
    that takes when frames are streamed."""

    block: int = 1
    """Neighbouring ticks of an episode, of one or more whole zarr chunks, that stay together; 1
    where each frame can be decoded by itself."""
    buffer: int = 1
    """Blocks whose samples are shuffled among each other."""
    in_flight: int = 0
    """Bytes of decoded frames in the batches that are read ahead."""
    kept: int = 0
    """Bytes of decoded zarr chunks: of these blocks, of the next ones, and of what their windows
    reach back into."""

    @classmethod
    def of(
        cls, chunk_length: int, frame_bytes: int, *, span: int, shuffle_buffer: int, in_flight: int
    ) -> "StreamPlan":
        """Plans for a dataset and a window.

        Args:
            chunk_length: frames in a zarr chunk of the dataset.
            frame_bytes: of a decoded frame.
            span: ticks that a window reaches over.
            shuffle_buffer: ticks among which samples are shuffled.
            in_flight: bytes of the batches that are read ahead.
        """
        if chunk_length == 1:
            return cls(in_flight=in_flight)
        block = chunk_length
        if span > 1:
            block *= -(-BLOCKS_PER_WINDOW * span // chunk_length)
        buffer = max(shuffle_buffer // block, 1)
        return cls(block, buffer, in_flight, kept=3 * buffer * block * frame_bytes)


class EpochOrder:
    """The order in which epochs visit samples: a pure function of the seed and the epoch.

    Where each frame can be decoded by itself, an epoch is one shuffle of all samples. Where `block`
    neighbours can only be decoded together, blocks are shuffled, and samples within `buffer` of
    them: each block is decoded once, and batches still mix as many places as the buffer has.
    """

    def __init__(self, lengths: Int[np.ndarray, "E"], seed: int, plan: StreamPlan):
        """Lays episodes end to end.

        Args:
            lengths: of the episodes, in ticks.
            seed: of all epochs.
            plan: the blocks that stay together, and how many of them are shuffled at a time.
        """
        self._seed, self._block, self._buffer = seed, plan.block, plan.buffer
        self._size = int(lengths.sum())
        self._firsts = np.cumsum(lengths) - lengths
        self._lengths = lengths
        self._blocks = -(-lengths // plan.block)
        self._shuffle = functools.lru_cache(2)(self._make_shuffle)
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
            ends = self._shuffle(epoch)[1]
            first, last = np.searchsorted(ends, [start, stop - 1], "right").tolist()
            before = int(ends[first - 1]) if first else 0
        groups = np.concatenate([self._group(epoch, group) for group in range(first, last + 1)])
        return groups[start - before : stop - before]

    def ahead(self, epoch: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Blocks, as (first sample, one past the last), to decode while places `start` to `stop` of
        an epoch are in use, so that each group of blocks is there when its turn comes."""
        if self._block == 1:
            return []
        blocks: list[tuple[int, int]] = []
        ends = self._shuffle(epoch)[1].tolist()
        while start < stop:
            group = bisect.bisect_right(ends, start)
            begin, end = ([0, *ends])[group], ends[group]
            following = (epoch, group + 1) if group + 1 < len(ends) else (epoch + 1, 0)
            firsts, lasts = self._group_blocks(*following)
            share = slice(
                *((min(at, end) - begin) * len(firsts) // (end - begin) for at in (start, stop))
            )
            blocks += zip(firsts[share].tolist(), lasts[share].tolist(), strict=True)
            start = min(stop, end)
        return blocks

    def _make_shuffle(self, epoch: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "G"]]:
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
        order, _ = self._shuffle(epoch)
        return self._bounds(order[group * self._buffer : (group + 1) * self._buffer])

    def _make_group(self, epoch: int, group: int) -> Int[np.ndarray, "n"]:
        """All samples of a group of blocks, shuffled; of single ticks, the next ones in order."""
        if self._block == 1:
            places = np.arange(group * SLAB, min((group + 1) * SLAB, self._size))
            return permuted(places, self._size, np.random.SeedSequence([self._seed, epoch]))
        firsts, lasts = self._group_blocks(epoch, group)
        samples = np.concatenate([np.arange(a, b) for a, b in zip(firsts, lasts, strict=True)])
        return np.random.default_rng([self._seed, epoch, group]).permutation(samples)


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
