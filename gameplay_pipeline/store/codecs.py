"""Undoes the codecs of zarr chunks, none of which may unpack to more than its array allows.

A codec's own function trusts what the packed bytes say: numcodecs would allocate whatever a header
names, and unpack gzip to its end. Here the size is bounded before anything is unpacked.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from jaxtyping import UInt8
from numcodecs import blosc, lz4, zstd  # pyright: ignore[reportAttributeAccessIssue]

Decoder = Callable[[Any, int, "UInt8[np.ndarray, 'bytes'] | None"], Any]
"""Takes packed bytes, the most bytes that they may unpack to, and where those may be put. It gives
the unpacked bytes, and raises anything where they are damaged."""

BLOSC_HEADER = struct.Struct("<4x3I")
"""Bytes when unpacked, bytes in Blosc's own blocks, bytes as packed."""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

ZSTD_BLOCK = 2**17
"""The most bytes that one block of a Zstandard frame unpacks to."""

LZMA_MEMORY = 2**28

# Every caller decodes in threads of its own; Blosc's would only stand in their way.
blosc.use_threads = False


def packed_limit(size: int) -> int:
    """Bytes that `size` bytes take at most when they are packed, whatever the codec."""
    return size + size // 8 + 1024


def _bounded(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it would unpack to {size} bytes, and the array allows {limit}")


def _blosc(raw: Any, limit: int, out: UInt8[np.ndarray, "bytes"] | None) -> Any:
    # Blosc itself trusts the lengths in its header and would read past the end of a chunk cut off.
    if len(raw) < BLOSC_HEADER.size:
        raise ValueError("it is cut off")
    size, _, packed = BLOSC_HEADER.unpack_from(raw)
    if packed != len(raw):
        raise ValueError(f"it is cut off: {len(raw)} of {packed} bytes")
    _bounded(size, limit)
    return blosc.decompress(raw, out if out is not None and len(out) == size else None)


def _zstd(raw: Any, limit: int, _: Any) -> Any:
    _bounded(zstd_size(raw), limit)
    return zstd.decompress(raw)


def zstd_size(raw: Any) -> int:
    """Bytes that a Zstandard frame unpacks to, or a bound where its header does not say (RFC 8878).

    Raises:
        ValueError: it is cut off, or no single frame.
    """
    raw = memoryview(raw)
    if bytes(raw[:4]) != ZSTD_MAGIC or len(raw) < 6:
        raise ValueError("it is no Zstandard frame")
    flags = raw[4]
    is_single = bool(flags & 0x20)
    at = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (int(is_single), 2, 4, 8)[flags >> 6]
    stated = int.from_bytes(raw[at : at + width], "little") + 256 * (width == 2)
    at += width
    size, is_last = 0, False
    while not is_last:
        if at + 3 > len(raw):
            raise ValueError("it is cut off")
        header = int.from_bytes(raw[at : at + 3], "little")
        is_last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        size += length if kind < 2 else ZSTD_BLOCK
        at += 3 + (1 if kind == 1 else length)
    if at + 4 * (flags >> 2 & 1) != len(raw):
        raise ValueError("it is cut off, or more follows its end")
    return stated if width else size


def _lz4(raw: Any, limit: int, _: Any) -> Any:
    _bounded(int.from_bytes(raw[:4], "little"), limit)
    return lz4.decompress(raw)


def _stream(start: Callable[[], Any]) -> Decoder:
    """Makes a decoder from a standard library's decompressor object."""

    def decode(raw: Any, limit: int, _: Any) -> bytes:
        unpacked, left = b"", bytes(raw)
        while left:  # a gzip file may have several members
            stream = start()
            unpacked += stream.decompress(left, limit + 1 - len(unpacked))
            if len(unpacked) > limit:
                raise ValueError(f"it would unpack to more than the {limit} bytes that it may have")
            if not stream.eof:
                raise ValueError("it is cut off")
            left = stream.unused_data
        return unpacked

    return decode


def crc32c(raw: Any, _: int = 0, __: Any = None) -> bytes:
    """Removes the checksum behind the bytes, having compared it."""
    body, check = bytes(raw[:-4]), int.from_bytes(raw[-4:], "little")
    if google_crc32c.value(body) != check:
        raise ValueError("its checksum differs")
    return body


def _numcodecs(name: str) -> Decoder:
    return lambda raw, _, __: numcodecs.get_codec({"id": name}).decode(raw)


CHECKSUMS: dict[str, Decoder] = {
    "crc32c": crc32c,
    **{name: _numcodecs(name) for name in ("crc32", "adler32", "fletcher32")},
}
"""Codecs that only notice damage, by their names in zarr."""

DECODERS: dict[str, Decoder] = {
    **CHECKSUMS,
    "blosc": _blosc,
    "zstd": _zstd,
    "lz4": _lz4,
    "gzip": _stream(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    "zlib": _stream(zlib.decompressobj),
    "bz2": _stream(bz2.BZ2Decompressor),
    "lzma": _stream(lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY)),
}
"""Every codec from bytes to bytes that a dataset may have, by its name in zarr."""
