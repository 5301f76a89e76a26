"""What all converters into the project's format share: episodes are converted in parallel, a
stopped run is resumed, and at the end a report says what was done and what was left out."""

import contextlib
import dataclasses
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
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.workers import in_processes
from gameplay_pipeline.store.writer import (
    SHARD,
    DatasetInfo,
    ZarrFormat,
    episode_attributes,
    open_dataset,
    partial_folder,
    size_on_disk,
    sole_writer,
)

SOURCE_EPISODE = "source_episode"
"""Attribute of an episode: the name that it had where it comes from."""

MAX_SHARD_BYTES = 2**34
"""Enough for frames of 3840x2160."""

MAX_LISTED = 5
"""Episodes that a note names. Those that were left out are all named."""


@dataclasses.dataclass(frozen=True)
class Import:
    """The arguments that every converter into the project's format takes."""

    source: Path | str
    """What is converted."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new dataset, a folder; one begun with the same settings is continued."""
    resolution: str | None = dataclasses.field(default=None, kw_only=True)
    """Size of the new frames in pixels, WIDTHxHEIGHT, resized by area averaging; by default the
    size that they have."""
    zarr_format: ZarrFormat = dataclasses.field(default=3, kw_only=True)
    """3 (sharded), or 2 for readers that support no other."""
    workers: int | None = dataclasses.field(default=None, kw_only=True)
    """Number of episodes converted at the same time; by default the number of usable cores."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What became of one episode."""

    name: str
    frames: int = 0
    problem: str | None = None
    """Why the episode was left out; None if it was converted."""
    notes: tuple[str, ...] = ()
    """What was corrected in it or could not be carried over."""
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    """Figures to be summed over all episodes, by their description."""


def size_of(resolution: str) -> tuple[int, int]:
    """Parses --resolution into width and height.

    Raises:
        UserError: it is not WIDTHxHEIGHT.
    """
    try:
        return parse_size(resolution)
    except ValueError as error:
        raise UserError(f"--resolution: {error}") from error


def check_paths(job: Import, kind: str) -> None:
    """Refuses a source that is not there, and an OUT that can't be written to.

    Args:
        job: says where from and where to.
        kind: kind of source, for the message, such as "folder of recordings".

    Raises:
        UserError: there is no such source, OUT can't be the name of a folder, or one of the two
            is inside the other.
    """
    if is_url(job.out) or job.out.suffix == ".zip" or not job.out.name:
        raise UserError(f"{job.out}: OUT must name a folder; zip or upload it afterwards")
    if is_url(job.source):
        return
    source, out = Path(job.source).resolve(), job.out.resolve()
    if not source.exists():
        raise UserError(f"{job.source}: there is no such {kind}")
    if out == source or source in out.parents:
        raise UserError(f"OUT must not be inside {job.source}, but it is {job.out}")
    for place in (out, partial_folder(out)):
        if source == place or place in source.parents:
            raise UserError(
                f"{job.source} must not be inside {place}, where the new dataset is written"
            )


def as_float32(
    values: npt.NDArray[Any], names: Sequence[str]
) -> tuple[Float32[np.ndarray, "N S"], list[str]]:
    """Rounds the state to the type that the format stores.

    Args:
        values: [N, S].
        names: names of the S columns.

    Returns:
        The state, and a note on each column in which whole numbers changed.
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
    """Raises a UserError if there would be no worker."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}, but must be 1 or more")


def run(
    convert: Callable[[tuple[str, int]], Converted],
    names: Sequence[str],
    job: Import,
    info: DatasetInfo,
    number_of: Callable[[str], int] | None = None,
) -> int:
    """Converts the episodes that the new dataset lacks, and reports.

    Args:
        convert: writes one episode, given its name and its number in the new dataset. Unless
            `number_of` is given, it stores the name as the attribute `SOURCE_EPISODE`.
        names: names of all episodes.
        job: says where to, and in how many processes.
        info: description of the new dataset.
        number_of: the number that an episode keeps, by its name; without it, episodes are numbered
            in the order of `names`.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: there is another dataset at OUT, or it can't be written. Episodes that are
            complete by then are kept.
    """
    check_workers(job.workers)
    for names_of, columns in (("actions", info.keys), ("state columns", info.attributes)):
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise UserError(f"{job.source} has several {names_of} named {', '.join(twice)}")
    if SHARD * 3 * info.height * info.width > MAX_SHARD_BYTES:
        raise UserError(
            f"{job.source}: {SHARD} frames of {info.width}x{info.height}, which are written "
            "together, do not fit into memory; give a smaller --resolution"
        )
    with sole_writer(job.out):
        items = _pending(names, job, info, number_of)
        began = time.monotonic()
        results: list[Converted] = []
        with contextlib.closing(in_processes(convert, items, job.workers)) as converting:
            results += track(
                converting,
                "Converting episodes",
                total=len(names),
                done=len(names) - len(items),
                frames_of=lambda result: result.frames,
            )
        results.sort(key=lambda result: names.index(result.name))
        return _report(job.out, results, time.monotonic() - began)


def _pending(
    names: Sequence[str],
    job: Import,
    info: DatasetInfo,
    number_of: Callable[[str], int] | None,
) -> list[tuple[str, int]]:
    """Opens the new dataset; returns name and number of each episode that it lacks."""
    taken = open_dataset(job.out, info, job.zarr_format)
    if number_of is not None:
        items = [(name, number_of(name)) for name in names if number_of(name) not in taken]
    else:
        complete = {each.get(SOURCE_EPISODE) for each in episode_attributes(job.out).values()}
        pending = [name for name in names if name not in complete]
        # An episode that was left out before gets the number that it would have had.
        free = (number for number in range(len(taken) + len(pending)) if number not in taken)
        items = list(zip(pending, free, strict=False))
    if taken:
        print(
            f"{job.out}: {len(names) - len(items)} of {len(names)} episodes are there already, "
            f"{len(items) or 'none'} left",
            flush=True,
        )
    return items


def _report(out: Path, results: list[Converted], seconds: float) -> int:
    """Prints what was done; returns how many episodes were left out."""
    frames = sum(result.frames for result in results)
    episodes = episode_attributes(out)
    left_out = [result for result in results if result.problem is not None]
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
    Console(highlight=False, markup=False, emoji=False).print(table)
    for what, count in sum((result.counts for result in results), Counter()).most_common():
        print(f"{what}: {count:,}")
    episodes_of: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            episodes_of.setdefault(note, []).append(result.name)
    for note, names in episodes_of.items():
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        print(f"{', '.join(names[:MAX_LISTED])}{more}: {note}")
    for result in left_out:
        print(f"left out: {result.name}: {result.problem}")
    return len(left_out)
