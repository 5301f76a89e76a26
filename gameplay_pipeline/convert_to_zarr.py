"""Turns recorded sessions of play into a dataset.

    uv run -m gameplay_pipeline.convert_to_zarr RECORDINGS OUT --keybinds keybinds.json \\
        [--resolution 512x288]

RECORDINGS holds a folder for each session, with `video.mp4`, `memory_data.csv` and `inputs.csv`;
docs/data_format.md describes them. Each session becomes an episode with a tick for every frame of
its video. A session that can't be converted is left out, and named. A run that is stopped goes on
when repeated.
"""

import csv
import dataclasses
import functools
import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float32, Float64, Int64

from gameplay_pipeline.convert.importing import (
    SOURCE,
    Done,
    Import,
    as_float32,
    check_places,
    require,
    run,
    size_of,
)
from gameplay_pipeline.convert.video import frame_times, read_frames
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.workers import usable_cores
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter

VIDEO, MEMORY, INPUTS, METADATA = "video.mp4", "memory_data.csv", "inputs.csv", "metadata.json"

TIME = "timestamp_us"

START = "start_timestamp_us"
"""Key of metadata.json: when, by the clock of the tables, the video's first frame was taken."""

FAR_US = 500_000
"""A frame further than this from any sample of the memory deserves a word."""

LONG_US = 2**62
"""Beyond any time."""

EVENTS = {"KEY_DOWN": "key", "KEY_UP": "key", "MOUSE_DOWN": "mouse", "MOUSE_UP": "mouse"}
"""Where a key binding names what each event is about."""

Button = tuple[str, str]
"""key or mouse, and its name in lower case."""


@dataclasses.dataclass(frozen=True)
class Conversion(Import):
    """Turns recorded sessions of play into a dataset; what is stopped goes on when repeated."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECORDINGS")]
    """A folder with a folder for each session."""
    keybinds: Path
    """Which key is which action: a JSON file of version 2.0."""
    resolution: str = dataclasses.field(default="512x288", kw_only=True)
    """Size of the frames in pixels, WIDTHxHEIGHT, by an area filter."""


class Keybinds(NamedTuple):
    """Which buttons press which action."""

    actions: tuple[str, ...]
    columns: dict[Button, list[int]]
    """Of the actions that a button presses."""


class Memory(NamedTuple):
    """What was sampled from the game's memory, in order of time."""

    times: Int64[np.ndarray, "M"]
    """Microseconds."""
    values: Float64[np.ndarray, "M S"]
    notes: list[str]


class Event(NamedTuple):
    """A button went down or up."""

    time: int
    """Microseconds."""
    is_down: bool
    button: Button


class Inputs(NamedTuple):
    """What was pressed, in order of time."""

    events: list[Event]
    notes: list[str]
    counts: Counter[str]
    """Of events that are none of a button."""


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
    check_places(job, "recordings")
    if (job.source / VIDEO).exists():
        raise UserError(f"{job.source} is a session; give the folder that holds the sessions")
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
    do = functools.partial(_convert_session, job, info, binds, threads)
    return run(do, sessions, job, info)


def read_keybinds(path: Path) -> Keybinds:
    """Reads key bindings: {"version": "2.0", "actions": {name: {"index", "key", "mouse"}}}.

    `key` and `mouse` are a name, a list of names, or null.

    Raises:
        UserError: it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as key bindings: {error}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != "2.0":
        raise UserError(
            f'{path}: its version is {version!r}, but must be "2.0": '
            '{"version": "2.0", "actions": {"attack": {"index": 0, "key": null, "mouse": "LEFT"}}}'
        )
    actions = found.get("actions")
    if not isinstance(actions, dict) or not actions:
        raise UserError(f"{path}: 'actions' must name at least one action")
    indices: dict[int, str] = {}
    columns: dict[Button, list[int]] = {}
    for name, binding in actions.items():
        index = binding.get("index") if isinstance(binding, dict) else None
        if type(index) is not int:
            raise UserError(f"{path}: {name}: its index is {index!r}, not a whole number")
        if index in indices:
            raise UserError(f"{path}: {name} and {indices[index]} both have index {index}")
        indices[index] = name
        buttons = [
            (kind, text.strip().lower())
            for kind in ("key", "mouse")
            for text in _names(binding.get(kind), f"{path}: {name}: its {kind}")
        ]
        if not buttons:
            raise UserError(f"{path}: {name} has neither a key nor a mouse button")
        for button in buttons:
            columns.setdefault(button, []).append(index)
    if sorted(indices) != list(range(len(indices))):
        raise UserError(
            f"{path}: its {len(indices)} actions must have the indices 0 to {len(indices) - 1}, "
            f"but have {', '.join(map(str, sorted(indices)))}"
        )
    return Keybinds(tuple(indices[index] for index in sorted(indices)), columns)


def _names(value: Any, where: str) -> list[str]:
    """The names of one binding's buttons."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise UserError(f"{where} is {value!r}, but must be a name, a list of names, or null")
    return names


def read_memory(path: Path, attributes: Sequence[str]) -> Memory:
    """Reads the samples of the game's memory.

    Raises:
        DataError: a column is missing, a value is no number, or there is no sample.
    """
    times, values = array("q"), array("d")
    rows = _rows(path, attributes)
    others = [name for name in next(rows)[1] if name not in (TIME, *attributes)]
    notes = [f"{path.name}: not carried over: {', '.join(others)}"] if others else []
    for line, (time, *row) in rows:
        times.append(_whole(time, path, line))
        for name, text in zip(attributes, row, strict=True):
            values.append(_number(text, name, path, line))
    if not times:
        raise DataError(f"{path.name} holds no sample")
    order, found = _sorted(np.array(times, np.int64), path, strict=True)
    table = np.array(values).reshape(len(times), len(attributes))
    return Memory(np.array(times, np.int64)[order], table[order], notes + found)


def read_inputs(path: Path) -> Inputs:
    """Reads what was pressed.

    Raises:
        DataError: a column is missing, or a time is none.
    """
    events: list[Event] = []
    counts: Counter[str] = Counter()
    rows = _rows(path, ("event_type", "key_or_button"))
    next(rows)
    for line, (time, kind, name) in rows:
        stamp = _whole(time, path, line)
        if kind not in EVENTS:
            counts[f"events that are none of a button, {kind}"] += 1
        else:
            events.append(Event(stamp, kind.endswith("DOWN"), (EVENTS[kind], name.strip().lower())))
    order, notes = _sorted(np.array([e.time for e in events], np.int64), path, strict=False)
    return Inputs([events[i] for i in order.tolist()], notes, counts)


def pressed_in(
    times: Int64[np.ndarray, "N"], events: Sequence[Event], binds: Keybinds
) -> Bool[np.ndarray, "N A"]:
    """What is pressed at any moment from one frame until the next; a press is never lost.

    The last frame lasts as long as the one before it. A button that goes up first was down from
    the beginning; one that never goes up is down to the end.

    Args:
        times: of the frames, in microseconds, rising.
        events: in order of time.
        binds: which action a button presses.
    """
    pressed = np.zeros((len(times), len(binds.actions)), bool)
    end = 2 * times[-1] - times[-2]
    for button, down, up in _presses(events):
        if button in binds.columns and down < end:
            first = int(np.searchsorted(times, down, "right")) - 1
            last = int(np.searchsorted(times, up, "left")) - 1
            # Also a press that begins and ends between two frames has a frame in which it falls.
            pressed[max(first, 0) : max(first, last) + 1, binds.columns[button]] = True
    return pressed


def _presses(events: Sequence[Event]) -> Iterator[tuple[Button, int, int]]:
    """Each press: its button, when it went down and when up again."""
    down: dict[Button, int] = {}
    seen: set[Button] = set()
    for time, is_down, button in events:
        if is_down:
            down.setdefault(button, time)  # a key that is held repeats itself
        elif button in down or button not in seen:
            yield button, down.pop(button, -LONG_US), time
        seen.add(button)
    for button, time in down.items():
        yield button, time, LONG_US


def nearest(
    times: Int64[np.ndarray, "N"], samples: Int64[np.ndarray, "M"]
) -> Int64[np.ndarray, "N"]:
    """The sample nearest in time to each frame: of two as near the earlier, of two at the same time
    the one that was written later."""
    after = np.searchsorted(samples, times, "left").clip(0, len(samples) - 1)
    before = (np.searchsorted(samples, times, "right") - 1).clip(0)
    later = np.abs(samples[after] - times) < np.abs(times - samples[before])
    chosen = samples[np.where(later, after, before)]
    return np.searchsorted(samples, chosen, "right") - 1


def _convert_session(
    job: Conversion, info: DatasetInfo, binds: Keybinds, threads: int, item: tuple[str, int]
) -> Done:
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
        pressed = pressed_in(times, inputs.events, binds)
        state, notes = _state(times, memory, info)
        counts = inputs.counts + _unbound(inputs.events, binds)
        counts[f"sessions whose video starts by {origin}"] += 1
        if not pressed.any():
            notes.append(_nothing_pressed(times, inputs.events, binds))
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            ticks = 0
            for frame in read_frames(folder / VIDEO, threads=threads):
                if ticks == 0:
                    notes += _wrong_size(frame.shape, info)
                if ticks == len(times):
                    raise DataError(f"{VIDEO} has more frames than it has times")
                writer.append(resize(frame, info.width, info.height), pressed[ticks], state[ticks])
                ticks += 1
            if ticks < len(times):
                raise DataError(f"{VIDEO}: {ticks:,} of {len(times):,} frames can be decoded")
            attributes = {
                SOURCE: name,
                START: start,
                "fps": (len(since) - 1) / (since[-1] / 1e6),
            }
            writer.finish(attributes, timestamps=since / 1e6)
    except DataError as error:
        return Done(name, problem=str(error))
    except OSError as error:
        return Done(name, problem=f"it can't be read: {error}")
    return Done(name, ticks, notes=(*memory.notes, *inputs.notes, *notes), counts=counts)


def _start(folder: Path, memory: Memory) -> tuple[int, str]:
    """When the video's first frame was taken, by the clock of the tables, and who says so."""
    path = folder / METADATA
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise DataError(f"{METADATA} can't be read: {error}") from error
        start = found.get(START) if isinstance(found, dict) else None
        if start is not None:
            if type(start) is not int or abs(start) >= LONG_US:
                raise DataError(f"{METADATA}: {START} is {start!r}, not a whole number")
            return start, f"{START} in {METADATA}"
    return int(memory.times[0]), f"the first sample in {MEMORY}"


def _state(
    times: Int64[np.ndarray, "N"], memory: Memory, info: DatasetInfo
) -> tuple[Float32[np.ndarray, "N S"], list[str]]:
    """The state at each frame, and what is to be said about it.

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
        f"presses of {button[0]} {button[1].upper()}, which no binding knows"
        for _, is_down, button in events
        if is_down and button not in binds.columns
    )


def _nothing_pressed(
    times: Int64[np.ndarray, "N"], events: Sequence[Event], binds: Keybinds
) -> str:
    """What to say of a session in which no action is ever pressed.

    Raises:
        DataError: there are presses, but by another clock than the video's.
    """
    bound = [event.time for event in events if event.button in binds.columns]
    if bound:
        raise DataError(
            f"{VIDEO} lasts from {times[0]} to {times[-1]} us, but what {INPUTS} says is from "
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
    """The folders of the sessions, in natural order."""
    names = [e.name for e in recordings.iterdir() if e.is_dir() and not e.name.startswith(".")]
    if not names:
        raise UserError(f"{recordings}: there are no folders of sessions in it")
    return sorted(
        names, key=lambda n: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", n)]
    )


def _attributes(recordings: Path, sessions: Sequence[str]) -> tuple[str, ...]:
    """The attributes that most sessions have, as the first of these orders them."""
    found: list[tuple[str, ...]] = []
    for name in sessions:
        try:
            _, header = next(_rows(recordings / name / MEMORY, ()))
        except (DataError, OSError):
            continue  # named when it is its turn
        found.append(tuple(column for column in header if column != TIME))
    if not found:
        raise UserError(f"{recordings}: none of its {len(sessions)} sessions has a {MEMORY}")
    alike = Counter(map(frozenset, found)).most_common(1)[0][0]
    return next(each for each in found if set(each) == alike)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The table's header, then of each row the time and the wanted columns; with line numbers.

    Raises:
        DataError: it is no such table.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise DataError(f"{path.name} has more than one column {twice[0]!r}")
            if missing := [name for name in (TIME, *columns) if name not in header]:
                raise DataError(f"{path.name} has no column {', '.join(missing)}")
            yield reader.line_num, header
            places = [header.index(name) for name in (TIME, *columns)]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path.name}, line {reader.line_num}: {len(row)} values for "
                        f"{len(header)} columns"
                    )
                yield reader.line_num, [row[place] for place in places]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path.name}, line {reader.line_num + 1}: {error}") from error


def _whole(text: str, path: Path, line: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = LONG_US
    if abs(value) >= LONG_US:
        raise DataError(f"{path.name}, line {line}: {TIME} is {text!r}, not a whole number")
    return value


def _number(text: str, name: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{path.name}, line {line}: {name} is {text!r}, not a number")
    return value


def _sorted(
    times: Int64[np.ndarray, "M"], path: Path, *, strict: bool
) -> tuple[Int64[np.ndarray, "M"], list[str]]:
    """The order of time, and a note if it is another one than that of the lines.

    Args:
        times: of the rows.
        path: of the table, for the note.
        strict: whether two rows at the same time deserve a note too.
    """
    steps, notes = np.diff(times), []
    if back := int((steps < 0).sum()):
        notes.append(
            f"{path.name}: {back:,} of {len(times):,} times are before the one above them; sorted"
        )
    if strict and (same := len(times) - len(np.unique(times))):
        notes.append(
            f"{path.name}: {same:,} of {len(times):,} times are there twice; the last counts"
        )
    return np.argsort(times, kind="stable"), notes


def main() -> int:
    """The command; returns the exit status."""
    job = tyro.cli(Conversion, prog="gameplay_pipeline.convert_to_zarr")
    return command.run(lambda: convert(job), command.to_be_continued(job.out))


if __name__ == "__main__":
    sys.exit(main())
