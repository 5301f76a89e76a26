"""Datasets that `repack` reads: those in the project's layout, or nearly so, and replay buffers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float32, Int, UInt8

from gameplay_pipeline.convert.exporting import find_entry, open_reader, unnamed_data
from gameplay_pipeline.convert.importing import as_float32
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.store import checks
from gameplay_pipeline.store.array import Array, read_chunks
from gameplay_pipeline.store.reader import CORRECTIONS, Entry, Reader, read_frames

CHANNELS = {1: "grey", 3: "RGB", 4: "RGB with an alpha channel"}
"""What frames with a number of channels are taken for; of BGR, likewise."""

ENDS = "meta/episode_ends"

NAMES = {
    "frames": ("frames", "img", "image"),
    "actions": ("actions", "action"),
    "state": ("state",),
    "timestamps": ("timestamps", "timestamp"),
}
"""What the arrays of a replay buffer may be called."""


class Episode(NamedTuple):
    """An episode of any source."""

    attributes: dict[str, Any]
    actions: Bool[np.ndarray, "N A"]
    state: Float32[np.ndarray, "N S"]
    """S is 0 if there is no state."""
    timestamps: npt.NDArray[Any] | None
    read_images: Callable[[Int[np.ndarray, "n"]], UInt8[np.ndarray, "n H W 3"]]
    """Reads the frames at some ticks."""
    corrections: dict[str, npt.NDArray[np.bool_]]
    """Those of `CORRECTIONS` that it has."""
    notes: list[str]
    """In which respects it is stored otherwise than in the project's layout."""


class RepackSource(Protocol):
    """A dataset to be repacked."""

    attributes: dict[str, Any]
    """Attributes of the root."""
    names: list[str]
    """Names of the episodes, episode_0 and so on, in order."""

    def frame_sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Returns height and width of the frames of each episode that has frames."""
        ...

    def not_carried_over(self, names: Sequence[str]) -> list[str]:
        """Describes what the new dataset has no place for."""
        ...

    def read(self, name: str, keys: Sequence[str], attributes: Sequence[str]) -> Episode:
        """Reads an episode, but not yet its frames.

        Args:
            name: of the episode.
            keys: names of its action columns.
            attributes: names of its state columns.

        Raises:
            DataError: it can't be read, or its arrays don't fit together.
        """
        ...


def open_source(location: str) -> RepackSource:
    """Opens a dataset: a folder, a .zip, or a URL of either.

    Raises:
        UserError: there is none, or its arrays can't be recognized.
    """
    reader = open_reader(location)
    ends = reader.open_array(ENDS)
    return EpisodeGroups(reader) if ends is None else ReplayBuffer(reader, ends)


class EpisodeGroups:
    """A dataset in the project's layout, except that its frames may have other axes or channels,
    and its actions another type."""

    def __init__(self, reader: Reader):
        self._reader = reader
        self.attributes, self.names = reader.attributes, reader.names()

    def frame_sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        arrays = [entry.arrays for entry in self._entries(names)]
        shapes = [found["frames"].shape[1:] for found in arrays if "frames" in found]
        return [_size(shape) for shape in shapes if _channel_axis(shape) is not None]

    def not_carried_over(self, names: Sequence[str]) -> list[str]:
        return unnamed_data(self._reader, names, self._entries(names), CORRECTIONS)

    def read(self, name: str, keys: Sequence[str], attributes: Sequence[str]) -> Episode:
        entry = find_entry(self._reader, name)
        taken = checks.take_zeros(entry).arrays
        corrections = {n: taken.pop(n) for n in CORRECTIONS if n in taken}
        arrays = {n: array for n, array in taken.items() if n != "state" or attributes}
        if "frames" not in arrays or "actions" not in arrays:
            raise DataError("it has no frames or no actions")
        if attributes and "state" not in arrays:
            raise DataError("it has no state, though the root names its columns")
        length = _length("frames", arrays["frames"])
        for array_name, array in arrays.items():
            if _length(array_name, array) != length:
                raise DataError(f"{length} frames but {array.shape[0]} {array_name}")
        _check_tables(arrays, keys, attributes)
        tables = {name: array.read() for name, array in arrays.items() if name != "frames"}
        episode = _episode(
            entry.attributes, arrays["frames"], np.arange(length), tables, keys, attributes
        )
        for fault in checks.correction_faults(corrections, length, len(keys)):
            raise DataError(str(fault))
        tables = {kind: array.read() for kind, array in corrections.items()}
        read = entry._replace(arrays={**arrays, **corrections})
        notes = [*episode.notes, *map(str, checks.notes(read))]
        return episode._replace(corrections=tables, notes=notes)

    def _entries(self, names: Sequence[str]) -> list[Entry]:
        return [entry for entry in self._reader.entries(names) if isinstance(entry, Entry)]


class ReplayBuffer:
    """A dataset as diffusion_policy stores it: all episodes end to end in the arrays of `data`, and
    where each of them ends in `meta/episode_ends`."""

    def __init__(self, reader: Reader, ends: Array):
        """Recognizes the arrays.

        Raises:
            UserError: there are no frames or no actions, or the ends make no sense.
        """
        self._reader, self._ends = reader, ends.read().ravel()
        if self._ends.dtype.kind not in "iu" or (np.diff(self._ends, prepend=0) <= 0).any():
            raise UserError(f"{reader.location}: its {ENDS} are not whole numbers that rise from 1")
        self._arrays: dict[str, Array] = {}
        self._stored: dict[str, str] = {}
        for name, options in NAMES.items():
            for option in options:
                array = reader.open_array(f"data/{option}")
                if array is not None and name not in self._arrays:
                    self._arrays[name], self._stored[name] = array, option
        for name in ("frames", "actions"):
            if name not in self._arrays:
                raise UserError(f"{reader.location}: no {' or '.join(NAMES[name])} in data")
        self.names = [f"episode_{number}" for number in range(len(self._ends))]
        state = self._arrays.get("state")
        made_up = [f"state_{n}" for n in range(state.shape[1])] if state and state.shape[1:] else []
        self.attributes = {**({"attributes": made_up} if made_up else {}), **reader.attributes}

    def frame_sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        shape = self._arrays["frames"].shape[1:]
        return [] if _channel_axis(shape) is None else [_size(shape)] * len(names)

    def not_carried_over(self, names: Sequence[str]) -> list[str]:
        others = set(self._reader.other_arrays("data")) - {*self._stored.values()}
        return [f"the array 'data/{name}'" for name in sorted(others)]

    def read(self, name: str, keys: Sequence[str], attributes: Sequence[str]) -> Episode:
        number = self.names.index(name)
        first, end = self._ends[number - 1] if number else 0, self._ends[number]
        for array_name, array in self._arrays.items():
            stored = f"data/{self._stored[array_name]}"
            if _length(stored, array) < end:
                raise DataError(f"it ends at {end}, but {stored} at {array.shape[0]}")
        arrays, ticks = self._arrays, np.arange(first, end)
        _check_tables(arrays, keys, attributes)
        tables = {n: read_rows(array, ticks) for n, array in arrays.items() if n != "frames"}
        return _episode({}, arrays["frames"], ticks, tables, keys, attributes)


def _check_tables(
    arrays: Mapping[str, Array], keys: Sequence[str], state_names: Sequence[str]
) -> None:
    """Refuses arrays of another shape or type than they must have, before they are read.

    Raises:
        DataError: says which.
    """
    if arrays["frames"].shape[0] == 0:
        raise DataError("it is empty")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"its {name} are {array.dtype}, not numbers")
    for name, columns in (("actions", keys), ("state", state_names)):
        if name in arrays and arrays[name].shape[1:] != (len(columns),):
            shape = arrays[name].shape
            raise DataError(f"{name} have shape {shape}, but {len(columns)} columns are named")


def _episode(
    attributes: dict[str, Any],
    frames: Array,
    ticks: Int[np.ndarray, "N"],
    tables: Mapping[str, npt.NDArray[Any]],
    keys: Sequence[str],
    state_names: Sequence[str],
) -> Episode:
    """Puts an episode together.

    Args:
        attributes: of the episode.
        frames: of all episodes, or of this one.
        ticks: rows of the frames that are the episode's.
        tables: its actions, and its state and timestamps where it has any.
        keys: names of its action columns.
        state_names: names of its state's columns.

    Raises:
        DataError: an action is neither 0 nor 1, or the frames are no pictures.
    """
    axis = _channel_axis(frames.shape[1:])
    if axis is None or 0 in frames.shape:
        raise DataError(
            f"its frames have shape {frames.shape}; neither the axis after the first nor the last "
            "has 1, 3 or 4 channels"
        )
    state, notes = as_float32(tables.get("state", np.zeros((len(ticks), 0))), state_names)
    actions = tables["actions"]
    if (axis, frames.dtype) != (0, np.uint8) or frames.shape[1] != 3:
        shape = ", ".join(map(str, frames.shape[1:]))
        kind = CHANNELS[(*frames.shape[1:], 1)[axis]]
        notes.append(f"its frames were stored as {frames.dtype} [N, {shape}]: taken for {kind}")
    if actions.dtype != np.bool_:
        notes.append(f"its actions were stored as {actions.dtype}, all of them 0 or 1")
    return Episode(
        attributes,
        _as_buttons(actions, keys),
        state,
        tables.get("timestamps"),
        functools.partial(_read_images, frames, axis, ticks),
        {},
        notes,
    )


def read_rows(array: Array, rows: Int[np.ndarray, "n"]) -> npt.NDArray[Any]:
    """Reads some rows of an array, decoding each of its chunks once.

    Raises:
        DataError: a chunk is missing or can't be decoded.
    """
    values = np.empty((len(rows), *array.shape[1:]), array.dtype)
    numbers = rows // array.chunk_length
    wanted = np.unique(numbers).tolist()
    for number, chunk in zip(wanted, read_chunks([(array, n) for n in wanted]), strict=True):
        inside = numbers == number
        values[inside] = chunk[rows[inside] - number * array.chunk_length]
    return values


def _length(name: str, array: Array) -> int:
    if not array.shape:
        raise DataError(f"{name} is a single value")
    return array.shape[0]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Tells which axis of a frame, as it is stored, has the channels; 2 if [H, W] is grey."""
    if len(shape) == 2:
        return 2
    if len(shape) != 3:
        return None
    # What is unambiguous in the project's own layout stays so, however narrow the frames.
    likely = (0, 2) if shape[0] == 3 or shape[2] not in CHANNELS else (2, 0)
    return next((axis for axis in likely if shape[axis] in CHANNELS), None)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns height and width of a frame, as it is stored."""
    axis = _channel_axis(shape)
    height, width = (n for at, n in enumerate(shape) if at != axis)
    return height, width


def _as_buttons(actions: npt.NDArray[Any], keys: Sequence[str]) -> Bool[np.ndarray, "N A"]:
    """Tells from numbers whether buttons are pressed.

    Raises:
        DataError: one is neither 0 nor 1.
    """
    wrong = np.argwhere((actions != 0) & (actions != 1))
    if len(wrong):
        tick, column = wrong[0].tolist()
        raise DataError(
            f"its action {keys[column]} is {actions[tick, column]:g} at tick {tick}; only buttons, "
            "0 or 1, can be kept"
        )
    return actions == 1


def _read_images(
    array: Array, axis: int, ticks: Int[np.ndarray, "N"], wanted: Int[np.ndarray, "n"]
) -> UInt8[np.ndarray, "n H W 3"]:
    """Reads frames as [H, W, 3], whatever their axes and channels.

    Args:
        array: array of the frames.
        axis: axis of a frame that has the channels.
        ticks: rows of the array that are the episode's.
        wanted: ticks of the episode.

    Raises:
        DataError: they can't be read, or are not whole numbers from 0 to 255.
    """
    rows = ticks[wanted]
    if axis == 0 and array.shape[1] == 3 and array.dtype == np.uint8:
        return read_frames([array] * len(rows), rows)
    stored = read_rows(array, rows)
    with np.errstate(invalid="ignore"):
        images = stored.astype(np.uint8)
    if (images != stored).any():
        raise DataError(f"its frames are {stored.dtype} and not whole numbers from 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    images = np.moveaxis(images, axis + 1, -1)
    return np.repeat(images, 3, -1) if images.shape[-1] == 1 else images[..., :3]
