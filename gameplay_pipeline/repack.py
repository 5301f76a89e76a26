"""Rewrites a dataset in the layout that is read fastest, and proves that nothing changed.

    uv run -m gameplay_pipeline.repack IN OUT [--resolution 256x144] [--every 2] [--episodes 0-49]

IN is a folder, a .zip or a URL, in zarr format 2 or 3, in chunks of any size; OUT becomes a folder
of zarr 3 with one frame a chunk and many a file. Each episode is read back, by another reader than
the one that read it, and compared before it takes its place in OUT. A run that is stopped goes on
when repeated.
"""

import dataclasses
import hashlib
import itertools
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
import zarr
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table

from gameplay_pipeline.convert.importing import size_of
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.store.reader import Entry, Reader, read_frames
from gameplay_pipeline.store.writer import (
    DatasetInfo,
    EpisodeWriter,
    ZarrFormat,
    open_dataset,
    partial_folder,
    size_on_disk,
    sole_writer,
)

BLOCK = 64
"""Frames in memory at a time, besides those of the shard that is being written."""

LISTED = 20
"""Episodes that a message names."""


@dataclasses.dataclass(frozen=True)
class Repacking:
    """Rewrites a dataset in the layout that is read fastest, and proves that nothing changed."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A folder, a .zip, or a URL of either."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new dataset, a folder; one begun with the same settings is continued."""
    resolution: str | None = None
    """Size of the new frames in pixels, WIDTHxHEIGHT, by an area filter; theirs if not given."""
    color_order: Literal["RGB", "BGR"] | None = None
    """Order of the new frames' channels; theirs if not given."""
    assume_color_order: Literal["RGB", "BGR"] | None = None
    """What the frames are in, where the dataset does not say."""
    every: int = 1
    """Keep every so-manieth tick; a button counts as pressed if it was in any tick up to the next
    kept one."""
    episodes: str | None = None
    """Numbers of the episodes to keep, such as 0-9,15; all if not given."""
    zarr_format: ZarrFormat = 3
    """3 (sharded), or 2 for readers that know no other."""
    workers: int = 2
    """Episodes that are rewritten at the same time."""


class Done(NamedTuple):
    """An episode that was rewritten and compared, or could not be read."""

    name: str
    frames: int = 0
    bytes: int = 0
    """Of its decoded frames and tables, all compared."""
    problem: str | None = None


class _StoppedError(Exception):
    """Another episode's failure or Ctrl-C ends this one."""


def repack(job: Repacking) -> int:
    """Does the job and prints what was done; returns how many episodes could not be read.

    Raises:
        UserError: an argument is no good, IN can't be opened, OUT is something else or can't be
            written, or what was written differs from what was read. Episodes that are complete by
            then are kept.
        KeyboardInterrupt: likewise.
    """
    _check(job)
    reader = Reader(job.source)
    names = _select(job, reader.names())
    entries = list(zip(names, reader.entries(names), strict=True))
    info = _describe(job, reader, [e for _, e in entries if isinstance(e, Entry)])
    with sole_writer(job.out):
        return _rewrite_all(job, reader, entries, info)


def _rewrite_all(
    job: Repacking, reader: Reader, entries: list[tuple[str, Entry | DataError]], info: DatasetInfo
) -> int:
    done = open_dataset(job.out, info, job.zarr_format)
    pending = [(name, entry) for name, entry in entries if _number(name) not in done]
    if len(pending) < len(entries):
        print(
            f"{job.out}: {len(entries) - len(pending)} of {len(entries)} episodes are there "
            f"already, {len(pending) or 'none'} left",
            flush=True,
        )
    for other in sorted({o for name, _ in pending for o in reader.other_arrays(name)}):
        print(f"not carried over: the array {other!r} of the episodes", flush=True)
    if not info.attributes and any("state" in e.arrays for _, e in entries if isinstance(e, Entry)):
        print("not carried over: state, for the root's 'attributes' names no columns", flush=True)
    began, stop = time.monotonic(), threading.Event()
    results: list[Done] = []

    def one(item: tuple[str, Entry | DataError]) -> Done:
        name, entry = item
        try:
            if stop.is_set():
                raise _StoppedError
            if isinstance(entry, DataError):
                raise entry
            return _rewrite(job, reader, entry, info, stop)
        except DataError as error:
            return Done(name, problem=str(error))
        except OSError as error:
            raise UserError(f"{job.source}: {name}: {error}") from error

    with ThreadPoolExecutor(job.workers) as pool:
        try:
            rewritten = track(
                pool.map(one, pending), "rewriting", total=len(entries),
                pending=len(pending), frames_of=lambda done: done.frames,
            )  # fmt: skip
            results += rewritten
        finally:
            stop.set()
    return _report(job, entries, results, time.monotonic() - began)


def _check(job: Repacking) -> None:
    if job.resolution is not None:
        size_of(job.resolution)
    for name in ("every", "workers"):
        if getattr(job, name) < 1:
            raise UserError(f"--{name} is {getattr(job, name)}, but must be 1 or more")
    if is_url(str(job.out)) or job.out.suffix == ".zip":
        raise UserError(f"{job.out}: OUT must be a folder; zip or upload it afterwards")
    if not is_url(job.source):
        source, out = Path(job.source).resolve(), job.out.resolve()
        if not source.exists():
            raise UserError(f"{job.source}: no such dataset")
        unfinished = partial_folder(out)
        if any(
            source == place or source in place.parents or place in source.parents
            for place in (out, unfinished)
        ):
            raise UserError(
                f"OUT {job.out}, or {unfinished.name} where its unfinished episodes go, and IN "
                f"{job.source} lie in one another"
            )


def _select(job: Repacking, names: list[str]) -> list[str]:
    """The names of the chosen episodes."""
    if not names:
        raise UserError(f"{job.source}: there are no episodes in it")
    if job.episodes is None:
        return names
    wanted: set[int] = set()
    for part in job.episodes.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UserError(f"--episodes is {job.episodes!r}, but must be numbers such as 0-9,15")
        wanted |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    absent = sorted(wanted - {_number(name) for name in names})
    if absent:
        listed = ", ".join(map(str, absent[:LISTED])) + (" ..." if len(absent) > LISTED else "")
        raise UserError(f"--episodes: {job.source} has no episode {listed}")
    return [name for name in names if _number(name) in wanted]


def _number(name: str) -> int:
    return int(name.removeprefix("episode_"))


def _describe(job: Repacking, reader: Reader, entries: list[Entry]) -> DatasetInfo:
    """What holds for all episodes of the new dataset."""
    before = reader.attributes
    if not isinstance(before.get("keys"), list):
        raise UserError(f"{job.source}: the root attribute 'keys' is missing")
    sizes = [e.arrays["frames"].shape[2:] for e in entries if _has_frames(e)]
    if not sizes:
        raise UserError(f"{job.source}: none of its episodes has frames")
    height, width = max(set(sizes), key=sizes.count)
    method = before.get("resize", "unknown")
    if job.resolution is not None:
        asked = size_of(job.resolution)
        if asked != (width, height):
            method = "area"
        width, height = asked
    known = _color_order(job, before)
    if job.color_order is not None and known not in ("RGB", "BGR"):
        raise UserError(
            f"--color-order: {job.source} does not say what its frames are in; "
            "give --assume-color-order RGB or BGR"
        )
    fps = before.get("fps")
    if fps is not None and (not isinstance(fps, int | float) or fps <= 0):
        raise UserError(f"{job.source}: the attribute fps is {fps!r}, not a rate above zero")
    carried = ("keys", "attributes", "fps", "color_order", "resize", "resolution", "version")
    return DatasetInfo(
        keys=tuple(before["keys"]),
        attributes=tuple(before.get("attributes") or ()),
        height=height,
        width=width,
        fps=None if fps is None else fps / job.every,
        color_order=job.color_order or known or "unknown",
        resize=method,
        source={
            "repacked_from": job.source,
            "fingerprint": reader.fingerprint(),
            "every": job.every,
            "read_as": known,
            **{key: value for key, value in before.items() if key not in carried},
        },
    )


def _color_order(job: Repacking, attributes: dict[str, Any]) -> str | None:
    """What the frames of IN are in, as it says or as is assumed."""
    said = attributes.get("color_order")
    return said if said in ("RGB", "BGR") else job.assume_color_order


def _has_frames(entry: Entry) -> bool:
    frames = entry.arrays.get("frames")
    return frames is not None and len(frames.shape) == 4 and frames.shape[1] == 3


def _rewrite(
    job: Repacking, reader: Reader, entry: Entry, info: DatasetInfo, stop: threading.Event
) -> Done:
    """Reads, writes and compares one episode."""
    tables = _read_tables(job, entry, info)
    frames = entry.arrays["frames"]
    kept = np.arange(0, frames.shape[0], job.every)
    known = _color_order(job, reader.attributes)
    swap = job.color_order is not None and job.color_order != known
    pressed = np.logical_or.reduceat(tables["actions"], kept, axis=0)
    state = tables.get("state", np.zeros((frames.shape[0], 0), np.float32))[kept]
    timestamps = tables["timestamps"][kept] if "timestamps" in tables else None
    hashes: list[bytes] = []
    with EpisodeWriter(job.out, _number(entry.name), info, job.zarr_format) as writer:
        for first in range(0, len(kept), BLOCK):
            if stop.is_set():
                raise _StoppedError
            ticks = kept[first : first + BLOCK]
            for at, frame in enumerate(read_frames([frames] * len(ticks), ticks), first):
                made = _convert(frame, info, swap)
                hashes.append(_digest(np.moveaxis(made, -1, 0)))
                writer.append(made, pressed[at], state[at])
        attributes = {k: v for k, v in entry.attributes.items() if k != "frame_count"}
        if isinstance(attributes.get("fps"), int | float):
            attributes["fps"] /= job.every
        expected = {"actions": pressed, "state": state, "timestamps": timestamps}

        def compare(group: zarr.Group) -> None:
            _compare(entry.name, group, hashes, expected)

        count = writer.finish(attributes, timestamps=timestamps, check=compare)
    size = count * 3 * info.height * info.width + pressed.nbytes + state.nbytes
    return Done(entry.name, count, size)


def _read_tables(job: Repacking, entry: Entry, info: DatasetInfo) -> dict[str, npt.NDArray[Any]]:
    """Actions, and what else the episode has a row of for each tick.

    Raises:
        DataError: something is missing, or of another length or kind than the frames say.
    """
    arrays = entry.arrays
    if not _has_frames(entry) or "actions" not in arrays:
        raise DataError("it has no frames [N, 3, H, W] or no actions")
    length, _, height, width = arrays["frames"].shape
    if length == 0:
        raise DataError("it is empty")
    if arrays["frames"].dtype != np.uint8 or arrays["actions"].dtype != np.bool_:
        raise DataError("frames must be uint8 and actions bool")
    if job.resolution is None and (height, width) != (info.height, info.width):
        raise DataError(
            f"frames are {height}x{width}, most are {info.height}x{info.width}; "
            "--resolution makes all alike"
        )
    if not info.attributes:
        arrays = {name: array for name, array in arrays.items() if name != "state"}
    widths = {"actions": len(info.keys), "state": len(info.attributes)}
    for name, array in arrays.items():
        if not array.shape:
            raise DataError(f"{name} is a single value")
        if array.shape[0] != length:
            raise DataError(f"{length} frames but {array.shape[0]} {name}")
        if name in widths and array.shape[1:] != (widths[name],):
            raise DataError(f"{name} have shape {array.shape}, the root names {widths[name]}")
    found = {name: array.read() for name, array in arrays.items() if name != "frames"}
    if info.attributes and "state" not in found:
        raise DataError("it has no state, though the root names its columns")
    return {
        name: table.astype(np.float32) if name == "state" else table
        for name, table in found.items()
    }


def _convert(
    frame: UInt8[np.ndarray, "h w 3"], info: DatasetInfo, swap: bool
) -> UInt8[np.ndarray, "H W 3"]:
    frame = resize(frame, info.width, info.height)
    return frame[..., ::-1] if swap else frame


def _digest(frame: UInt8[np.ndarray, "3 H W"]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(frame).data).digest()


def _compare(
    name: str,
    group: Any,
    hashes: list[bytes],
    expected: dict[str, npt.NDArray[Any] | None],
) -> None:
    """Reads a written episode through zarr-python.

    Raises:
        UserError: it differs from what was to be written.
    """
    for table, values in expected.items():
        if values is None or values.shape[-1] == 0:
            continue
        if not np.array_equal(group[table][:], values, equal_nan=values.dtype != np.bool_):
            raise UserError(f"{name}: the {table} read back differ from those written")
    for first in range(0, len(hashes), BLOCK):
        for at, frame in enumerate(group["frames"][first : first + BLOCK], first):
            if _digest(frame) != hashes[at]:
                raise UserError(f"{name}, tick {at}: the frame read back is not the one written")


def _report(job: Repacking, entries: list[Any], results: list[Done], seconds: float) -> int:
    frames = sum(done.frames for done in results)
    table = Table(show_header=False)
    rows = {
        "episodes": f"{len(entries) - sum(done.problem is not None for done in results):,}",
        "written and compared": f"{frames:,} frames, "
        f"{sum(done.bytes for done in results) / 2**20:,.1f} MiB decoded, all equal",
        "speed": f"{frames / max(seconds, 1e-9):,.0f} frames/s, comparing included",
        "size on disk": f"{size_on_disk(job.out) / 2**20:,.1f} MiB",
    }
    if not is_url(job.source):
        source = Path(job.source)
        size = size_on_disk(source) if source.is_dir() else source.stat().st_size
        rows["size of IN"] = f"{size / 2**20:,.1f} MiB"
    for row in rows.items():
        table.add_row(*row)
    print(f"{job.out}:")
    Console(highlight=False).print(table)
    broken = [done for done in results if done.problem is not None]
    for done in itertools.islice(broken, LISTED):
        print(f"left out: {done.name}: {done.problem}")
    if len(broken) > LISTED:
        print(f"and {len(broken) - LISTED} more")
    return len(broken)


def main() -> int:
    """The command; returns the exit status."""
    job = tyro.cli(Repacking, prog="gameplay_pipeline.repack")
    return command.run(lambda: repack(job), command.to_be_continued(job.out))


if __name__ == "__main__":
    sys.exit(main())
