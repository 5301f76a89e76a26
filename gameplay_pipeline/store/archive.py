"""A .zip that is read without unpacking it."""

import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.store.codecs import packed_limit
from gameplay_pipeline.store.span import Span, Storage

HEADER = 30
"""Bytes of a zip entry's own header, before its name."""

SLACK = 64
"""Bytes that an entry's own header may be longer than the archive's directory says."""


class _Entry(NamedTuple):
    """Where a file lies in an archive, as far as the archive's directory tells."""

    start: int
    """Position of its header."""
    header: int
    """The most bytes that its header has."""
    size: int
    """Bytes as stored."""
    unpacked: int
    """Bytes as they were."""
    is_packed: bool
    crc: int
    """CRC-32 of the bytes as they were."""


class Archive:
    """A .zip, read without unpacking it; the folder that holds its root group is its root."""

    is_checksummed = True

    def __init__(self, base: Storage, name: str, file: Any, where: str):
        """Reads the directory of the archive.

        Args:
            base: what holds the archive.
            name: the archive's key there.
            file: the archive as an open file, for its directory.
            where: the archive's name in messages.

        Raises:
            DataError: it is damaged, holds no zarr group, or an entry is not to be trusted.
        """
        self._base, self._name, self._where = base, name, where
        self._starts: dict[str, int] = {}
        infos = self._read_directory(file)
        roots = [
            info.filename.rpartition("/")[0]
            for info in infos
            if info.filename.rpartition("/")[2] in (".zgroup", "zarr.json")
        ]
        if not roots:
            raise DataError(f"{where}: there is no zarr group in this .zip", is_transient=True)
        top = min(roots, key=lambda folder: folder.count("/") + bool(folder))
        prefix = f"{top}/" if top else ""
        self._entries: dict[str, _Entry] = {}
        self._children: dict[str, dict[str, None]] = defaultdict(dict)
        for info in infos:
            if info.is_dir() or not info.filename.startswith(prefix):
                continue
            key = info.filename.removeprefix(prefix)
            header = HEADER + len(info.orig_filename.encode()) + SLACK
            self._entries[key] = _Entry(
                info.header_offset,
                header,
                info.compress_size,
                info.file_size,
                info.compress_type != zipfile.ZIP_STORED,
                info.CRC,
            )
            while key:
                key, _, child = key.rpartition("/")
                if child in self._children[key]:
                    break
                self._children[key][child] = None

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | memoryview | None]:
        wanted = [self._place_or_error(span) for span in spans]
        raw = self._base.fetch([place for place in wanted if isinstance(place, Span)])
        for span, place in zip(spans, wanted, strict=True):
            if isinstance(place, DataError):
                raise place
            yield None if place is None else self._take(span, place, next(raw) or b"")

    def children(self, folder: str) -> list[str]:
        return list(self._children.get(folder.rstrip("/"), ()))

    def fingerprint(self) -> str:
        return self._base.fingerprint()

    def _read_directory(self, file: Any) -> list[zipfile.ZipInfo]:
        try:
            file.seek(0, os.SEEK_END)
            length = file.tell()
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except OSError:
            raise
        except Exception as error:  # a damaged directory may raise anything
            raise DataError(
                f"{self._where}: neither a folder nor a whole .zip: {error}. "
                "If it was downloaded, download it again.",
                is_transient=True,
            ) from error
        for info in infos:
            if wrong := _why_untrusted(info, length):
                raise DataError(
                    f"{self._where}: its entry {info.filename!r} {wrong}", is_transient=True
                )
        return infos

    def _place_or_error(self, span: Span) -> Span | DataError | None:
        """`_place`, with the error in the place of the span that it concerns."""
        try:
            return self._place(span)
        except DataError as error:
            return error

    def _place(self, span: Span) -> Span | None:
        """The bytes of the archive that a span needs: its own where the length of its header is
        known, otherwise those from the header on."""
        entry = self._entries.get(span.key)
        if entry is None:
            return None
        key, first, size = span
        start = self._starts.get(key)
        is_part = first != 0 or (size is not None and size < entry.unpacked)
        if start is None and is_part and not entry.is_packed:
            # Part of a large file, such as a shard, is worth a reading of its header.
            (raw,) = self._base.fetch([Span(self._name, entry.start, entry.header)])
            start = self._header(key, entry, raw or b"")
        if entry.unpacked > span.limit() and not is_part:
            raise DataError(f"{self._where}: {key} is too large to be meant")
        if start is None:
            return Span(self._name, entry.start, entry.header + entry.size)
        if first < 0:
            first = max(first + entry.size, 0)
        left = max(entry.size - first, 0)
        return Span(self._name, start + first, left if size is None else min(size, left))

    def _header(self, key: str, entry: _Entry, raw: bytes | memoryview) -> int:
        """Where an entry's bytes start, which only its own header tells."""
        if bytes(raw[:4]) != b"PK\x03\x04" or len(raw) < HEADER:
            raise DataError(f"{self._where}: {key} is not where the archive's directory says")
        name, extra = (int.from_bytes(raw[at : at + 2], "little") for at in (26, 28))
        start = entry.start + HEADER + name + extra
        if not entry.is_packed:
            self._starts[key] = start
        return start

    def _take(self, span: Span, place: Span, raw: bytes | memoryview) -> bytes | memoryview:
        """A span's bytes from those of its place. An entry that is read whole is compared with its
        checksum in the archive's directory."""
        entry = self._entries[span.key]
        data = self._cut(span, entry, raw) if place.start == entry.start else raw
        if len(data) == entry.unpacked and zlib.crc32(data) != entry.crc:
            raise DataError(
                f"{self._where}: {span.key} is damaged: its checksum is not the one in the "
                "archive's directory"
            )
        return data

    def _cut(self, span: Span, entry: _Entry, raw: bytes | memoryview) -> bytes | memoryview:
        """A span of an entry that was read with its header."""
        first = self._header(span.key, entry, raw) - entry.start
        data = memoryview(raw)[first : first + entry.size]
        if len(data) < entry.size:
            raise DataError(f"{self._where}: {span.key} is cut off")
        if not entry.is_packed:
            return data
        first = max(span.start + entry.unpacked, 0) if span.start < 0 else span.start
        end = min(entry.unpacked, first + span.limit())
        try:
            # No more than is asked for, whatever it would unpack to.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(end, 1))[first:end]
        except zlib.error as error:
            raise DataError(f"{self._where}: {span.key} can't be unpacked: {error}") from error


def _why_untrusted(info: zipfile.ZipInfo, length: int) -> str | None:
    """What is wrong with an entry of an archive of so many bytes."""
    if info.filename.startswith(("/", "\\")) or ".." in info.filename.split("/"):
        return "points outside the archive"
    if info.header_offset < 0 or info.header_offset + info.compress_size > length:
        return "lies outside the file, which is truncated or damaged; download it again"
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if info.compress_size > (info.file_size if is_stored else packed_limit(info.file_size)):
        return "is smaller than what it is packed into; the archive is damaged"
    if info.flag_bits & 1 or not (is_stored or info.compress_type == zipfile.ZIP_DEFLATED):
        return "is encrypted or packed in a way other than stored and deflated"
    return None
