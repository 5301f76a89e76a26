"""What all converters out of the project's format share: the dataset is examined before anything
is written, and the result appears at OUT complete or not at all."""

import contextlib
import dataclasses
import errno
import functools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float32, UInt8

from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store.checks import names_in
from gameplay_pipeline.store.reader import Entry, Reader, read_frames
from gameplay_pipeline.store.writer import discard_partial, partial_folder, sole_writer

READ_FRAMES = 64
"""Frames that are read together."""


@dataclasses.dataclass(frozen=True)
class Export:
    """The arguments that every converter out of the project's format takes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """A folder, a .zip, or a URL of either."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new folder; it must not exist yet."""
    lossless: bool = dataclasses.field(default=False, kw_only=True)
    """Store every pixel exactly; the result is several times larger."""
    assume_color_order: Literal["RGB", "BGR"] | None = dataclasses.field(default=None, kw_only=True)
    """Channel order of the frames, for a dataset that does not say."""


class Source(NamedTuple):
    """A dataset in the project's format, known by its metadata only."""

    reader: Reader
    names: list[str]
    """Names of the episodes, in order."""
    entries: dict[str, Entry]
    """The episodes whose metadata can be read, by name."""
    color_order: str
    """RGB or BGR."""
    size: tuple[int, int]
    """Height and width that the frames of most episodes have."""


class Tables(NamedTuple):
    """What an episode contains besides its frames."""

    actions: Bool[np.ndarray, "N A"]
    state: Float32[np.ndarray, "N S"] | None
    """None where the dataset has no state."""


@functools.lru_cache(maxsize=1)
def open_reader(location: str) -> Reader:
    """Opens a dataset once in each process: to read the directory of a large .zip takes a second.

    Raises:
        DataError: there is no dataset, or it can't be read.
    """
    return Reader(location)


def open_source(job: Export) -> Source:
    """Opens the dataset to be converted, and names what none of the other formats has a place for.

    Raises:
        UserError: there is no such dataset, OUT exists already or is inside it, or the dataset does
            not say what its frames or actions are.
    """
    if job.out.exists():
        raise UserError(f"{job.out} exists already; choose another path or remove it")
    if not is_url(job.source):
        if not Path(job.source).exists():
            raise UserError(f"{job.source}: there is no such dataset")
        if Path(job.source).resolve() in job.out.resolve().parents:
            raise UserError(f"OUT must not be inside {job.source}, but it is {job.out}")
    open_reader.cache_clear()  # it may have changed since another job in this process
    reader = open_reader(job.source)
    names = reader.names()
    examined = dict(zip(names, reader.entries(names), strict=True))
    if not names_in(job.source, reader.attributes, "keys"):
        raise UserError(f"{job.source}: the root attribute 'keys' is missing")
    names_in(job.source, reader.attributes, "attributes")
    color = known_color_order(reader.attributes, job.assume_color_order)
    if color is None:
        raise UserError(
            f"{job.source} does not say in which order its frames have their channels; "
            "give --assume-color-order RGB or BGR"
        )
    entries = {name: entry for name, entry in examined.items() if isinstance(entry, Entry)}
    shapes = [e.arrays["frames"].shape for e in entries.values() if "frames" in e.arrays]
    sizes = Counter(shape[2:] for shape in shapes if len(shape) == 4)
    if not sizes:
        raise UserError(f"{job.source}: none of its episodes has frames")
    lost = unnamed_data(reader, names, entries.values())
    if names != [f"episode_{number}" for number in range(len(names))]:
        lost.append("the numbers of the episodes, which are counted anew from 0")
    print_not_carried_over(lost)
    height, width = sizes.most_common(1)[0][0]
    return Source(reader, names, entries, color, (height, width))


def unnamed_data(
    reader: Reader, names: Sequence[str], entries: Iterable[Entry], carried: Collection[str] = ()
) -> list[str]:
    """Describes what a dataset contains that its format has no name for, but for some arrays."""
    others = {array for name in names for array in reader.other_arrays(name)} - {*carried}
    unnamed = [f"the array {array!r} of the episodes" for array in sorted(others)]
    if not reader.attributes.get("attributes") and any("state" in e.arrays for e in entries):
        unnamed.append("state, since the root attribute 'attributes' does not name its columns")
    return unnamed


def known_color_order(attributes: Mapping[str, Any], assumed: str | None) -> str | None:
    """The channel order of a dataset's frames: what its root says, or else what is assumed."""
    stated = attributes.get("color_order")
    return stated if stated in ("RGB", "BGR") else assumed


def print_not_carried_over(things: list[str]) -> None:
    """Prints a line for each thing that the other format has no place for."""
    for thing in things:
        print(f"not carried over: {thing}", flush=True)


def find_entry(reader: Reader, name: str) -> Entry:
    """Reads the metadata of one episode.

    Raises:
        DataError: it can't be read.
    """
    (entry,) = reader.entries([name])
    if isinstance(entry, DataError):
        raise entry
    return entry


def read_tables(entry: Entry, attributes: Mapping[str, Any]) -> Tables:
    """Reads actions and state of an episode, once its arrays are known to fit together.

    Args:
        entry: the episode.
        attributes: attributes of the root group.

    Raises:
        DataError: an array is missing, can't be read, or has another shape than it should have.
    """
    arrays = entry.arrays
    if "frames" not in arrays or "actions" not in arrays:
        raise DataError("it has no frames or no actions")
    shape = arrays["frames"].shape
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise DataError(f"its frames have shape {shape}, not [N, 3, H, W]")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"its {name} are {array.dtype}, not numbers")
    if arrays["frames"].dtype != np.uint8:
        raise DataError(f"its frames are {arrays['frames'].dtype}, not uint8; repack it first")
    columns = {"actions": len(attributes["keys"]), "state": len(attributes.get("attributes") or ())}
    for name, count in columns.items():
        stored = arrays[name].shape if name in arrays else None
        if count and stored != (shape[0], count):
            raise DataError(f"its {name} have shape {stored}, not {(shape[0], count)}")
    state = arrays["state"].read().astype(np.float32) if columns["state"] else None
    actions = arrays["actions"].read()
    if not np.isin(actions, (0, 1)).all():
        raise DataError("its actions are not all 0 or 1; only buttons can be carried over")
    return Tables(actions == 1, state)


def read_rgb(
    entry: Entry, color_order: str, size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    """Reads the frames of an episode, some at a time, as RGB.

    Args:
        entry: the episode.
        color_order: order of the channels as stored, RGB or BGR.
        size: height and width that they must have.

    Raises:
        DataError: they have another size, or can't be read.
    """
    frames = entry.arrays["frames"]
    length, _, height, width = frames.shape
    if (height, width) != size:
        raise DataError(f"its frames are {height}x{width}, most are {size[0]}x{size[1]}")
    for first in range(0, length, READ_FRAMES):
        ticks = np.arange(first, min(first + READ_FRAMES, length))
        images = read_frames([frames] * len(ticks), ticks)
        yield images[..., ::-1] if color_order == "BGR" else images


@contextlib.contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """Makes a folder beside OUT, for the caller to rename to OUT when it is complete; whatever is
    still there at the end is removed.

    Raises:
        UserError: it can't be made, or another process is writing OUT.
    """
    folder = partial_folder(out)
    with sole_writer(out):  # which removes it at the end
        discard_partial(out)
        with writing(folder):
            folder.mkdir(parents=True)
        yield folder


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the disk into a UserError that says what could not be written, and why."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"{path} can't be written: {reason}" + (". Make room and start again" if full else "")
        ) from error


def report(out: Path, kept: int, frames: int, left_out: Mapping[str, str]) -> int:
    """Prints what was written and why episodes were left out; returns how many were."""
    print(f"{out}: {kept:,} episodes, {frames:,} frames")
    for name, problem in left_out.items():
        print(f"left out: {name}: {problem}")
    return len(left_out)
