"""Arrays of an episode, read chunk by chunk; a chunk that is missing is an error here, not zeros.

Chunks are fetched and decoded by the project's own code. Where a chunk in C order is all there is
at its ticks, as in every published recording, its bytes are the array; any other layout (F order,
filters, chunks side by side) is put together by zarr-python.

Why not all of it by a library: random frames of 144x256 per second of CPU time
(`benchmarks/readers.py`, zarr 3.1.6, tensorstore 0.1.86),

    layout                       decoding alone  this module  zarr-python  tensorstore
    format 2, one image a chunk           5,874        4,655        1,037        4,404
    format 3, shards of 512               5,671        4,029           86        3,990

so zarr-python is too slow to train from, and tensorstore about as fast. This stays because errors
name episode, ticks and chunk, nothing unpacks to more than its metadata allow, a .zip with a top
folder is read over HTTP, and opening 100,000 episodes takes seconds (`benchmarks/index.py`).
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from jaxtyping import UInt8
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.store.codecs import crc32c, packed_limit
from gameplay_pipeline.store.layout import Layout
from gameplay_pipeline.store.span import Span, Storage

MISSING = 2**64 - 1
"""Offset and size, in a shard's index, of a chunk that was never written."""

READ_AT_ONCE = 256
"""Chunks of a table that are asked for together, so that a server can answer in parallel."""

Place = tuple[int, ...]
"""Numbers of a chunk along each axis."""


MOST_ZEROS = 1000
"""Ticks for each that is there, above which an array was not left out for being zero but lost."""


class MissingChunkError(DataError):
    """A chunk that should be there and is not."""


class TakenFor(NamedTuple):
    """What an array is taken for that is stored in another way than the project's."""

    channels_first: bool = False
    """Frames [N, H, W, 3] for [N, 3, H, W]."""
    buttons: bool = False
    """Numbers 0 and 1 for bool."""
    zeros_left_out: bool = False
    """Chunks that are not there for zeros, where the array's fill value and others say so."""


AS_STORED = TakenFor()


class Array:
    """An array whose first axis is the episode's ticks."""

    def __init__(self, storage: Storage, key: str, layout: Layout, taken_for: TakenFor = AS_STORED):
        """Describes the array in the folder `key` of a storage; nothing is read yet."""
        self.storage, self.key, self.layout = storage, key, layout
        self.shape, self.dtype, self.taken_for = layout.shape, layout.dtype, taken_for
        if taken_for.channels_first:
            length, height, width, channels = layout.shape
            self.shape = (length, channels, height, width)
        if taken_for.buttons:
            self.dtype = np.dtype(bool)
        self.left_out: list[tuple[int, int]] = []
        """Ticks whose chunks were not there when it was read, and which were taken for zeros."""
        self._start = f"{key}/{layout.prefix}"
        self._indices: dict[str, npt.NDArray[np.uint64] | None] = {}
        self._limit = packed_limit(layout.decoded_limit)

    @property
    def chunk_length(self) -> int:
        """Ticks that are decoded together."""
        return self.layout.chunk[0]

    @property
    def is_image(self) -> bool:
        """Whether a chunk is just what is seen at one tick, one plane after the other."""
        is_whole = self.layout.chunk[0] == 1 and self.layout.zarr_metadata is None
        return is_whole and not self.taken_for.channels_first

    @property
    def is_checksummed(self) -> bool:
        """Whether damage to any byte of a chunk is noticed."""
        is_file = self.layout.per_shard is None
        return self.layout.is_checksummed or (is_file and self.storage.is_checksummed)

    def read(self) -> npt.NDArray[Any]:
        """All of it, [N, ...].

        Raises:
            DataError: a chunk is missing or can't be decoded, or buttons are not all 0 or 1.
        """
        values = self._read()
        if self.taken_for.channels_first:
            values = np.moveaxis(values, -1, 1)
        if self.taken_for.buttons:
            if wrong := sorted(set(np.unique(values).tolist()) - {0, 1}):
                raise DataError(f"{self.key}: it holds {wrong[0]}, not only 0 and 1")
            values = values.astype(bool)
        return values

    def _read(self) -> npt.NDArray[Any]:
        if 0 in self.shape:
            return np.empty(self.layout.shape, self.layout.dtype)
        parts, numbers = [], iter(range(self.layout.chunks[0]))
        # Memory is taken as chunks come: metadata may speak of more ticks than there can be.
        while some := list(itertools.islice(numbers, READ_AT_ONCE)):
            try:
                parts += [chunk.copy() for chunk in read_chunks([(self, n) for n in some])]
            except MissingChunkError:
                if not self._may_leave_out_zeros():
                    raise
                return self._read_with_zeros()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _may_leave_out_zeros(self) -> bool:
        """Whether chunks that are not there can only mean zeros: an array of which nothing at all
        is there, or nothing near as much as its metadata say, was rather lost."""
        if not (self.taken_for.zeros_left_out and self.layout.is_zero_left_out):
            return False
        if math.prod(self.layout.chunks[1:]) > 1:  # those beside an absent one would be lost too
            return False
        self.left_out = self.missing() or []
        absent = sum(end - first for first, end in self.left_out)
        return bool(self.left_out) and absent < self.shape[0] <= MOST_ZEROS * (
            self.shape[0] - absent
        )

    def _read_with_zeros(self) -> npt.NDArray[Any]:
        values = np.zeros(self.layout.shape, self.layout.dtype)
        absent = {tick for first, end in self.left_out for tick in range(first, end)}
        there = [n for n in range(self.layout.chunks[0]) if self.ticks(n)[0] not in absent]
        for number, chunk in zip(there, read_chunks([(self, n) for n in there]), strict=True):
            first, end = self.ticks(number)
            values[first:end] = chunk
        return values

    def missing(self) -> list[tuple[int, int]] | None:
        """Ticks of which a chunk was never written: the first and one past the last of each run.
        None where that can't be told quickly.

        Raises:
            DataError: a shard's index can't be read or is damaged.
        """
        files = self._whole_rows_of_files()
        if self.layout.per_shard is None:
            absent = None if files is None else _gaps(files, self.layout.chunks[0])
        else:
            absent = self._missing_in_shards(self.layout.per_shard[0], files)
        return absent and [(self.ticks(a)[0], self.ticks(b - 1)[1]) for a, b in absent]

    def _whole_rows_of_files(self) -> list[int] | None:
        """Numbers along the first axis at which all files are there, as far as can be listed."""
        layout = self.layout
        folder, _, start = self._start.rpartition("/")
        names = self.storage.children(folder)
        if names is None:
            return None
        # A folder of the first number stands for what is in it.
        is_nested = layout.separator == "/"
        others = "" if is_nested else r"(?:\.\d+)" * (len(self.shape) - 1)
        pattern = re.compile(rf"{re.escape(start)}(\d+){others}")
        files = Counter(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
        per_shard = layout.per_shard or (1,) * len(self.shape)
        rows, *beside = (-(-n // per) for n, per in zip(layout.chunks, per_shard, strict=True))
        needed = 1 if is_nested else math.prod(beside)
        return sorted(n for n, count in files.items() if n < rows and count >= needed)

    def _missing_in_shards(self, per_shard: int, files: list[int] | None) -> list[tuple[int, int]]:
        """Runs of chunks that no shard holds; without a listing, up to the first absent shard."""
        chunks = self.layout.chunks[0]
        rows = range(-(-chunks // per_shard))
        absent = [] if files is None else _gaps(files, len(rows))
        absent = [(a * per_shard, min(b * per_shard, chunks)) for a, b in absent]
        for row in rows if files is None else files:
            numbers = range(row * per_shard, min((row + 1) * per_shard, chunks))
            missing = [n for n in numbers if None in map(self.span, self.layout.places(n))]
            absent += [(n, n + 1) for n in missing]
            if files is None and len(missing) == len(numbers):
                break
        joined: list[tuple[int, int]] = []
        for first, end in sorted(absent):
            if joined and joined[-1][1] == first:
                first = joined.pop()[0]
            joined.append((first, end))
        return joined

    def ticks(self, number: int) -> tuple[int, int]:
        """The first tick of chunks, `number` of them after the first, and one past their last."""
        first = number * self.chunk_length
        return first, min(first + self.chunk_length, self.shape[0])

    def where(self, place: Place) -> str:
        """A chunk's name for messages."""
        first, end = self.ticks(place[0])
        ticks = f"tick {first}" if end == first + 1 else f"ticks {first} to {end - 1}"
        return f"{self.key}: {ticks}: chunk {'.'.join(map(str, place))}"

    def span(self, place: Place) -> Span | None:
        """Where a chunk's bytes are; None where its shard says that it was never written.

        Raises:
            DataError: the shard's index is damaged.
        """
        layout = self.layout
        if layout.per_shard is None:
            # One byte more than can be meant shows that there are more.
            return Span(self._start + layout.separator.join(map(str, place)), 0, self._limit + 1)
        file, number = [], 0
        for position, count in zip(place, layout.per_shard, strict=True):
            shard, inner = divmod(position, count)
            file.append(str(shard))
            number = number * count + inner
        key = self._start + layout.separator.join(file)
        index = self._index(key, math.prod(layout.per_shard))
        if index is None:
            return None
        # item() makes Python's numbers; indexing would make arrays first, at ten times the cost.
        start, size = index.item(number, 0), index.item(number, 1)
        return None if start == MISSING else Span(key, start, min(size, self._limit + 1))

    def _index(self, key: str, chunks: int) -> npt.NDArray[np.uint64] | None:
        """Start and size of each chunk of a shard; None where there is no such file."""
        if key not in self._indices:
            length = 16 * chunks + 4
            place = Span(key, 0, length) if self.layout.index_first else Span(key, -length)
            try:
                (raw,) = self.storage.fetch([place])
                self._indices[key] = (
                    None if raw is None else np.frombuffer(crc32c(raw), "<u8").reshape(chunks, 2)
                )
            except ValueError as error:
                raise DataError(f"{key}: the index of this shard is damaged: {error}") from error
        return self._indices[key]


class ChunkReader:
    """Decodes chunks of arrays of one dataset, each when it is asked for."""

    def __init__(self, wanted: Sequence[tuple[Array, Place]]):
        """Asks for the bytes of all chunks at once.

        Raises:
            DataError: a shard's index is damaged.
        """
        spans = [array.span(place) for array, place in wanted]
        some = [span for span in spans if span is not None]
        self._raw = wanted[0][0].storage.fetch(some) if some else iter(())
        self._chunks = iter(zip(wanted, spans, strict=True))

    def decode_into(self, out: UInt8[np.ndarray, "bytes"]) -> None:
        """Decodes the next chunk into `out`, which has its size.

        Raises:
            DataError: it is missing, cut off, damaged or of another size than the array says.
        """
        decoded = self.decode(out)
        if decoded is not out:
            out[:] = np.frombuffer(decoded, np.uint8)

    def decode(self, out: UInt8[np.ndarray, "bytes"] | None = None) -> Any:
        """The bytes of the next chunk, in `out` if its codec can write there.

        Raises:
            DataError: it is missing, cut off, damaged or of another size than the array says.
        """
        (array, place), span = next(self._chunks)
        raw = self._take(array, place, span)
        layout = array.layout
        size = layout.decoded_limit
        try:
            for decoder in layout.decoders[:-1]:
                raw = decoder(raw, packed_limit(size), None)
            for decoder in layout.decoders[-1:]:
                raw = decoder(raw, size, out)
            if len(raw) > size:
                raise ValueError(f"it holds more than the {size} bytes that it may have")
            if out is not None and len(raw) < size:
                raise ValueError(f"it holds {len(raw)} bytes, not {layout.chunk_bytes}")
            return raw
        except Exception as error:  # each codec raises its own
            what = f"{array.where(place)} can't be decoded: {error}"
            raise DataError(what, array.ticks(place[0])) from error

    def _take(self, array: Array, place: Place, span: Span | None) -> bytes | memoryview:
        """The next bytes that were asked for, those of a chunk."""
        try:
            raw = None if span is None else next(self._raw)
        except DataError as error:
            what = f"{array.where(place)} can't be read: {error}"
            ticks = array.ticks(place[0])
            raise DataError(what, ticks, is_transient=error.is_transient) from error
        if raw is None:
            raise MissingChunkError(
                f"{array.where(place)} is missing (a chunk that was left out because it is all "
                "black or all zero counts as missing: write such chunks too)",
                array.ticks(place[0]),
            )
        return raw


def read_chunks(wanted: Sequence[tuple[Array, int]]) -> Iterator[npt.NDArray[Any]]:
    """Values of arrays of one dataset, of each `chunk_length` ticks from `number * chunk_length`
    on, in that order.

    What it yields may stand on memory that the next takes over: copy what is to stay.

    Raises:
        DataError: a chunk is missing or can't be decoded.
    """
    if not wanted:
        return
    chunks = ChunkReader([(a, place) for a, number in wanted for place in a.layout.places(number)])
    # Memory fresh for each chunk would cost as much as decoding: its pages are mapped one by one.
    scratch = np.empty(max(array.layout.chunk_bytes for array, _ in wanted), np.uint8)
    for array, number in wanted:
        first, end = array.ticks(number)
        layout = array.layout
        if layout.zarr_metadata is None:
            target = scratch[: layout.chunk_bytes]
            chunks.decode_into(target)
            values = np.ndarray(layout.chunk, layout.dtype, target)
        else:
            values = _put_together(array, number, chunks)
        yield values[: end - first]


def _put_together(array: Array, number: int, chunks: ChunkReader) -> npt.NDArray[Any]:
    """Chunks side by side, which zarr-python knows how to lay out."""
    make = default_buffer_prototype().buffer.from_bytes
    places = list(array.layout.places(number))
    names = [".".join(map(str, (0, *beside))) for _, *beside in places]
    store = MemoryStore({name: make(bytes(chunks.decode())) for name in names})
    try:
        laid_out = zarr.Array.from_dict(StorePath(store), array.layout.zarr_metadata or {})
        return np.asarray(laid_out[...])
    except Exception as error:  # each filter raises its own
        what = f"{array.where(places[0])} can't be decoded: {error}"
        raise DataError(what, array.ticks(number)) from error


def _gaps(present: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Runs of numbers below `count` that are not among those present, which rise."""
    edges = itertools.pairwise([-1, *present, count])
    return [(last + 1, following) for last, following in edges if last + 1 < following]
