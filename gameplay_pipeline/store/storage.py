"""Where a dataset's bytes are: a folder, a .zip, or either of them behind a URL. Read only."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import fsspec

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.paths import expand, is_url

HEADER = 30
"""Bytes of a zip entry's own header, before its name."""

SLACK = 64
"""Bytes that an entry's own header may be longer than the archive's directory says."""


class Span(NamedTuple):
    """Bytes of a file: from `start` (negative: counted from its end), `size` of them or all."""

    key: str
    start: int = 0
    size: int | None = None


class Storage(Protocol):
    """Files by key, such as episode_0/frames/.zarray."""

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | memoryview | None]:
        """The bytes of each span, in that order; None where there is no such file.

        They may stand on memory that the next ones take over.

        Raises:
            DataError: a file is there but can't be read.
        """
        ...

    def children(self, folder: str) -> list[str] | None:
        """Names of what is directly in a folder; None where that can't be listed."""
        ...

    def fingerprint(self) -> str:
        """Changes when files do, as far as can be told without reading them."""
        ...


def open_storage(location: str | Path) -> Storage:
    """Opens a folder, a .zip, or a URL of either.

    The keys are relative to the folder that holds the root group: a .zip may have one on top.

    Raises:
        DataError: there is nothing, it can't be reached, or it is a damaged archive.
    """
    location = expand(str(location))
    if is_url(location):
        url = location
        filesystem, path = _filesystem(url)
        if not url.partition("?")[0].endswith(".zip"):
            return Remote(filesystem, path, url)
        folder, _, name = path.rpartition("/")
        remote = Remote(filesystem, folder, url)
        # Opening it below would call everything "not found".
        if next(remote.fetch([Span(name, 0, 4)])) is None:
            raise DataError(f"{url}: there is no such file", is_transient=True)
        try:
            with filesystem.open(path) as file:
                return Archive(remote, name, file, url)
        except DataError:
            raise
        except Exception as error:  # each protocol raises its own
            raise DataError(f"{url}: {_why(error)}", is_transient=True) from error
    path = Path(location)
    if path.is_dir():
        return Folder(path)
    try:
        with path.open("rb") as file:
            return Archive(_File(path), path.name, file, str(path))
    except OSError as error:
        raise DataError(f"{path}: {os.strerror(error.errno or 0)}", is_transient=True) from error


class Folder:
    """A folder on this machine."""

    def __init__(self, path: Path):
        self._path = path.resolve()

    def fetch(self, spans: Sequence[Span]) -> Iterator[memoryview | None]:
        buffer = _Buffer()
        for key, start, size in spans:
            try:
                file = os.open(f"{self._path}/{key}", os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                yield None
                continue
            except OSError as error:
                raise DataError(
                    f"{self._path}/{key}: {error.strerror}", is_transient=True
                ) from error
            try:
                length = os.fstat(file).st_size
                start = max(start + length, 0) if start < 0 else start
                found = buffer.read(file, start, length - start if size is None else size)
            except OSError as error:
                raise DataError(
                    f"{self._path}/{key}: {error.strerror}", is_transient=True
                ) from error
            finally:
                os.close(file)
            yield found

    def children(self, folder: str) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(f"{self._path}/{folder}")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DataError(
                f"{self._path}/{folder}: {error.strerror}", is_transient=True
            ) from error

    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(self._path).encode())
        seen = set()
        # Recordings are merged by links to their episodes.
        for folder, folders, files in os.walk(self._path, followlinks=True):
            place = os.path.realpath(folder)
            folders[:] = [] if place in seen else sorted(folders)
            seen.add(place)
            for name in sorted(files):
                stat = Path(folder, name).stat()
                line = f"{folder}/{name} {stat.st_size} {stat.st_mtime_ns}\n"
                digest.update(line.encode())
        return digest.hexdigest()


class _File:
    """One file on this machine, kept open."""

    def __init__(self, path: Path):
        self._path = path.resolve()
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)

    def fetch(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        buffer = _Buffer()
        for _, start, size in spans:
            try:
                yield buffer.read(self._file, start, size or 0)
            except OSError as error:
                raise DataError(f"{self._path}: {error.strerror}", is_transient=True) from error

    def children(self, folder: str) -> list[str]:
        return [self._path.name]

    def fingerprint(self) -> str:
        stat = os.fstat(self._file)
        return f"{self._path} {stat.st_size} {stat.st_mtime_ns}"


class Remote:
    """A folder behind a URL."""

    def __init__(self, filesystem: Any, path: str, url: str):
        self._filesystem, self._path, self._url = filesystem, path.rstrip("/"), url

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | None]:
        if not spans:
            return
        found = self._filesystem.cat_ranges(
            [f"{self._path}/{key}" for key, _, _ in spans],
            [start for _, start, _ in spans],
            [None if size is None else start + size for _, start, size in spans],
            on_error="return",
        )
        for span, value in zip(spans, found, strict=True):
            if isinstance(value, FileNotFoundError):
                yield None
            elif isinstance(value, Exception):
                raise DataError(
                    f"{self._url}: {span.key}: {_why(value)}", is_transient=True
                ) from value
            elif len(value) > _most(span, len(value)):
                raise DataError(
                    f"{self._url}: the server sends whole files when asked for parts of them; "
                    "download the dataset, or use a server that supports Range requests",
                    is_transient=True,
                )
            else:
                yield value

    def children(self, folder: str) -> list[str] | None:
        path = f"{self._path}/{folder}".rstrip("/")
        try:
            found = self._filesystem.ls(path, detail=False)
        except Exception:  # each protocol has its own way to say that it has no listing
            return None
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def fingerprint(self) -> str:
        """Of the file that the URL names; of a folder, of its metadata alone."""
        keys = [".zmetadata", "zarr.json", ".zattrs"]
        try:
            parts = list(self.fetch([Span(key) for key in keys]))
        except DataError:
            parts = []
        digest = hashlib.sha256(self._url.encode())
        for part in parts:
            digest.update(part or b"")
        with contextlib.suppress(Exception):  # a folder has no such information over HTTP
            information = dict(self._filesystem.info(self._filesystem._strip_protocol(self._url)))
            information.pop("url", None)  # where a server redirects to, signed anew each time
            digest.update(json.dumps(information, sort_keys=True, default=str).encode())
        return digest.hexdigest()


class _Entry(NamedTuple):
    """Where a file lies in an archive."""

    start: int
    """Of its header."""
    header: int
    """Length of its header, as far as the directory tells."""
    size: int
    """As stored."""
    compression: int


class Archive:
    """A .zip, read without unpacking it; the folder that holds its root group is its root."""

    def __init__(self, base: Storage, name: str, file: Any, where: str):
        """Reads the directory of the archive.

        Args:
            base: what holds the archive.
            name: the archive's key there.
            file: the archive as an open file, for its directory.
            where: for messages.
        """
        self._base, self._name, self._where = base, name, where
        self._starts: dict[str, int] = {}
        try:
            file.seek(0, os.SEEK_END)
            length = file.tell()
            with zipfile.ZipFile(file) as archive:
                found = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise DataError(
                f"{where}: neither a folder nor a whole .zip: {error}. "
                "If it was downloaded, download it again.",
                is_transient=True,
            ) from error
        for info in found:
            if info.filename.startswith(("/", "\\")) or ".." in info.filename.split("/"):
                raise DataError(
                    f"{where}: its entry {info.filename!r} points outside the archive",
                    is_transient=True,
                )
            if info.header_offset < 0 or info.header_offset + info.compress_size > length:
                raise DataError(
                    f"{where}: its entry {info.filename!r} lies outside the file, which is "
                    "truncated or damaged; download it again",
                    is_transient=True,
                )
            if info.flag_bits & 1 or info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise DataError(
                    f"{where}: its entry {info.filename!r} is encrypted or packed in a way other "
                    "than stored and deflated",
                    is_transient=True,
                )
        roots = [
            info.filename.rpartition("/")[0]
            for info in found
            if info.filename.rpartition("/")[2] in (".zgroup", "zarr.json")
        ]
        if not roots:
            raise DataError(f"{where}: there is no zarr group in this .zip", is_transient=True)
        top = min(roots, key=lambda folder: folder.count("/") + bool(folder))
        prefix = f"{top}/" if top else ""
        self._entries: dict[str, _Entry] = {}
        self._children: dict[str, dict[str, None]] = defaultdict(dict)
        for info in found:
            if info.is_dir() or not info.filename.startswith(prefix):
                continue
            key = info.filename.removeprefix(prefix)
            header = HEADER + len(info.orig_filename.encode()) + SLACK
            self._entries[key] = _Entry(
                info.header_offset, header, info.compress_size, info.compress_type
            )
            while key:
                key, _, child = key.rpartition("/")
                if child in self._children[key]:
                    break
                self._children[key][child] = None

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | memoryview | None]:
        wanted = [self._place(span) for span in spans]
        raw = self._base.fetch([place for place in wanted if place is not None])
        for span, place in zip(spans, wanted, strict=True):
            if place is None:
                yield None
                continue
            found = next(raw)
            yield found if place[1] != self._entries[span[0]].start else self._cut(span, found)

    def children(self, folder: str) -> list[str]:
        return list(self._children.get(folder.rstrip("/"), ()))

    def fingerprint(self) -> str:
        return self._base.fingerprint()

    def _place(self, span: Span) -> Span | None:
        """The bytes of the archive that a span needs: its own where the length of its header is
        known, otherwise those from the header on."""
        entry = self._entries.get(span.key)
        if entry is None:
            return None
        key, first, size = span
        start = self._starts.get(key)
        if start is None and entry.compression == zipfile.ZIP_STORED and (first or size):
            # Part of a large file, such as a shard, is worth a reading of its header.
            (raw,) = self._base.fetch([Span(self._name, entry.start, entry.header)])
            start = self._header(key, entry, raw or b"")
        if start is None:
            return Span(self._name, entry.start, entry.header + entry.size)
        if first < 0:
            first = max(first + entry.size, 0)
        left = max(entry.size - first, 0)
        return Span(self._name, start + first, left if size is None else min(size, left))

    def _header(self, key: str, entry: _Entry, raw: bytes | memoryview) -> int:
        """Where an entry's bytes start, which only its own header tells."""
        if bytes(raw[:4]) != b"PK\x03\x04":
            raise DataError(f"{self._where}: {key} is not where the archive's directory says")
        name, extra = (int.from_bytes(raw[at : at + 2], "little") for at in (26, 28))
        start = entry.start + HEADER + name + extra
        if entry.compression == zipfile.ZIP_STORED:
            self._starts[key] = start
        return start

    def _cut(self, span: Span, raw: bytes | memoryview | None) -> bytes | memoryview:
        """A span of an entry that was read with its header."""
        entry = self._entries[span.key]
        raw = raw or b""
        first = self._header(span.key, entry, raw) - entry.start
        data = memoryview(raw)[first : first + entry.size]
        if len(data) < entry.size:
            raise DataError(f"{self._where}: {span.key} is cut off")
        if entry.compression == zipfile.ZIP_STORED:
            return data
        try:
            whole = zlib.decompress(data, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise DataError(f"{self._where}: {span.key} can't be unpacked: {error}") from error
        first = max(span.start + len(whole), 0) if span.start < 0 else span.start
        return whole[first : None if span.size is None else first + span.size]


class _Buffer:
    """Memory that one read after the other goes into: fresh memory would cost more than reading,
    since its pages are mapped one by one."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def read(self, file: int, start: int, size: int) -> memoryview:
        """`size` bytes from `start`, or fewer at the file's end."""
        if len(self._memory) < size:
            self._memory = memoryview(bytearray(size))
        found = self._memory[:size]
        done = os.preadv(file, [found], start)
        while done < size and (more := os.preadv(file, [found[done:]], start + done)):
            done += more  # one call stops at 2 GiB
        return found[:done]


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        if url.startswith("hf://"):
            # Plain HTTP: the hub's own file system reads one range after the other.
            token = os.environ.get("HF_TOKEN")
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            url = _hub_address(url)
            return fsspec.core.url_to_fs(url, client_kwargs={"headers": headers})
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url}: {error}. https:// and hf:// work as they are; s3:// and gs:// need the extra "
            "`cloud`: uv run --extra cloud ...",
            is_transient=True,
        ) from error


def _hub_address(url: str) -> str:
    """Where hf://datasets/ACCOUNT/NAME[@REVISION]/PATH is served."""
    parts = url.removeprefix("hf://").split("/")
    if len(parts) < 4 or parts[0] != "datasets":
        raise DataError(f"{url}: expected hf://datasets/ACCOUNT/NAME/PATH", is_transient=True)
    name, _, revision = parts[2].partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    path = "/".join(parts[3:])
    return f"{endpoint}/datasets/{parts[1]}/{name}/resolve/{revision or 'main'}/{path}"


def _most(span: Span, found: int) -> int:
    """Bytes that a span can have, of which `found` came."""
    if span.size is not None:
        return span.size
    return -span.start if span.start < 0 else found


def _why(error: Exception) -> str:
    """An error of a protocol in a line: its message, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
