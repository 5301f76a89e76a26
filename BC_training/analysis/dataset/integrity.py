"""Whether damage to a dataset's bytes is noticed, and whether there is any."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from BC_training.common.episodes import Episodes
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store.checksums import manifest_path, verify_checksums, write_checksums
from gameplay_pipeline.store.reader import EPISODE


class Verdict(NamedTuple):
    """What a dataset's checksums say."""

    said: str
    problems: Sequence[Problem] = ()
    """Files that are not what they were: warnings, since training goes by the data alone."""


def verify(episodes: Episodes, *, write: bool) -> Verdict:
    """Compares a dataset with the checksums beside it.

    Those in its chunks, or in the directory of its .zip, are compared whenever they are read.

    Args:
        episodes: the dataset.
        write: whether to write checksums beside it where there are none.

    Raises:
        UserError: a file can't be read, or the checksums can't be written.
    """
    path = Path(episodes.path)
    beside = manifest_path(path)
    if is_url(episodes.path):
        if write:
            raise UserError(f"--checksums: {episodes.path} is not on this machine")
    elif beside.exists():
        problems = [
            Problem("warning", _episode(file), f"{file} {what}")
            for file, what in verify_checksums(path)
        ]
        said = f"files that differ: {len(problems)}" if problems else "all files are as they were"
        return Verdict(f"{beside.name}: {said}", problems)
    elif write:
        return Verdict(f"{beside.name}: written for {write_checksums(path):,} files")
    if all(episode.is_checksummed for episode in episodes.episodes):
        return Verdict("in every chunk, each compared when it is read")
    return Verdict("unverifiable: it has none (--checksums writes some beside it)")


def _episode(file: str) -> str | None:
    """The episode that a file of a dataset belongs to."""
    return next((part for part in file.split("/") if EPISODE.fullmatch(part)), None)
