"""Turns recorded sessions of play into a dataset.

    uv run -m gameplay_pipeline.convert_to_zarr RECORDINGS OUT --keybinds keybinds.json \\
        [--resolution 512x288]

RECORDINGS contains a folder for each session, with `video.mp4`, `memory_data.csv` and `inputs.csv`;
docs/data_format.md describes them. Each session becomes an episode with a tick for every frame of
its video. A session that can't be converted is left out and named. After an interruption, rerun
the same command to resume.
"""

import dataclasses
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float32, Int64, UInt8

from gameplay_pipeline.convert.alignment import EXACT_S, nearest, pressed_in
from gameplay_pipeline.convert.importing import (
    SOURCE_EPISODE,
    Converted,
    Import,
    as_float32,
    check_paths,
    run,
    size_of,
)
from gameplay_pipeline.convert.keybinds import Keybinds, read_keybinds
from gameplay_pipeline.convert.session_tables import (
    TIME_LIMIT_US,
    Event,
    Memory,
    read_attribute_names,
    read_inputs,
    read_memory,
)
from gameplay_pipeline.convert.video import frame_times, read_frames
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.plumbing.workers import usable_cores
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter

VIDEO, MEMORY, INPUTS, METADATA = "video.mp4", "memory_data.csv", "inputs.csv", "metadata.json"

START = "start_timestamp_us"
"""Key of metadata.json: when, by the clock of the tables, the video's first frame was taken."""

FAR_US = 500_000
"""A frame further than this from every sample of the memory is reported."""


@dataclasses.dataclass(frozen=True)
class Conversion(Import):
    """Turns recorded sessions of play into a dataset; rerun the same command to resume."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORDINGS")]
    """A folder that contains a folder for each session."""
    keybinds: Path
    """A JSON file, of version 2.0, that says which key is which action."""
    resolution: str = dataclasses.field(default="512x288", kw_only=True)
    """Size of the new frames in pixels, WIDTHxHEIGHT, resized by area averaging."""


def convert(job: Conversion) -> int:
    """Converts the sessions that the dataset lacks.

    Returns:
        The number of sessions that were left out.

    Raises:
        UserError: nothing can be converted, or the dataset can't be written. Sessions that are
            complete by then are kept.
    """
    require("av", "convert")
    width, height = size_of(job.resolution)
    check_paths(job, "folder of recordings")
    if (job.source / VIDEO).exists():
        raise UserError(f"{job.source} is a session; give the folder that contains the sessions")
    binds = read_keybinds(job.keybinds)
    sessions = _sessions(job.source)
    info = DatasetInfo(
        keys=binds.actions,
        attributes=_attributes(job.source, sessions),
        height=height,
        width=width,
        fps=None,  # each session has its own
        color_order="RGB",
        resize="area",
        source={
            "recordings": "video.mp4",
            "keybinds": {
                f"{kind} {name}": [binds.actions[column] for column in columns]
                for (kind, name), columns in binds.columns.items()
            },
        },
    )
    at_once = min(job.workers or usable_cores(), len(sessions))
    threads = max(1, usable_cores() // max(at_once, 1))
    convert_session = functools.partial(_convert_session, job, info, binds, threads)
    return run(convert_session, sessions, job, info)


def _convert_session(
    job: Conversion, info: DatasetInfo, binds: Keybinds, threads: int, item: tuple[str, int]
) -> Converted:
    """Writes one session as an episode, if it can be."""
    name, number = item
    folder = job.source / name
    try:
        for needed in (VIDEO, MEMORY, INPUTS):
            if not (folder / needed).is_file():
                raise DataError(f"it has no {needed}")
        memory = read_memory(folder / MEMORY, info.attributes)
        inputs = read_inputs(folder / INPUTS)
        since = frame_times(folder / VIDEO)
        start, origin = _start(folder, memory)
        times = start + since
        pressed, inferred = pressed_in(times, inputs.events, binds)
        state, notes = _state(times, memory, info)
        counts = inputs.counts + _unbound(inputs.events, binds)
        counts[f"sessions whose start is given by {origin}"] += 1
        if not pressed.any():
            notes.append(_nothing_pressed(times, inputs.events, binds))
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for tick, image in enumerate(_decode(folder / VIDEO, since, threads)):
                if tick == 0:
                    notes += _wrong_size(image.shape, info)
                image = resize(image, info.width, info.height)
                writer.append(image, pressed[tick], state[tick])
            fps = (len(since) - 1) / (since[-1] / 1e6)
            attributes = {SOURCE_EPISODE: name, START: start, "fps": fps}
            writer.finish(attributes, timestamps=since / 1e6)
    except DataError as error:
        return Converted(name, problem=str(error))
    except OSError as error:
        return Converted(name, problem=f"it can't be read: {error}")
    notes = [*memory.notes, *inputs.notes, *inferred, *notes]
    return Converted(name, len(since), notes=tuple(notes), counts=counts)


def _decode(
    path: Path, since: Int64[np.ndarray, "N"], threads: int
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Decodes a video's frames.

    Args:
        path: the video.
        since: when each frame is shown by the index of the video, in microseconds.
        threads: number of threads that decode.

    Raises:
        DataError: they are not those that the index promises.
    """
    first, number = 0.0, 0
    for number, frame in enumerate(read_frames(path, threads=threads), 1):
        first = frame.time if number == 1 else first
        if number > len(since) or abs(frame.time - first - since[number - 1] / 1e6) > EXACT_S:
            raise DataError(f"{path.name}: frame {number - 1} is not shown when the index says")
        yield frame.image
    if number < len(since):
        raise DataError(f"{path.name}: {number:,} of {len(since):,} frames can be decoded")


def _start(folder: Path, memory: Memory) -> tuple[int, str]:
    """Returns when the first frame was taken, by the clock of the tables, and who says so."""
    path = folder / METADATA
    if path.exists():
        try:
            metadata = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{METADATA} can't be read: {error}") from error
        start = metadata.get(START) if isinstance(metadata, dict) else None
        if start is not None:
            if type(start) is not int or abs(start) >= TIME_LIMIT_US:
                raise DataError(f"{METADATA}: {START} is {start!r}, not a whole number")
            return start, f"{START} in {METADATA}"
    return int(memory.times[0]), f"the first sample in {MEMORY}"


def _state(
    times: Int64[np.ndarray, "N"], memory: Memory, info: DatasetInfo
) -> tuple[Float32[np.ndarray, "N S"], list[str]]:
    """Finds the state at each frame, and what is to be reported about it.

    Raises:
        DataError: frames and samples have no moment in common.
    """
    chosen = nearest(times, memory.times)
    away = np.abs(memory.times[chosen] - times)
    far = int((away > FAR_US).sum())
    if far == len(times):
        raise DataError(
            f"{VIDEO} lasts from {times[0]} to {times[-1]} us, but {MEMORY} from "
            f"{memory.times[0]} to {memory.times[-1]} us: does {START} in {METADATA} belong to "
            "the same clock?"
        )
    state, notes = as_float32(memory.values[chosen], info.attributes)
    if far:
        notes.append(
            f"{far:,} of {len(times):,} frames are more than {FAR_US / 1e6:g} s from the nearest "
            f"sample in {MEMORY}, up to {away.max() / 1e6:.1f} s"
        )
    return state, notes


def _unbound(events: Sequence[Event], binds: Keybinds) -> Counter[str]:
    return Counter(
        f"presses of {button[0]} {button[1].upper()}, which no binding names"
        for _, is_down, button in events
        if is_down and button not in binds.columns
    )


def _nothing_pressed(
    times: Int64[np.ndarray, "N"], events: Sequence[Event], binds: Keybinds
) -> str:
    """Says what is to be reported of a session in which no action is ever pressed.

    Raises:
        DataError: there are presses, but by another clock than the video's.
    """
    bound = [event.time for event in events if event.button in binds.columns]
    if bound:
        raise DataError(
            f"{VIDEO} lasts from {times[0]} to {times[-1]} us, but the events in {INPUTS} from "
            f"{bound[0]} to {bound[-1]} us: do they share a clock?"
        )
    return f"no action is ever pressed in it ({len(events):,} events in {INPUTS})"


def _wrong_size(shape: tuple[int, ...], info: DatasetInfo) -> list[str]:
    height, width = shape[:2]
    notes = []
    if width < info.width or height < info.height:
        notes.append(f"its video of {width}x{height} is smaller than --resolution: enlarged")
    if abs(width * info.height / (height * info.width) - 1) > 0.02:
        notes.append(f"its video of {width}x{height} has other proportions: stretched")
    return notes


def _sessions(recordings: Path) -> list[str]:
    """Returns the names of the sessions' folders, in natural order."""
    names = [e.name for e in recordings.iterdir() if e.is_dir() and not e.name.startswith(".")]
    if not names:
        raise UserError(f"{recordings} contains no folders of sessions")
    return sorted(
        names, key=lambda n: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", n)]
    )


def _attributes(recordings: Path, sessions: Sequence[str]) -> tuple[str, ...]:
    """Returns the attributes that most sessions have, in the order of the first of these."""
    headers: list[tuple[str, ...]] = []
    problems: list[str] = []
    for name in sessions:
        try:
            headers.append(read_attribute_names(recordings / name / MEMORY))
        except FileNotFoundError:
            problems.append(f"{name} has no {MEMORY}")
        except (DataError, OSError) as error:
            problems.append(f"{name}: {error}")  # named for all when it is their turn
    if not headers:
        raise UserError(
            f"{recordings}: none of its {len(sessions)} sessions can be read; {problems[0]}"
        )
    most_common = Counter(map(frozenset, headers)).most_common(1)[0][0]
    return next(header for header in headers if set(header) == most_common)


def main() -> int:
    """Runs the command; returns the exit status."""
    job = tyro.cli(Conversion, prog="gameplay_pipeline.convert_to_zarr")
    return command.run(lambda: convert(job), command.to_be_continued(job.out))


if __name__ == "__main__":
    sys.exit(main())
