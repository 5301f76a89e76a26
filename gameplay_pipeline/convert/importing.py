"""What all converters into the project's format share: episodes in parallel, resumed, reported."""

import contextlib
import dataclasses
import importlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from jaxtyping import Float32
from rich.console import Console
from rich.table import Table

from gameplay_pipeline.environments.adapter import parse_size
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.workers import in_processes
from gameplay_pipeline.store.writer import (
    DatasetInfo,
    ZarrFormat,
    episode_attributes,
    open_dataset,
    partial_folder,
    size_on_disk,
    sole_writer,
)

SOURCE = "source_episode"
"""Attribute of an episode: what it was called where it comes from."""


LISTED = 5
"""Episodes that a note names; those that were left out are named all."""


@dataclasses.dataclass(frozen=True)
class Import:
    """What every converter into the project's format is told."""

    source: Path
    """What is converted."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new dataset; one begun with the same settings is continued."""
    resolution: str | None = dataclasses.field(default=None, kw_only=True)
    """Size of the frames in pixels, WIDTHxHEIGHT, by an area filter; theirs if not given."""
    zarr_format: ZarrFormat = dataclasses.field(default=3, kw_only=True)
    """3 (sharded), or 2 for readers that know no other."""
    workers: int | None = dataclasses.field(default=None, kw_only=True)
    """Episodes that are converted at the same time; the usable cores if not given."""


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of one episode."""

    name: str
    frames: int = 0
    problem: str | None = None
    """Why it was left out."""
    notes: tuple[str, ...] = ()
    """What was mended or could not be carried over in it."""
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    """What is worth a sum over all episodes, by its description."""


def require(module: str, group: str) -> Any:
    """Imports what only conversions need.

    Raises:
        UserError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"this needs the package {module.partition('.')[0]}, which is in the group {group!r}: "
            f"uv run --group {group} -m ..."
        ) from error


def size_of(resolution: str) -> tuple[int, int]:
    """Width and height from --resolution.

    Raises:
        UserError: it is not WIDTHxHEIGHT.
    """
    try:
        return parse_size(resolution)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def check_places(job: Import, what: str) -> None:
    """Refuses places that can't be read from and written to.

    Raises:
        UserError: there is no such folder of `what`, or OUT is no folder's name or lies in it.
    """
    source, out = job.source, job.out
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder of {what}")
    if "://" in str(out) or out.suffix == ".zip" or not out.name:
        raise UserError(f"{out}: OUT must name a folder; zip or upload it afterwards")
    one, other = source.resolve(), out.resolve()
    if any(
        one == place or one in place.parents or place in one.parents
        for place in (other, partial_folder(other))
    ):
        raise UserError(f"OUT {out} and {source} lie in one another")


def as_float32(
    values: npt.NDArray[Any], names: Sequence[str]
) -> tuple[Float32[np.ndarray, "N S"], list[str]]:
    """State as the format has it, and a note on each column whose whole numbers were rounded.

    Args:
        values: [N, S].
        names: of the S columns.
    """
    state = values.astype(np.float32)
    notes = []
    for column, name in enumerate(names):
        before, after = values[:, column], state[:, column]
        rounded = (before == np.floor(before)) & (before != after)
        if rounded.any():
            notes.append(
                f"{name} is rounded: float32 can't hold every whole number above 16,777,216"
            )
    return state, notes


def check_workers(workers: int | None) -> None:
    """Raises a UserError where there would be none."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}, but must be 1 or more")


def run(
    do: Callable[[tuple[str, int]], Done],
    names: Sequence[str],
    job: Import,
    info: DatasetInfo,
) -> int:
    """Converts the episodes that the new dataset lacks, and reports.

    Args:
        do: writes one episode, given its name and number, with its name as the attribute `SOURCE`.
        names: of all episodes.
        job: where to, and in how many processes.
        info: of the dataset.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: the dataset there is another one, or it can't be written. What is complete by
            then is kept.
    """
    check_workers(job.workers)
    with sole_writer(job.out):
        return _convert(do, names, job, info)


def _convert(
    do: Callable[[tuple[str, int]], Done], names: Sequence[str], job: Import, info: DatasetInfo
) -> int:
    out = job.out
    taken = open_dataset(out, info, job.zarr_format)
    there = {each.get(SOURCE) for each in episode_attributes(out).values()}
    pending = [name for name in names if name not in there]
    if there:
        print(
            f"{out}: {len(names) - len(pending)} of {len(names)} episodes are there already, "
            f"{len(pending) or 'none'} left",
            flush=True,
        )
    # What was left out before gets the number again that it would have had.
    free = (number for number in range(len(taken) + len(pending)) if number not in taken)
    began = time.monotonic()
    results: list[Done] = []
    doing = in_processes(do, list(zip(pending, free, strict=False)), job.workers)
    with contextlib.closing(doing):
        results += track(
            doing,
            "converting",
            total=len(names),
            pending=len(pending),
            frames_of=lambda done: done.frames,
        )
    results.sort(key=lambda done: pending.index(done.name))
    return _report(out, results, time.monotonic() - began)


def _report(out: Path, results: list[Done], seconds: float) -> int:
    frames = sum(done.frames for done in results)
    episodes = episode_attributes(out)
    left_out = [done for done in results if done.problem is not None]
    rows = {
        "episodes": f"{len(episodes):,}",
        "frames": f"{sum(each['frame_count'] for each in episodes.values()):,}",
        "converted": f"{frames:,} frames, {frames / max(seconds, 1e-9):,.0f} frames/s",
        "left out": f"{len(left_out):,} episodes",
        "size on disk": f"{size_on_disk(out) / 2**20:,.1f} MiB",
    }
    table = Table(show_header=False)
    for row in rows.items():
        table.add_row(*row)
    print(f"{out}:")
    Console(highlight=False).print(table)
    for what, count in sum((done.counts for done in results), Counter()).most_common():
        print(f"{what}: {count:,}")
    noted: dict[str, list[str]] = {}
    for done in results:
        for note in done.notes:
            noted.setdefault(note, []).append(done.name)
    for note, names in noted.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        print(f"{', '.join(names[:LISTED])}{more}: {note}")
    for done in left_out:
        print(f"left out: {done.name}: {done.problem}")
    return len(left_out)
