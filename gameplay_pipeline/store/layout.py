"""What an array's metadata say of its chunks, in zarr format 2 and 3: the one place where types,
codecs and sizes of a dataset are checked against what is allowed, before its bytes become arrays.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.store.codecs import CHECKSUMS, DECODERS, Decoder

DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""Types of elements that an array may have. Objects would be pointers of the file's choice."""

FILTERS = frozenset(["delta", "fixedscaleoffset", "shuffle", "bitround", "quantize", "packbits"])
"""Codecs between arrays that zarr-python may undo besides `transpose`, by their names in zarr."""

MAX_CHUNK = 2**30
"""Bytes of a decoded chunk, above which metadata must be damaged."""

MAX_BESIDE = 10_000
"""Chunks side by side at one tick, above which metadata must be damaged."""

MAX_IN_SHARD = 2**20
"""Chunks in a shard, above which metadata must be damaged."""


class Layout(NamedTuple):
    """How an array whose first axis is the episode's ticks lies on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    """Shape of what is decoded at once."""
    chunks: tuple[int, ...]
    """Number of chunks along each axis."""
    prefix: str
    """Precedes the numbers in a chunk's name."""
    separator: str
    """Stands between the numbers of a chunk's name."""
    decoders: tuple[Decoder, ...]
    """Undo the codecs from bytes to bytes, in the order of decoding."""
    is_checksummed: bool
    """Whether damage to any byte of a chunk is noticed."""
    per_shard: tuple[int, ...] | None
    """Chunks along each axis of a file that holds many; None where each is a file."""
    index_first: bool
    """Whether a shard's index precedes its chunks."""
    chunk_bytes: int
    """Size of a decoded chunk."""
    decoded_limit: int
    """The most bytes that a chunk has without these codecs; filters may make elements wider."""
    is_zero_left_out: bool
    """Whether a chunk that is not there may mean zeros, by zarr's default of leaving those out."""
    zarr_metadata: dict[str, Any] | None
    """Describes chunks side by side, without the codecs above, to zarr-python; None where a chunk
    is all there is at its ticks, in C order and without filters."""

    def places(self, number: int) -> Iterator[tuple[int, ...]]:
        """Places in the grid of the chunks that are side by side, `number` of them after the first
        along the ticks."""
        return itertools.product([number], *map(range, self.chunks[1:]))


def parse(key: str, metadata: Any) -> Layout:
    """The layout of the array `key` from its .zarray or zarr.json.

    Raises:
        DataError: they are damaged, or outside what is allowed; the message names the array.
    """
    try:
        is_new = metadata.get("zarr_format") == 3
        return _parse_v3(metadata) if is_new else _parse_v2(metadata)
    except ValueError as error:
        raise DataError(f"{key}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise DataError(f"{key}: its metadata are damaged: {error!r}") from error


def _parse_v2(metadata: Mapping[str, Any]) -> Layout:
    shape, chunk = _sizes(metadata["shape"], 0), _sizes(metadata["chunks"], 1)
    if not isinstance(metadata["dtype"], str):
        raise ValueError(f"its type {metadata['dtype']!r} is not allowed")
    dtype = _dtype(metadata["dtype"])
    order, separator = metadata["order"], metadata.get("dimension_separator", ".")
    if order not in ("C", "F"):
        raise ValueError(f"its order is {order!r}, not C or F")
    codecs = [*(metadata["filters"] or ()), metadata["compressor"]]
    named = [(codec["id"], codec) for codec in codecs if codec is not None]
    packing = [codec for codec in named if codec[0] in DECODERS]
    filters = [config for name, config in named if name not in DECODERS]
    if packing != named[len(filters) :]:
        raise ValueError(f"its filters {[name for name, _ in named]} are in no order known")
    zarr_metadata = None
    if order == "F" or filters or chunk[1:] != shape[1:]:
        _check_filters(filters)
        zarr_metadata = {
            "zarr_format": 2, "shape": [chunk[0], *shape[1:]], "chunks": chunk, "order": order,
            "dtype": dtype.str, "fill_value": None, "compressor": None, "filters": filters or None,
        }  # fmt: skip
    layout = _layout(shape, dtype, chunk, "", separator, [n for n, _ in packing], zarr_metadata)
    return layout._replace(is_zero_left_out=metadata.get("fill_value") in (0, None))


def _parse_v3(metadata: Mapping[str, Any]) -> Layout:
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular":
        raise ValueError(f"its chunk grid {grid['name']!r} is not known")
    shape, chunk = _sizes(metadata["shape"], 0), _sizes(grid["configuration"]["chunk_shape"], 1)
    is_default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
    codecs, shard, index_first = metadata["codecs"], None, False
    if any(codec["name"] == "sharding_indexed" for codec in codecs):
        if len(codecs) > 1:
            raise ValueError("its shards are packed as wholes, which is not supported")
        inner = codecs[0]["configuration"]
        index_first = inner.get("index_location", "end") == "start"
        if [codec["name"] for codec in inner["index_codecs"]] != ["bytes", "crc32c"]:
            raise ValueError("its shards' index is encoded in a way not known")
        shard, chunk, codecs = chunk, _sizes(inner["chunk_shape"], 1), inner["codecs"]
    names = [codec["name"] for codec in codecs]
    if metadata["data_type"] not in DTYPES or names.count("bytes") != 1:
        raise ValueError(f"its type {metadata['data_type']!r} in codecs {names} is not allowed")
    at = names.index("bytes")
    is_big = codecs[at].get("configuration", {}).get("endian") == "big"
    dtype = _dtype(metadata["data_type"]).newbyteorder(">" if is_big else "<")
    filters = codecs[:at]
    zarr_metadata = None
    if filters or chunk[1:] != shape[1:]:
        _check_filters([{**f.get("configuration", {}), "id": f["name"]} for f in filters])
        zarr_metadata = {
            "zarr_format": 3, "node_type": "array", "shape": [chunk[0], *shape[1:]],
            "data_type": metadata["data_type"], "fill_value": False if dtype.kind == "b" else 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
            "codecs": codecs[: at + 1], "attributes": {},
        }  # fmt: skip
    prefix = f"c{separator}" if is_default else ""
    packing = [name.removeprefix("numcodecs.") for name in names[at + 1 :]]
    layout = _layout(shape, dtype, chunk, prefix, separator, packing, zarr_metadata)
    layout = layout._replace(is_zero_left_out=metadata.get("fill_value") == 0)
    if shard is None:
        return layout
    per_shard = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    if any(s % c for s, c in zip(shard, chunk, strict=True)) or math.prod(per_shard) > MAX_IN_SHARD:
        raise ValueError(f"shards of {shard} in chunks of {chunk} can't be meant")
    return layout._replace(per_shard=per_shard, index_first=index_first)


def _layout(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    prefix: str,
    separator: str,
    packing: Sequence[str],
    zarr_metadata: dict[str, Any] | None,
) -> Layout:
    """What both formats have in common."""
    if not shape:
        raise ValueError("it is a single value, not one for each tick")
    if len(shape) != len(chunk):
        raise ValueError(f"its chunks of {chunk} don't fit its shape {shape}")
    if separator not in (".", "/"):
        raise ValueError(f"its separator is {separator!r}, not . or /")
    for name in packing:
        if name not in DECODERS:
            raise ValueError(f"its codec {name!r} is not supported")
    chunks = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    chunk_bytes = math.prod(chunk) * dtype.itemsize
    if chunk_bytes > MAX_CHUNK or math.prod(chunks[1:]) > MAX_BESIDE:
        raise ValueError(f"shape {shape} in chunks of {chunk} can't be meant")
    return Layout(
        shape=shape,
        dtype=dtype,
        chunk=chunk,
        chunks=chunks,
        prefix=prefix,
        separator=separator,
        decoders=tuple(DECODERS[name] for name in reversed(packing)),
        is_checksummed=bool(packing) and packing[-1] in CHECKSUMS,
        per_shard=None,
        index_first=False,
        chunk_bytes=chunk_bytes,
        decoded_limit=chunk_bytes if zarr_metadata is None else 16 * math.prod(chunk) + 64,
        is_zero_left_out=False,
        zarr_metadata=zarr_metadata,
    )


def _sizes(value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(n) is not int or n < least for n in value):
        raise ValueError(f"{value!r} is no shape of whole numbers of at least {least}")
    return tuple(value)


@functools.lru_cache(64)
def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ValueError(f"its type {name!r} is not known") from error
    if dtype.name not in DTYPES:
        raise ValueError(f"its type {name!r} is not allowed")
    return dtype


def _check_filters(filters: Sequence[Mapping[str, Any]]) -> None:
    """Refuses codecs between arrays, and types that they name, which are not allowed."""
    for config in filters:
        name = config["id"].removeprefix("numcodecs.")
        if name != "transpose" and name not in FILTERS:
            raise ValueError(f"its codec {name!r} is not supported")
        for field in ("dtype", "astype"):
            if field in config:
                _dtype(config[field])
