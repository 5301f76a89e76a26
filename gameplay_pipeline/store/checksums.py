"""Checksums of all files of a dataset that has none of its own, in a file beside it.

The file is one of `sha256sum`: `cd FOLDER && sha256sum --check NAME.sha256` verifies it too.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gameplay_pipeline.plumbing.errors import UserError

THREADS = 4
"""Files hashed at a time; hashing lets other threads run."""


class Difference(NamedTuple):
    """A file that is not as the checksums say."""

    file: str
    """Relative to the folder that holds the dataset."""
    what: str


def manifest_path(dataset: Path) -> Path:
    """Where a dataset's checksums are: beside it, so that they don't change it."""
    return dataset.with_name(f"{dataset.name}.sha256")


def write_checksums(dataset: Path) -> int:
    """Writes the checksums of all files of a dataset, a folder or a .zip; gives their number.

    Raises:
        UserError: it can't be read, or they can't be written.
    """
    lines = [f"{digest}  {file}\n" for file, digest in _digests(dataset, _files(dataset))]
    temporary = manifest_path(dataset).with_suffix(".sha256.new")
    try:
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        temporary.replace(manifest_path(dataset))
    except OSError as error:
        raise UserError(f"{manifest_path(dataset)} can't be written: {error.strerror}") from error
    return len(lines)


def verify_checksums(dataset: Path) -> list[Difference]:
    """Compares all files of a dataset with the checksums beside it.

    Raises:
        UserError: there are none, or a file can't be read.
    """
    try:
        text = manifest_path(dataset).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{manifest_path(dataset)} can't be read: {error}") from error
    expected = {
        file: digest for digest, _, file in (line.partition("  ") for line in text.splitlines())
    }
    files = _files(dataset)
    differences = [Difference(file, "is missing") for file in sorted(expected.keys() - set(files))]
    for file, digest in _digests(dataset, files):
        if file not in expected:
            differences.append(Difference(file, "is not among the checksums"))
        elif expected[file] != digest:
            differences.append(Difference(file, "is not what it was: its checksum differs"))
    return differences


def _files(dataset: Path) -> list[str]:
    if not dataset.exists():
        raise UserError(f"{dataset}: no such dataset on this machine")
    if dataset.is_file():
        return [dataset.name]
    files, walked = [], set()
    # Recordings are merged by links to their episodes, which may lead in a circle.
    for folder, folders, names in os.walk(dataset, followlinks=True):
        place = os.path.realpath(folder)
        folders[:] = [] if place in walked else folders
        walked.add(place)
        paths = [Path(folder) / name for name in names]
        files += [p.relative_to(dataset.parent).as_posix() for p in paths if p.is_file()]
    return sorted(files)


def _digests(dataset: Path, files: list[str]) -> Iterator[tuple[str, str]]:
    def digest(file: str) -> str:
        try:
            with (dataset.parent / file).open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{dataset.parent / file}: {error.strerror}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        yield from zip(files, pool.map(digest, files), strict=True)
