"""Where a dataset's bytes are: a folder, a .zip, or either of them behind a URL. Read only."""

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.paths import expand, is_url
from gameplay_pipeline.store.archive import Archive
from gameplay_pipeline.store.remote import open_remote
from gameplay_pipeline.store.span import Span, Storage

OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""How files are opened. Without O_NONBLOCK, opening a pipe would wait for its other end."""

_POSITION = threading.Lock()
"""Holds a file's position where the system can't read elsewhere than at it (Windows)."""


def open_storage(location: str | Path) -> Storage:
    """Opens a folder, a .zip, or a URL of either.

    The keys are relative to the folder that holds the root group: a .zip may have one on top.

    Raises:
        DataError: there is nothing, it can't be reached, or it is a damaged archive.
        UserError: the location names an environment variable or home folder that is not there.
    """
    location = expand(str(location))
    if is_url(location):
        return open_remote(location)
    path = Path(location)
    if path.is_dir():
        return Folder(path)
    try:
        base = _File(path)
        with path.open("rb") as file:
            return Archive(base, path.name, file, str(path))
    except OSError as error:
        raise _unreadable(path, error) from error


class Folder:
    """A folder on this machine."""

    is_checksummed = False

    def __init__(self, path: Path):
        self._path = path.resolve()

    def fetch(self, spans: Sequence[Span]) -> Iterator[memoryview | None]:
        buffer = _Buffer()
        for span in spans:
            path = f"{self._path}/{span.key}"
            try:
                file = os.open(path, OPEN)
            except (FileNotFoundError, NotADirectoryError):
                yield None
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            try:
                value = buffer.read(file, span)
            except OSError as error:
                raise _unreadable(path, error) from error
            except ValueError as error:
                raise DataError(f"{path}: {error}") from error
            finally:
                os.close(file)
            yield value

    def children(self, folder: str) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(f"{self._path}/{folder}")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(f"{self._path}/{folder}", error) from error

    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(self._path).encode())
        walked = set()
        # Recordings are merged by links to their episodes.
        for folder, folders, files in os.walk(self._path, followlinks=True):
            place = os.path.realpath(folder)
            folders[:] = [] if place in walked else sorted(folders)
            walked.add(place)
            for name in sorted(files):
                try:
                    status = Path(folder, name).stat()
                except FileNotFoundError:  # a link to what is there no more
                    continue
                line = f"{folder}/{name} {status.st_size} {status.st_mtime_ns}\n"
                digest.update(line.encode())
        return digest.hexdigest()


class _File:
    """One file on this machine, kept open."""

    is_checksummed = False

    def __init__(self, path: Path):
        self._path = path.resolve()
        self._file = os.open(path, OPEN)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise DataError(f"{path}: it is neither a folder nor a file")

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)

    def fetch(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        buffer = _Buffer()
        for span in spans:
            try:
                yield buffer.read(self._file, span)
            except OSError as error:
                raise _unreadable(self._path, error) from error

    def children(self, folder: str) -> list[str]:
        return [self._path.name]

    def fingerprint(self) -> str:
        status = os.fstat(self._file)
        return f"{self._path} {status.st_size} {status.st_mtime_ns}"


class _Buffer:
    """Memory that one read after the other goes into: fresh memory would cost more than reading,
    since its pages are mapped one by one."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def read(self, file: int, span: Span) -> memoryview:
        """The bytes of a span, or fewer at the file's end.

        Raises:
            OSError: they can't be read.
            ValueError: it is no regular file, or asked for whole and too large for that.
        """
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        start = max(span.start + status.st_size, 0) if span.start < 0 else span.start
        size = max(status.st_size - start, 0)
        if span.size is not None:
            size = min(size, span.size)
        elif size > span.limit():
            raise ValueError(f"it has {size} bytes, too many to be meant")
        if size == 0:
            return self._memory[:0]  # wherever it would start
        if len(self._memory) < size:
            self._memory = memoryview(bytearray(size))
        target = self._memory[:size]
        done = _read_into(file, target, start)
        while done < size and (more := _read_into(file, target[done:], start + done)):
            done += more  # one call stops at 2 GiB
        return target[:done]


def _read_into(file: int, target: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file, [target], start)
    with _POSITION:
        os.lseek(file, start, os.SEEK_SET)
        part = os.read(file, len(target))
    target[: len(part)] = part
    return len(part)


def _unreadable(path: str | Path, error: OSError) -> DataError:
    return DataError(f"{path}: {error.strerror or error}", is_transient=True)
