"""Reads recorded datasets in zarr format 2 and 3, whatever their chunks; the only reader of zarr.

It reads metadata and chunks itself. One image a chunk is how recordings are published, and on two
cores zarr-python reads such images at a tenth of the speed at which they can be decoded
(`benchmarks/loader.py`). A chunk that is missing is an error here, not zeros.
"""

import itertools
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
from jaxtyping import Int, UInt8
from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store.storage import Span, Storage, open_storage

ARRAYS = ("frames", "actions", "state", "timestamps")
"""What an episode may hold."""

EPISODE = re.compile(r"episode_(\d+)")

MISSING = 2**64 - 1
"""Offset and size, in a shard's index, of a chunk that was never written."""

INDEXED_AT_ONCE = 1024
"""Episodes whose metadata is asked for together, so that a server can answer in parallel."""

MAX_COLUMNS = 10_000
"""Chunks side by side at one tick, above which metadata must be damaged."""

BLOSC_HEADER = struct.Struct("<4x3I")
"""Of a chunk: bytes when decoded, bytes in its blocks, bytes as encoded."""

Decoder = Callable[[Any, Any], Any]
"""From the bytes of a chunk to those that were encoded; the second argument is None or where they
may be put."""

# Every caller decodes in threads of its own; Blosc's would only stand in their way.
blosc.use_threads = False


class Entry(NamedTuple):
    """An episode as its metadata describes it; nothing of its arrays is read yet."""

    name: str
    attributes: dict[str, Any]
    arrays: "dict[str, Array]"


class Reader:
    """A dataset: a folder, a .zip, or a URL of either."""

    def __init__(self, location: str | Path):
        """Opens the root group.

        Raises:
            DataError: there is none, or it can't be read.
        """
        self.location = str(location)
        self._storage = open_storage(location)
        self._fingerprint: str | None = None
        self._consolidated: dict[str, Any] = {}
        if is_url(location):
            self._consolidated = self._read_consolidated()
        self.zarr_format, self.attributes = self._read_root()

    def names(self) -> list[str]:
        """The episodes' names, in natural order.

        Raises:
            DataError: where the dataset is, nothing can be listed, or two have one number.
        """
        children = self._storage.children("")
        if self._consolidated:
            children = list({key.partition("/")[0] for key in self._consolidated})
        if children is None:
            raise DataError(
                f"{self.location}: this server lists no folders and the dataset has no "
                "consolidated metadata; run zarr.consolidate_metadata on it, or serve it as a .zip"
            )
        found: dict[int, str] = {}
        for name in sorted(children):
            if match := EPISODE.fullmatch(name):
                other = found.setdefault(int(match[1]), name)
                if other != name:
                    raise DataError(
                        f"{self.location}: {other} and {name} have the same number; rename or "
                        "remove one of them"
                    )
        return [found[number] for number in sorted(found)]

    def entries(self, names: Sequence[str]) -> Iterator[Entry | DataError]:
        """Metadata of episodes, in that order; of one that is broken, why.

        Raises:
            DataError: where the dataset is, can't be reached any more.
        """
        for first in range(0, len(names), INDEXED_AT_ONCE):
            some = names[first : first + INDEXED_AT_ONCE]
            keys = [key for name in some for key in self._metadata_keys(name)]
            values = self._fetch_metadata(keys)
            for name in some:
                own = {key: next(values) for key in self._metadata_keys(name)}
                try:
                    yield self._entry(name, own)
                except Exception as error:  # whatever damaged metadata may raise
                    yield DataError(f"its metadata can't be read: {error!s}")

    def fingerprint(self) -> str:
        """Changes when files of the dataset do; as they are when it is first asked for."""
        if self._fingerprint is None:
            self._fingerprint = self._storage.fingerprint()
        return self._fingerprint

    def other_arrays(self, name: str) -> list[str]:
        """What an episode holds besides `ARRAYS`, as far as that can be listed."""
        own = {*ARRAYS, "zarr.json"}
        children = self._storage.children(name) or []
        return sorted(child for child in children if child not in own and child[0] != ".")

    def open_array(self, key: str) -> "Array | None":
        """Any array of the dataset by its path, such as data/action; None where there is none.

        Raises:
            DataError: its metadata can't be read.
        """
        name = "zarr.json" if self.zarr_format == 3 else ".zarray"
        (metadata,) = self._fetch_metadata([f"{key}/{name}"])
        if metadata is None:
            return None
        make = _array_v3 if self.zarr_format == 3 else _array_v2
        try:
            return make(self._storage, key, metadata)
        except Exception as error:  # whatever damaged metadata may raise
            raise DataError(f"{key}: its metadata can't be read: {error!s}") from error

    def _read_root(self) -> tuple[int, dict[str, Any]]:
        new, group, attributes = self._fetch_metadata(["zarr.json", ".zgroup", ".zattrs"])
        for value, file in ((new, "zarr.json"), (attributes, ".zattrs")):
            if isinstance(value, Exception):
                raise DataError(f"{self.location}: {file} can't be read: {value}")
        if isinstance(new, dict):
            attributes = new.get("attributes")
        elif group is None:
            raise DataError(f"{self.location}: there is no zarr group in it")
        if not isinstance(attributes, dict | None):
            raise DataError(f"{self.location}: its attributes are {attributes!r}, not a mapping")
        return 3 if isinstance(new, dict) else 2, dict(attributes or {})

    def _read_consolidated(self) -> dict[str, Any]:
        """Metadata of all groups and arrays by file, where the dataset has it in one place."""
        old, new = self._fetch_metadata([".zmetadata", "zarr.json"])
        try:
            if isinstance(old, dict):
                return dict(old["metadata"])
            if isinstance(new, dict) and new.get("consolidated_metadata"):
                inner = new["consolidated_metadata"]["metadata"]
                return {"zarr.json": new, **{f"{key}/zarr.json": inner[key] for key in inner}}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.location}: its consolidated metadata is damaged: {error!r}"
            ) from error
        return {}

    def _metadata_keys(self, name: str) -> list[str]:
        if self.zarr_format == 3:
            return [f"{name}/zarr.json", *(f"{name}/{array}/zarr.json" for array in ARRAYS)]
        return [f"{name}/.zattrs", *(f"{name}/{array}/.zarray" for array in ARRAYS)]

    def _fetch_metadata(self, keys: Sequence[str]) -> Iterator[Any]:
        """Parsed JSON files; None for those that are not there, an error for the unreadable."""
        if self._consolidated:
            yield from (self._consolidated.get(key) for key in keys)
            return
        for raw in self._storage.fetch([Span(key) for key in keys]):
            try:
                yield None if raw is None else json.loads(bytes(raw))
            except ValueError as error:
                yield error

    def _entry(self, name: str, metadata: Mapping[str, Any]) -> Entry:
        for key, value in metadata.items():
            if isinstance(value, Exception):
                raise DataError(f"{key}: {value}")
        group, *arrays = metadata.values()
        attributes = group or {}
        if self.zarr_format == 3:
            attributes = attributes.get("attributes", {})
        make = _array_v3 if self.zarr_format == 3 else _array_v2
        return Entry(
            name,
            dict(attributes),
            {
                array: make(self._storage, f"{name}/{array}", value)
                for array, value in zip(ARRAYS, arrays, strict=True)
                if value is not None
            },
        )


class Array:
    """An array whose first axis is the episode's ticks."""

    def __init__(
        self,
        storage: Storage,
        key: str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk: tuple[int, ...],
        prefix: str,
        separator: str,
        decoders: Sequence[Decoder],
        order: Literal["C", "F"] = "C",
        shard: "tuple[int, ...] | None" = None,
        index_first: bool = False,
    ):
        """Describes it; `_array_v2` and `_array_v3` know how from metadata.

        Args:
            storage: where it is.
            key: its folder there.
            shape: of the whole.
            dtype: of its elements.
            chunk: shape of what is decoded at once.
            prefix: of a chunk's name in the folder.
            separator: between the numbers of a chunk's name.
            decoders: what undoes the codecs, in the order of encoding.
            order: C or F, of the elements in a chunk.
            shard: shape of a file that holds many chunks; None where a chunk is a file.
            index_first: whether a shard's index precedes its chunks.
        """
        self.key, self.shape, self.dtype = key, shape, dtype
        self.storage, self._chunk = storage, chunk
        self._order: Literal["C", "F"] = order
        self._start, self._separator = f"{key}/{prefix}", separator
        self._last_decoder = decoders[0] if decoders else None
        self._outer_decoders = decoders[:0:-1]
        self._per_shard = None
        if shard is not None:
            self._per_shard = [s // c for s, c in zip(shard, chunk, strict=True)]
        self._index_first = index_first
        self._indices: dict[str, npt.NDArray[np.uint64] | None] = {}
        self.size = math.prod(chunk) * dtype.itemsize
        """Bytes of a decoded chunk."""
        others = [range(-(-n // c)) for n, c in zip(shape[1:], chunk[1:], strict=True)]
        if math.prod(map(len, others)) > MAX_COLUMNS:
            raise DataError(f"{key}: shape {shape} in chunks of {chunk} can't be meant")
        self.columns = [*itertools.product(*others)]
        """Of the chunks that make up a block: their places along all axes but the first."""
        self.is_whole = chunk[1:] == shape[1:]
        """Whether a block is a chunk."""
        self.is_image = chunk == (1, *shape[1:]) and order == "C"
        """Whether a chunk is just what is seen at one tick."""

    @property
    def chunk_length(self) -> int:
        """Ticks that are decoded together."""
        return self._chunk[0]

    @property
    def chunk_count(self) -> int:
        return -(-self.shape[0] // self._chunk[0])

    def read(self) -> npt.NDArray[Any]:
        """All of it.

        Raises:
            DataError: a chunk is missing or can't be decoded.
        """
        whole = np.empty(self.shape, self.dtype)
        for number, block in enumerate(read_blocks([(self, n) for n in range(self.chunk_count)])):
            first = number * self.chunk_length
            whole[first : first + len(block)] = block
        return whole

    def missing(self) -> list[int] | None:
        """Blocks of which a chunk was never written; None where that can't be told quickly."""
        if self._per_shard is not None:
            return [
                number
                for number in range(self.chunk_count)
                if any(self.span((number, *column)) is None for column in self.columns)
            ]
        folder, _, name = self._start.rpartition("/")
        listed = self.storage.children(folder)
        if listed is None:
            return None
        present = set(listed)
        if self._separator == "/":
            # The folder of the first number stands for the chunks in it.
            return [n for n in range(self.chunk_count) if f"{name}{n}" not in present]
        return [
            n
            for n in range(self.chunk_count)
            for column in self.columns
            if f"{name}{self._separator.join(map(str, (n, *column)))}" not in present
        ]

    def take(
        self, place: tuple[int, ...], span: Span | None, raw: Iterator[bytes | memoryview | None]
    ) -> bytes | memoryview:
        """The next bytes that were asked for, those of a chunk.

        Raises:
            DataError: they can't be read, or are not there.
        """
        try:
            value = None if span is None else next(raw)
        except DataError as error:
            what = f"{self.where(place)} can't be read: {error}"
            raise DataError(what, self.ticks(place), is_transient=error.is_transient) from error
        if value is None:
            raise DataError(
                f"{self.where(place)} is missing (a chunk that was left out because it is all "
                "black or all zero counts as missing: write such chunks too)",
                self.ticks(place),
            )
        return value

    def decode(
        self, place: tuple[int, ...], raw: Any, scratch: UInt8[np.ndarray, "bytes"]
    ) -> UInt8[np.ndarray, "bytes"]:
        """A chunk from its bytes, not yet shaped; in `scratch` if its codec can write there.

        Raises:
            DataError: it is cut off, damaged or of another size than the array says.
        """
        try:
            for decoder in self._outer_decoders:
                raw = decoder(raw, None)
            if self._last_decoder is not None:
                raw = self._last_decoder(raw, scratch)
            if len(raw) != self.size:
                raise ValueError(f"it holds {len(raw)} bytes, not {self.size}")
            return raw if raw is scratch else np.frombuffer(raw, np.uint8)
        except Exception as error:  # each codec raises its own
            what = f"{self.where(place)} can't be decoded: {error}"
            raise DataError(what, self.ticks(place)) from error

    def shaped(self, chunk: UInt8[np.ndarray, "bytes"]) -> npt.NDArray[Any]:
        return np.ndarray(self._chunk, self.dtype, chunk, order=self._order)

    def assemble(self, number: int, chunks: Iterator[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A block from the chunks at its places, cut to the array's end."""
        rows = min(self.chunk_length, self.shape[0] - number * self.chunk_length)
        if self.is_whole:
            return next(chunks)[:rows]
        whole = np.empty((rows, *self.shape[1:]), self.dtype)
        for column in self.columns:
            starts = (0, *(i * c for i, c in zip(column, self._chunk[1:], strict=True)))
            target = whole[tuple(slice(s, s + c) for s, c in zip(starts, self._chunk, strict=True))]
            target[...] = next(chunks)[tuple(slice(size) for size in target.shape)]
        return whole

    def ticks(self, place: tuple[int, ...]) -> tuple[int, int]:
        """The first tick of a chunk, and one past its last."""
        first = place[0] * self._chunk[0]
        return first, min(first + self._chunk[0], self.shape[0])

    def where(self, place: tuple[int, ...]) -> str:
        """A chunk's name for messages."""
        first, end = self.ticks(place)
        ticks = f"tick {first}" if end == first + 1 else f"ticks {first} to {end - 1}"
        return f"{self.key}: {ticks}: chunk {'.'.join(map(str, place))}"

    def span(self, place: tuple[int, ...]) -> Span | None:
        """Where a chunk's bytes are; None where its shard says that it was never written."""
        if self._per_shard is None:
            return Span(self._start + self._separator.join(map(str, place)))
        file, number = [], 0
        for position, count in zip(place, self._per_shard, strict=True):
            shard, inner = divmod(position, count)
            file.append(str(shard))
            number = number * count + inner
        key = self._start + self._separator.join(file)
        index = self._index(key, math.prod(self._per_shard))
        if index is None:
            return None
        # item() makes Python's numbers; indexing would make arrays first, at ten times the cost.
        start, size = index.item(number, 0), index.item(number, 1)
        return None if start == MISSING else Span(key, start, size)

    def _index(self, key: str, chunks: int) -> npt.NDArray[np.uint64] | None:
        """Start and size of each chunk of a shard; None where there is no such file."""
        if key not in self._indices:
            length = 16 * chunks + 4
            place = Span(key, 0, length) if self._index_first else Span(key, -length)
            try:
                (raw,) = self.storage.fetch([place])
                self._indices[key] = (
                    None if raw is None else np.frombuffer(_checked(raw), "<u8").reshape(chunks, 2)
                )
            except ValueError as error:
                raise DataError(f"{key}: the index of this shard is damaged: {error}") from error
        return self._indices[key]


def read_blocks(wanted: Sequence[tuple[Array, int]]) -> Iterator[npt.NDArray[Any]]:
    """Blocks of arrays of one dataset, in that order.

    A block may stand on memory that the next one takes over: copy what is to stay.

    Raises:
        DataError: a chunk is missing or can't be decoded.
    """
    if not wanted:
        return
    places = [(array, (n, *column)) for array, n in wanted for column in array.columns]
    spans = [array.span(place) for array, place in places]
    # Memory fresh for each chunk would cost as much as decoding: its pages are mapped one by one.
    scratch = np.empty(max(array.size for array, _ in wanted), np.uint8)

    raw = wanted[0][0].storage.fetch([span for span in spans if span is not None])

    def chunks() -> Iterator[npt.NDArray[Any]]:
        for (array, place), span in zip(places, spans, strict=True):
            value = array.take(place, span, raw)
            yield array.shaped(array.decode(place, value, scratch[: array.size]))

    decoded = chunks()
    for array, number in wanted:
        yield array.assemble(number, decoded)


def read_frames(
    arrays: Sequence[Array],
    ticks: Int[np.ndarray, "n"],
    out: UInt8[np.ndarray, "n H W C"] | None = None,
) -> UInt8[np.ndarray, "n H W C"]:
    """Frames of arrays [N, 3, H, W] of one dataset, in that order.

    A chunk that holds several of them is decoded once.

    Args:
        arrays: of each frame.
        ticks: of each frame.
        out: where they are put; in memory of their own if not given.

    Raises:
        DataError: a chunk is missing or can't be decoded.
    """
    if out is None:
        channels, height, width = arrays[0].shape[1:]
        out = np.empty((len(ticks), height, width, channels), np.uint8)
    if all(array.is_image for array in arrays):
        _read_images(arrays, ticks, out)
        return out
    places: dict[tuple[Array, int], list[tuple[int, int]]] = {}
    for at, (array, tick) in enumerate(zip(arrays, ticks.tolist(), strict=True)):
        number, row = divmod(tick, array.chunk_length)
        places.setdefault((array, number), []).append((at, row))
    for block, targets in zip(read_blocks(list(places)), places.values(), strict=True):
        for at, row in targets:
            # Interleaves the planes many times faster than NumPy's strided copy.
            cv2.merge(tuple(block[row]), out[at])
    return out


def _read_images(
    arrays: Sequence[Array], ticks: Int[np.ndarray, "n"], out: UInt8[np.ndarray, "n H W C"]
) -> None:
    """`read_frames` where each frame is a chunk: what it does besides decoding counts."""
    if not arrays:
        return
    places = [(tick, 0, 0, 0) for tick in ticks.tolist()]
    spans = [array.span(place) for array, place in zip(arrays, places, strict=True)]
    raw = arrays[0].storage.fetch([span for span in spans if span is not None])
    scratch = np.empty(arrays[0].size, np.uint8)
    planes = tuple(scratch.reshape(out.shape[-1], *out.shape[1:3]))
    for array, place, span, target in zip(arrays, places, spans, out, strict=True):
        decoded = array.decode(place, array.take(place, span, raw), scratch)
        if decoded is not scratch:
            scratch[:] = decoded
        cv2.merge(planes, target)


def _array_v2(storage: Storage, key: str, metadata: Mapping[str, Any]) -> Array:
    compressor, filters = metadata["compressor"], metadata["filters"] or []
    separator = metadata.get("dimension_separator", ".")
    return Array(
        storage,
        key,
        shape=tuple(metadata["shape"]),
        dtype=np.dtype(metadata["dtype"]),
        chunk=tuple(metadata["chunks"]),
        prefix="",
        separator=separator,
        decoders=[_decoder(each) for each in (*filters, compressor) if each is not None],
        order=metadata["order"],
    )


def _array_v3(storage: Storage, key: str, metadata: Mapping[str, Any]) -> Array:
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular":
        raise DataError(f"{key}: its chunk grid {grid['name']!r} is not known")
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    chunk, codecs = tuple(grid["configuration"]["chunk_shape"]), metadata["codecs"]
    shard, index_first = None, False
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        shard, chunk, codecs = chunk, tuple(inner["chunk_shape"]), inner["codecs"]
        index_first = inner.get("index_location", "end") == "start"
    dtype = np.dtype(metadata["data_type"])
    decoders = []
    for codec in codecs:
        name, options = codec["name"], codec.get("configuration", {})
        if name == "bytes":
            dtype = dtype.newbyteorder(">" if options.get("endian") == "big" else "<")
        elif name == "crc32c":
            decoders.append(_checked)
        elif name in ("blosc", "zstd", "gzip"):
            decoders.append(_decoder({"id": name}))
        else:
            raise DataError(f"{key}: its codec {name!r} is not known")
    return Array(
        storage,
        key,
        shape=tuple(metadata["shape"]),
        dtype=dtype,
        chunk=chunk,
        prefix=f"c{separator}" if is_default else "",
        separator=separator,
        decoders=decoders,
        shard=shard,
        index_first=index_first,
    )


def _decoder(config: Mapping[str, Any]) -> Decoder:
    """What undoes a codec that numcodecs knows under its `id`."""
    if config["id"] == "blosc":
        return _unblosc
    codec = numcodecs.get_codec(dict(config))
    return lambda raw, _: codec.decode(raw)


def _unblosc(raw: Any, out: Any) -> Any:
    # Blosc itself trusts the lengths in its header and would read past the end of a chunk cut off.
    if len(raw) < BLOSC_HEADER.size:
        raise ValueError("it is cut off")
    decoded, _, encoded = BLOSC_HEADER.unpack_from(raw)
    if encoded != len(raw):
        raise ValueError(f"it is cut off: {len(raw)} of {encoded} bytes")
    # What has another size than its array says, the caller refuses.
    return blosc.decompress(raw, out if out is not None and len(out) == decoded else None)


def _checked(raw: Any, _: Any = None) -> Any:
    body, check = bytes(raw[:-4]), int.from_bytes(raw[-4:], "little")
    if google_crc32c.value(body) != check:
        raise ValueError("its checksum differs")
    return body
