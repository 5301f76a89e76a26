"""Rewrites a dataset in the layout that is read fastest, and proves that nothing changed.

    uv run -m gameplay_pipeline.repack IN OUT [--resolution 256x144] [--every 2] [--episodes 0-49]

IN is a folder, a .zip or a URL, in zarr format 2 or 3, in chunks of any size. Its frames may have
their channels last, one (grey) or four; its actions may be numbers, 0 or 1; and it may be a replay
buffer of diffusion_policy (`data` and `meta/episode_ends`), given --keys. OUT becomes a folder of
zarr 3 with one frame per zarr chunk and many per file. Before an episode takes its place in OUT,
it is read back, by another reader than the one that read it, and compared. After an interruption,
rerun the same command to resume.
"""

import dataclasses
import functools
import hashlib
import re
import sys
from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro
from jaxtyping import UInt8

from gameplay_pipeline.convert.exporting import (
    READ_FRAMES,
    known_color_order,
    open_reader,
    print_not_carried_over,
)
from gameplay_pipeline.convert.importing import Converted, Import, check_paths, run, size_of
from gameplay_pipeline.convert.repack_sources import RepackSource, open_source
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.store.checks import is_rate, names_in
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter

MAX_LISTED = 20
"""Episodes that a message names."""


@dataclasses.dataclass(frozen=True)
class Repacking(Import):
    """Rewrites a dataset in the layout that is read fastest, and proves that nothing changed."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A folder, a .zip, or a URL of either."""
    color_order: Literal["RGB", "BGR"] | None = None
    """Channel order of the new frames; by default the one that they have."""
    assume_color_order: Literal["RGB", "BGR"] | None = None
    """Channel order of the frames, for a dataset that does not say."""
    every: int = 1
    """Keep every n-th tick; a button counts as pressed if it was in any tick up to the next kept
    one."""
    keys: str | None = None
    """Names of the buttons, separated by commas, for a dataset that does not name them."""
    episodes: str | None = None
    """Numbers of the episodes to keep, such as 0-9,15; by default all."""


def repack(job: Repacking) -> int:
    """Rewrites the episodes that the dataset at `out` lacks, and reports.

    Returns:
        The number of episodes that were left out because they can't be read.

    Raises:
        UserError: an argument is invalid, IN can't be opened, OUT is something else or can't be
            written, or what was written differs from what was read. Episodes that are complete by
            then are kept.
    """
    check_paths(job, "dataset")
    if job.resolution is not None:
        size_of(job.resolution)
    if job.every < 1:
        raise UserError(f"--every is {job.every}, but must be 1 or more")
    open_reader.cache_clear()  # it may have changed since another job in this process
    source = open_source(job.source)
    names = _select(job, source.names)
    info = _describe(job, source, names)
    print_not_carried_over(source.not_carried_over(names))
    return run(functools.partial(_rewrite, job, info), names, job, info, _number)


def _select(job: Repacking, names: list[str]) -> list[str]:
    """Returns the names of the chosen episodes."""
    if not names:
        raise UserError(f"{job.source} contains no episodes")
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
        listed = ", ".join(map(str, absent[:MAX_LISTED])) + (
            " ..." if len(absent) > MAX_LISTED else ""
        )
        raise UserError(f"--episodes: {job.source} has no episode {listed}")
    return [name for name in names if _number(name) in wanted]


def _number(name: str) -> int:
    return int(name.removeprefix("episode_"))


def _describe(job: Repacking, source: RepackSource, names: list[str]) -> DatasetInfo:
    """Describes the new dataset."""
    before = source.attributes
    keys = (
        names_in(job.source, before, "keys")
        if job.keys is None
        else tuple(name.strip() for name in job.keys.split(","))
    )
    if not all(keys) or not keys:
        raise UserError(
            f"{job.source}: the root attribute 'keys' does not name the buttons; give --keys"
        )
    sizes = source.frame_sizes(names)
    if not sizes:
        raise UserError(f"{job.source}: none of its episodes has frames of 1, 3 or 4 channels")
    height, width = max(set(sizes), key=sizes.count)
    method = before.get("resize", "unknown")
    if job.resolution is not None:
        asked = size_of(job.resolution)
        if asked != (width, height):
            method = "area"
        width, height = asked
    stored_order = known_color_order(before, job.assume_color_order)
    if job.color_order is not None and stored_order is None:
        raise UserError(
            f"--color-order: {job.source} does not say in which order its frames have their "
            "channels; give --assume-color-order RGB or BGR"
        )
    fps = before.get("fps")
    if fps is not None and not is_rate(fps):
        raise UserError(f"{job.source}: the attribute fps is {fps!r}, not a rate above zero")
    carried = ("keys", "attributes", "fps", "color_order", "resize", "resolution", "version")
    return DatasetInfo(
        keys=keys,
        attributes=names_in(job.source, before, "attributes"),
        height=height,
        width=width,
        fps=None if fps is None else fps / job.every,
        color_order=job.color_order or stored_order or "unknown",
        resize=method,
        source={
            "repacked_from": job.source,
            "fingerprint": open_reader(job.source).fingerprint(),
            "every": job.every,
            "read_as": stored_order,
            **{key: value for key, value in before.items() if key not in carried},
        },
    )


def _rewrite(job: Repacking, info: DatasetInfo, item: tuple[str, int]) -> Converted:
    """Reads, writes and compares one episode."""
    name, number = item
    try:
        source = open_source(job.source)
        (size,) = source.frame_sizes([name]) or [(info.height, info.width)]
        if job.resolution is None and size != (info.height, info.width):
            raise DataError(
                f"frames are {size[0]}x{size[1]}, most are {info.height}x{info.width}; "
                "--resolution makes all alike"
            )
        episode = source.read(name, info.keys, info.attributes)
        kept = np.arange(0, len(episode.actions), job.every)
        stored_order = known_color_order(source.attributes, job.assume_color_order)
        swap = job.color_order is not None and job.color_order != stored_order
        pressed = np.logical_or.reduceat(episode.actions, kept, axis=0)
        corrections = {
            name: np.logical_or.reduceat(table, kept, axis=0)
            for name, table in episode.corrections.items()
        }
        state = episode.state[kept]
        timestamps = None if episode.timestamps is None else episode.timestamps[kept]
        hashes: list[bytes] = []
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for first in range(0, len(kept), READ_FRAMES):
                ticks = kept[first : first + READ_FRAMES]
                for at, frame in enumerate(episode.read_images(ticks), first):
                    made = _convert(frame, info, swap)
                    hashes.append(_digest(np.moveaxis(made, -1, 0)))
                    writer.append(made, pressed[at], state[at])
            attributes = {k: v for k, v in episode.attributes.items() if k != "frame_count"}
            if is_rate(attributes.get("fps")):
                attributes["fps"] /= job.every
            tables = {"actions": pressed, "state": state, "timestamps": timestamps, **corrections}
            compare = functools.partial(_compare, name, hashes, tables)
            writer.finish(attributes, timestamps=timestamps, corrections=corrections, check=compare)
    except DataError as error:
        return Converted(name, problem=str(error))
    except OSError as error:
        raise UserError(f"{job.source}: {name}: {error}") from error
    compared = Counter({"frames read back, all equal": len(kept)})
    return Converted(name, len(kept), notes=tuple(episode.notes), counts=compared)


def _convert(
    frame: UInt8[np.ndarray, "h w 3"], info: DatasetInfo, swap: bool
) -> UInt8[np.ndarray, "H W 3"]:
    frame = resize(frame, info.width, info.height)
    return frame[..., ::-1] if swap else frame


def _digest(frame: UInt8[np.ndarray, "3 H W"]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(frame).data).digest()


def _compare(
    name: str,
    hashes: list[bytes],
    expected: dict[str, npt.NDArray[Any] | None],
    group: Any,
) -> None:
    """Reads a written episode back through zarr-python.

    Raises:
        UserError: it differs from what was to be written.
    """
    for table, values in expected.items():
        if values is None or values.shape[-1] == 0:
            continue
        if not np.array_equal(group[table][:], values, equal_nan=values.dtype != np.bool_):
            raise UserError(f"{name}: the {table} read back differ from those written")
    for first in range(0, len(hashes), READ_FRAMES):
        for at, frame in enumerate(group["frames"][first : first + READ_FRAMES], first):
            if _digest(frame) != hashes[at]:
                raise UserError(f"{name}, tick {at}: the frame read back is not the one written")


def main() -> int:
    """Runs the command; returns the exit status."""
    job = tyro.cli(Repacking, prog="gameplay_pipeline.repack")
    return command.run(lambda: repack(job), command.to_be_continued(job.out))


if __name__ == "__main__":
    sys.exit(main())
