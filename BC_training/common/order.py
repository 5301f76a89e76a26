"""The order in which epochs visit samples, and what streaming has to keep for it."""

import bisect
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

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
    """The order in which epochs visit ticks: a pure function of the seed and the epoch.

    Where each frame can be decoded by itself, an epoch is one shuffle of all samples. Where `block`
    neighbours can only be decoded together, blocks are shuffled, and samples within `buffer` of
    them: each block is decoded once, and batches still mix as many places as the buffer has.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, "E"],
        seed: int | tuple[int, ...],
        plan: StreamPlan,
        members: Bool[np.ndarray, "N"] | None = None,
    ):
        """Lays episodes end to end.

        Args:
            lengths: of the episodes, in ticks.
            seed: of all epochs.
            plan: the blocks that stay together, and how many of them are shuffled at a time.
            members: the ticks that are visited; all if not given.
        """
        self._seed = seed if isinstance(seed, tuple) else (seed,)
        self._block, self._buffer = plan.block, plan.buffer
        self._firsts = np.cumsum(lengths) - lengths
        self._lengths = lengths
        self._blocks = -(-lengths // plan.block)
        self._size = int(lengths.sum())
        self._members, self._visited = members, None
        if members is not None:
            self._before = np.concatenate([[0], np.cumsum(members)])
            self._size = int(self._before[-1])
            self._visited = np.flatnonzero(members)
            if plan.block > 1:
                bounds = self._bounds(np.arange(int(self._blocks.sum())))
                self._visited = np.flatnonzero(self._visits(*bounds))
        # Two epochs of them: 8 bytes a tick, beside which a frame has thousands.
        self._permutation = functools.lru_cache(2)(self._make_permutation)
        self._ends = functools.lru_cache(2)(self._make_ends)
        self._group = functools.lru_cache(4)(self._make_group)

    def __len__(self) -> int:
        """Places in an epoch."""
        return self._size

    def batch(self, step: int, batch_size: int) -> Int[np.ndarray, "B"]:
        """The ticks of a step's batch; what fills no batch at an epoch's end is left out."""
        return self.samples(*self._span(step, batch_size))

    def ahead(self, step: int, batch_size: int) -> list[tuple[int, int]]:
        """Blocks, as (first tick, one past the last), to decode while a step's batch is in use."""
        return self.blocks_ahead(*self._span(step, batch_size))

    def spans(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """Places `first` to `stop` of all epochs laid end to end, as (epoch, start, stop)."""
        spans = []
        while first < stop:
            epoch, start = divmod(first, self._size)
            end = min(start + stop - first, self._size)
            spans.append((epoch, start, end))
            first += end - start
        return spans

    def _span(self, step: int, batch_size: int) -> tuple[int, int, int]:
        epoch, at = divmod(step, self._size // batch_size)
        return epoch, at * batch_size, (at + 1) * batch_size

    def samples(self, epoch: int, start: int, stop: int) -> Int[np.ndarray, "n"]:
        """The ticks at places `start` to `stop` of an epoch."""
        if self._block == 1:
            return self._permutation(epoch)[start:stop]
        ends = self._ends(epoch)
        first, last = np.searchsorted(ends, [start, stop - 1], "right").tolist()
        before = int(ends[first - 1]) if first else 0
        groups = np.concatenate([self._group(epoch, group) for group in range(first, last + 1)])
        return groups[start - before : stop - before]

    def blocks_ahead(self, epoch: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Blocks, as (first tick, one past the last), to decode while places `start` to `stop` of
        an epoch are in use, so that each group of blocks is there when its turn comes."""
        if self._block == 1:
            return []
        blocks: list[tuple[int, int]] = []
        ends = self._ends(epoch).tolist()
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

    def _make_permutation(self, epoch: int) -> Int[np.ndarray, "n"]:
        """An epoch's order of the visited blocks."""
        rng = np.random.default_rng([*self._seed, epoch])
        if self._visited is None:
            return rng.permutation(int(self._blocks.sum()))
        return rng.permutation(self._visited)

    def _make_ends(self, epoch: int) -> Int[np.ndarray, "G"]:
        """The places at which an epoch's groups of blocks end."""
        ends = np.cumsum(self._visits(*self._bounds(self._permutation(epoch))))
        groups = ends[self._buffer - 1 :: self._buffer]
        return np.append(groups, self._size) if len(ends) % self._buffer else groups

    def _bounds(
        self, blocks: Int[np.ndarray, "n"]
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """First tick of each block, and one past its last."""
        ends = np.cumsum(self._blocks)
        episode = np.searchsorted(ends, blocks, "right")
        within = (blocks - (ends - self._blocks)[episode]) * self._block
        last = np.minimum(within + self._block, self._lengths[episode])
        return self._firsts[episode] + within, self._firsts[episode] + last

    def _visits(
        self, firsts: Int[np.ndarray, "n"], lasts: Int[np.ndarray, "n"]
    ) -> Int[np.ndarray, "n"]:
        """How many ticks of each block are visited."""
        return (
            lasts - firsts if self._members is None else self._before[lasts] - self._before[firsts]
        )

    def _group_blocks(
        self, epoch: int, group: int
    ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        blocks = self._permutation(epoch)[group * self._buffer : (group + 1) * self._buffer]
        return self._bounds(blocks)

    def _make_group(self, epoch: int, group: int) -> Int[np.ndarray, "n"]:
        """All visited ticks of a group of blocks, shuffled."""
        firsts, lasts = self._group_blocks(epoch, group)
        samples = np.concatenate([np.arange(a, b) for a, b in zip(firsts, lasts, strict=True)])
        if self._members is not None:
            samples = samples[self._members[samples]]
        return np.random.default_rng([*self._seed, epoch, group]).permutation(samples)
