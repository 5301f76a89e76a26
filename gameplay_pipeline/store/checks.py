"""What makes an episode unusable. The trainer leaves such an episode out, and no converter writes
one: both ask here. Nothing is decoded but tables."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.store.array import Array, TakenFor
from gameplay_pipeline.store.reader import ARRAYS, CORRECTIONS, READ, Entry, Reader

MAY_LACK_ZEROS = ("actions", "state", *CORRECTIONS)
"""Tables whose chunks zarr leaves out, by default, if they hold nothing but zeros."""

MIN_RATE, MAX_RATE = 1e-3, 1e6
"""Ticks a second between which a game's are."""


class Fault(NamedTuple):
    """Something that is wrong with an episode."""

    what: str
    ticks: tuple[int, int] | None = None
    """From the first bad tick to one past the last; None where it concerns everything."""

    def __str__(self) -> str:
        if self.ticks is None:
            return self.what
        first, end = self.ticks
        return f"{self.what} (tick {first})" if end == first + 1 else (
            f"{self.what} (ticks {first} to {end - 1})"
        )  # fmt: skip


class Expected(NamedTuple):
    """What all episodes of a dataset have in common."""

    actions: int
    """Number of action columns."""
    state_names: tuple[str, ...]
    """Names of the state columns; empty if the root does not name them."""
    state_columns: int
    """Number of state columns; 0 if there is no state."""
    frame_shape: tuple[int, ...]
    """(3, H, W)."""


def names_in(location: str | Path, attributes: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Returns the names that a root attribute lists; none if it is not there.

    Raises:
        UserError: it is no list of names.
    """
    value = attributes.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise UserError(f"{location}: the root attribute {key!r} must be a list of names")
    return tuple(value)


def is_rate(value: object) -> bool:
    """Returns whether an attribute says how many ticks a second has."""
    return type(value) in (int, float) and MIN_RATE <= value <= MAX_RATE  # pyright: ignore[reportOperatorIssue]


def most_common_shapes(entries: Iterable[Entry | DataError]) -> tuple[tuple[int, int, int], int]:
    """Returns the shape of the frames, and the number of state columns, of most episodes."""
    shapes: Counter[tuple[tuple[int, int, int], int]] = Counter()
    for entry in entries:
        if isinstance(entry, DataError):
            continue
        frames, state = entry.arrays.get("frames"), entry.arrays.get("state")
        if frames is not None and len(frames.shape) == 4:
            _, channels, height, width = frames.shape
            columns = state.shape[1] if state is not None and len(state.shape) == 2 else 0
            shapes[(channels, height, width), columns] += 1
    return shapes.most_common(1)[0][0] if shapes else ((3, 0, 0), 0)


def metadata_faults(entry: Entry, expected: Expected) -> Iterator[Fault]:
    """Yields what is wrong with an episode's arrays by their shapes and types."""
    arrays = entry.arrays
    for needed in ("frames", "actions"):
        if needed not in arrays:
            yield Fault(f"it has no array {needed!r}")
            return
    for name, array in arrays.items():
        if not array.shape:
            yield Fault(f"{name} is a single value")
            return
    frames, actions = arrays["frames"], arrays["actions"]
    length = frames.shape[0]
    if frames.dtype != np.uint8:
        yield Fault(f"frames are {frames.dtype}, not uint8")
    if actions.dtype != np.bool_:
        yield Fault(f"actions are {actions.dtype}, not bool")
    if len(frames.shape) != 4 or frames.shape[1] != 3 or 0 in frames.shape[2:]:
        yield Fault(f"frames have shape {frames.shape}, not (N, 3, H, W)")
    if actions.shape[1:] != (expected.actions,):
        yield Fault(
            f"actions have shape {actions.shape}, but 'keys' names {expected.actions} actions"
        )
    if actions.shape[0] != length:
        yield Fault(f"{length} frames but {actions.shape[0]} actions")
    if length == 0:
        yield Fault("it is empty")
    if frames.shape[1:] != expected.frame_shape:
        yield Fault(f"frames are {frames.shape[1:]}, most are {expected.frame_shape}")
    yield from _state_metadata_faults(arrays.get("state"), length, expected)
    timestamps = arrays.get("timestamps")
    if timestamps is not None and timestamps.shape != (length,):
        yield Fault(f"{length} frames but timestamps of shape {timestamps.shape}")
    if timestamps is not None and timestamps.dtype.kind not in "fiu":
        yield Fault(f"timestamps are {timestamps.dtype}, not float64")
    yield from correction_faults(arrays, length, expected.actions)


def correction_faults(arrays: Mapping[str, Array], length: int, actions: int) -> Iterator[Fault]:
    """Yields what is wrong with those arrays of an episode that say how a policy was corrected."""
    for name, shape in zip(CORRECTIONS, ((length, actions), (length,)), strict=True):
        array = arrays.get(name)
        if array is not None and (array.shape != shape or array.dtype != np.bool_):
            yield Fault(f"its {name} are {array.dtype} {array.shape}, not bool {shape}")


def _state_metadata_faults(state: Array | None, length: int, expected: Expected) -> Iterator[Fault]:
    names = expected.state_names
    if state is not None:
        if len(state.shape) != 2 or (names and state.shape[1] != len(names)):
            yield Fault(
                f"state has shape {state.shape}, but 'attributes' names {len(names)} columns"
            )
        if state.shape[0] != length:
            yield Fault(f"{length} frames but {state.shape[0]} states")
        if not np.issubdtype(state.dtype, np.floating):
            yield Fault(f"state is {state.dtype}, not float32")
    columns = 0 if state is None else state.shape[-1]
    if columns != expected.state_columns and (state is None or not names):
        yield Fault(f"state has {columns} columns, most have {expected.state_columns}")


def missing_frames(entry: Entry) -> Iterator[Fault]:
    """Yields the frames whose chunks are not there; zarr itself would take them for black."""
    for ticks in entry.arrays["frames"].missing() or ():
        yield Fault("its frames are missing on disk", ticks)


def table_faults(
    state: Float[np.ndarray, "N S"] | None,
    timestamps: Float[np.ndarray, "N"] | None,
    state_names: Sequence[str],
) -> Iterator[Fault]:
    """Yields what is wrong with the values of an episode's tables."""
    if state is not None:
        wrong = ~np.isfinite(state)
        for column in np.flatnonzero(wrong.any(axis=0)).tolist():
            name = state_names[column] if state_names else f"column {column}"
            for ticks in stretches(wrong[:, column]):
                yield Fault(f"its state {name} is {state[ticks[0], column]}", ticks)
    if timestamps is not None:
        for first, last in stretches(~(timestamps[1:] > timestamps[:-1])):
            yield Fault("its timestamps do not rise", (first, last + 1))


def check_written(folder: Path, expected: Expected) -> None:
    """Reads an episode that was written, as the trainer will, and refuses what it would refuse.

    Args:
        folder: folder of the episode.
        expected: what the episodes of its dataset have in common.

    Raises:
        DataError: it would be left out; says why.
    """
    reader = Reader(folder)
    arrays = {name: array for name in READ if (array := reader.open_array(name)) is not None}
    entry = Entry(folder.name, reader.attributes, arrays)
    faults = list(metadata_faults(entry, expected)) or list(missing_frames(entry))
    if not faults:
        state, timestamps = (arrays[n].read() if n in arrays else None for n in ARRAYS[2:])
        faults = list(table_faults(state, timestamps, expected.state_names))
    if faults:
        more = f", and {len(faults) - 1} more faults" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}", faults[0].ticks)


def stretches(flags: Bool[np.ndarray, "N"], least: int = 1) -> list[tuple[int, int]]:
    """Returns first and one past the last of each run of at least `least` True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= least]


def take(entry: Entry) -> Entry:
    """Takes arrays for what they must be where that is unambiguous: frames [N, H, W, 3], actions of
    numbers that are all 0 or 1, and tables whose chunks of zeros zarr left out."""

    def taken_for(name: str, array: Array) -> TakenFor:
        shape = array.shape
        return TakenFor(
            channels_first=name == "frames" and len(shape) == 4 and shape[1] != 3 == shape[3],
            buttons=name == "actions" and array.dtype.kind in "iu",
            zeros_left_out=name in MAY_LACK_ZEROS,
        )

    return _taken(entry, taken_for)


def take_zeros(entry: Entry) -> Entry:
    """Takes chunks of tables that zarr left out for zeros, and nothing else for anything."""
    return _taken(entry, lambda name, _: TakenFor(zeros_left_out=name in MAY_LACK_ZEROS))


def _taken(entry: Entry, taken_for: Callable[[str, Array], TakenFor]) -> Entry:
    arrays = {
        name: Array(array.storage, array.key, array.layout, taken_for(name, array))
        for name, array in entry.arrays.items()
    }
    return entry._replace(arrays=arrays)


def notes(entry: Entry) -> Iterator[Fault]:
    """Yields what an episode, whose tables have been read, was taken for by `take`."""
    for name, array in entry.arrays.items():
        if array.taken_for.channels_first:
            yield Fault(f"its frames are stored as {array.layout.shape}: taken for [N, H, W, 3]")
        if array.taken_for.buttons:
            yield Fault(f"its actions are stored as {array.layout.dtype}: 1 is taken for pressed")
        for ticks in array.left_out:
            yield Fault(f"its {name} are not there: taken for zeros, which zarr leaves out", ticks)
