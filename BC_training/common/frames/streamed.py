"""Frames decoded when they are needed, in bounded memory."""

import collections
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8

from BC_training.common.episodes import Episodes
from BC_training.common.frames.base import GIB, FrameStore
from BC_training.common.frames.buffer_pool import BufferPool
from BC_training.common.order import StreamPlan
from gameplay_pipeline.plumbing.errors import UserError

Chunk = Future[UInt8[np.ndarray, "n H W C"]]
"""A decoded zarr chunk, or one about to be."""


class StreamedFrames(FrameStore):
    """The frame store of residency `stream`.

    Zarr chunks of several frames are kept while the order of samples still needs them.
    """

    def __init__(self, episodes: Episodes, plan: StreamPlan, bound: int, threads: int):
        """Opens it; nothing is decoded yet.

        Args:
            episodes: the dataset.
            plan: what is decoded together and kept.
            bound: bytes that decoded frames may occupy.
            threads: that decode chunks of several frames ahead of their use.

        Raises:
            UserError: the bound is smaller than what the plan needs.
        """
        self._has_long_chunks = episodes.chunk_length > 1
        needed = plan.in_flight + plan.kept
        if needed > bound:
            raise UserError(
                f"dataset.stream_memory_gib is {bound / GIB:.2f}, but streaming needs "
                f"{needed / GIB:.2f}: raise it, or lower training.batch_size, system.num_workers"
                + (", dataset.shuffle_buffer" if self._has_long_chunks else "")
                + " or the model's window"
            )
        self._episodes = episodes
        self._batches, self._buffers = BufferPool(), BufferPool()
        self._lengths = np.array([episode.frames.chunk_length for episode in episodes.episodes])
        """Frames in a zarr chunk, by episode."""
        self._lock = threading.Lock()
        self._chunks: collections.OrderedDict[tuple[int, int], Chunk] = collections.OrderedDict()
        self._capacity = max(
            (bound - plan.in_flight) // (episodes.chunk_length * episodes.frame_bytes), 1
        )
        # Their own threads, so that many chunks are decoded at once while batches wait for one.
        self._executor, self._threads = ThreadPoolExecutor(threads), threads

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._episodes.image_shape

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        out = self._batches.empty((len(rows), *self.image_shape))
        if not self._has_long_chunks:
            return self._episodes.read_rows(rows, out)
        keys, ticks = self._located(rows)
        places = collections.defaultdict(list)
        for at, key in enumerate(keys):
            places[key].append(at)
        # No more than are decoded at once: the rows may lie in more chunks than fit in memory.
        todo = iter(places)
        first = itertools.islice(todo, self._threads)
        ahead = collections.deque(self._chunk(*key) for key in first)
        for positions in places.values():
            chunk = ahead.popleft().result()
            ahead.extend(self._chunk(*key) for key in itertools.islice(todo, 1))
            for at in positions:
                out[at] = chunk[ticks[at]]
        return out

    def prepare(self, first: int, last: int) -> None:
        keys, _ = self._located(np.arange(first, last))
        for key in dict.fromkeys(keys):
            self._chunk(*key)

    def _located(self, rows: Int[np.ndarray, "n"]) -> tuple[list[tuple[int, int]], list[int]]:
        """The episode and the zarr chunk of each row, and its tick within that chunk."""
        starts = self._episodes.starts
        numbers = np.searchsorted(starts, rows, "right") - 1
        chunks, ticks = np.divmod(rows - starts[numbers], self._lengths[numbers])
        return [*zip(numbers.tolist(), chunks.tolist(), strict=True)], ticks.tolist()

    def _chunk(self, number: int, chunk: int) -> Chunk:
        """Whoever asks for a chunk first has it decoded."""
        key = (number, chunk)
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = self._executor.submit(self._decode, number, chunk)
                while len(self._chunks) > self._capacity:
                    self._chunks.popitem(last=False)
            self._chunks.move_to_end(key)
            return self._chunks[key]

    def _decode(self, number: int, chunk: int) -> UInt8[np.ndarray, "n H W C"]:
        episode, length = self._episodes.episodes[number], int(self._lengths[number])
        ticks = slice(chunk * length, min((chunk + 1) * length, episode.length))
        out = self._buffers.empty((ticks.stop - ticks.start, *self.image_shape))
        return self._episodes.read_frames(number, ticks, out)
