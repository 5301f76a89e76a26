"""What all converters out of the project's format share: the dataset is looked through before
anything is written, and the result is put in its place whole or not at all."""

import contextlib
import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float32, UInt8

from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store.reader import Entry, Reader, read_frames
from gameplay_pipeline.store.writer import discard_partial, partial_folder

BLOCK = 64
"""Frames that are read together."""


@dataclasses.dataclass(frozen=True)
class Export:
    """What every converter out of the project's format is told."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """A folder, a .zip, or a URL of either."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new folder; it must not be there yet."""
    lossless: bool = dataclasses.field(default=False, kw_only=True)
    """Keep every pixel as it is; the result is several times larger."""
    assume_color_order: Literal["RGB", "BGR"] | None = dataclasses.field(default=None, kw_only=True)
    """What the frames are in, where the dataset does not say."""


class Opened(NamedTuple):
    """A dataset of ours, by its metadata."""

    reader: Reader
    names: list[str]
    """Of the episodes, in order."""
    entries: dict[str, Entry]
    """Of those whose metadata can be read."""
    color_order: str
    """RGB or BGR."""
    size: tuple[int, int]
    """Height and width of most episodes' frames."""


class Tables(NamedTuple):
    """What an episode holds besides its frames."""

    actions: Bool[np.ndarray, "N A"]
    state: Float32[np.ndarray, "N S"] | None
    """None where the dataset has no state."""


def open_source(job: Export) -> Opened:
    """Opens what is to be converted, and names what no format that we write has a place for.

    Raises:
        UserError: there is no such dataset, OUT is there already or lies in it, or it can't be
            told what its frames or actions are.
    """
    if job.out.exists():
        raise UserError(f"{job.out} is there already; choose another path or remove it")
    if not is_url(job.source):
        if not Path(job.source).exists():
            raise UserError(f"{job.source}: there is no such dataset")
        if Path(job.source).resolve() in job.out.resolve().parents:
            raise UserError(f"OUT {job.out} lies in {job.source}")
    reader = Reader(job.source)
    names = reader.names()
    found = dict(zip(names, reader.entries(names), strict=True))
    others = {array for name in names for array in reader.other_arrays(name)}
    if not isinstance(reader.attributes.get("keys"), list):
        raise UserError(f"{job.source}: the root attribute 'keys' is missing")
    said = reader.attributes.get("color_order")
    color = said if said in ("RGB", "BGR") else job.assume_color_order
    if color is None:
        raise UserError(
            f"{job.source} does not say what its frames are in; "
            "give --assume-color-order RGB or BGR"
        )
    entries = {name: each for name, each in found.items() if isinstance(each, Entry)}
    shapes = [each.arrays["frames"].shape for each in entries.values() if "frames" in each.arrays]
    sizes = Counter(shape[2:] for shape in shapes if len(shape) == 4)
    if not sizes:
        raise UserError(f"{job.source}: none of its episodes has frames")
    lost = [f"the array {array!r} of the episodes" for array in sorted(others)]
    if names != [f"episode_{number}" for number in range(len(names))]:
        lost.append("the numbers of the episodes: they count from 0 without gaps")
    if not reader.attributes.get("attributes") and any(
        "state" in e.arrays for e in entries.values()
    ):
        lost.append("state, for the root's 'attributes' names no columns")
    say_what_is_lost(lost)
    height, width = sizes.most_common(1)[0][0]
    return Opened(reader, names, entries, color, (height, width))


def say_what_is_lost(what: list[str]) -> None:
    """A line for each."""
    for each in what:
        print(f"not carried over: {each}", flush=True)


def find_entry(reader: Reader, name: str) -> Entry:
    """An episode's metadata.

    Raises:
        DataError: it can't be read.
    """
    (entry,) = reader.entries([name])
    if isinstance(entry, DataError):
        raise entry
    return entry


def read_tables(entry: Entry, attributes: Mapping[str, Any]) -> Tables:
    """Actions and state of an episode, which is looked at as a whole first.

    Args:
        entry: the episode.
        attributes: of the root.

    Raises:
        DataError: something is missing, or of another size than it should be.
        DataError: it can't be read.
    """
    arrays = entry.arrays
    if "frames" not in arrays or "actions" not in arrays:
        raise DataError("it has no frames or no actions")
    shape = arrays["frames"].shape
    if len(shape) != 4 or shape[1] != 3 or shape[0] == 0:
        raise DataError(f"its frames have shape {shape}, not [N, 3, H, W]")
    columns = {"actions": len(attributes["keys"]), "state": len(attributes.get("attributes") or ())}
    for name, count in columns.items():
        found = arrays[name].shape if name in arrays else None
        if count and found != (shape[0], count):
            raise DataError(f"its {name} have shape {found}, not {(shape[0], count)}")
    state = arrays["state"].read().astype(np.float32) if columns["state"] else None
    return Tables(arrays["actions"].read().astype(bool), state)


def read_rgb(
    entry: Entry, color_order: str, size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    """The frames of an episode, some at a time.

    Args:
        entry: the episode.
        color_order: what they are in, RGB or BGR.
        size: height and width that they must have.

    Raises:
        DataError: they are of another size.
        DataError: they can't be read.
    """
    frames = entry.arrays["frames"]
    length, _, height, width = frames.shape
    if (height, width) != size:
        raise DataError(f"its frames are {height}x{width}, most are {size[0]}x{size[1]}")
    for first in range(0, length, BLOCK):
        ticks = np.arange(first, min(first + BLOCK, length))
        block = read_frames([frames] * len(ticks), ticks)
        yield block[..., ::-1] if color_order == "BGR" else block


@contextlib.contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A new folder beside OUT, to be renamed to it when it is complete; otherwise it goes.

    Raises:
        UserError: it can't be made.
    """
    folder = partial_folder(out)
    discard_partial(out)
    try:
        with writing(folder):
            folder.mkdir(parents=True)
        yield folder
    finally:
        discard_partial(out)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says what could not be written, and why, in a UserError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"{path} can't be written: {reason}" + (". Make room and begin again" if full else "")
        ) from error


def report(out: Path, kept: int, frames: int, left_out: Mapping[str, str]) -> int:
    """Prints what was made, and why episodes were left out; returns how many."""
    print(f"{out}: {kept:,} episodes, {frames:,} frames")
    for name, problem in left_out.items():
        print(f"left out: {name}: {problem}")
    return len(left_out)
