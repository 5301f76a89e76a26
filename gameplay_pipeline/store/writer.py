"""Writes the project's dataset format; every recorder and converter writes through here.

A dataset is a zarr group. Its attributes are those of `DatasetInfo`; its groups episode_0,
episode_1, ... hold `frames` uint8 [N, 3, H, W], `actions` bool [N, A] and, where the game has
state, `state` float32 [N, S]. An episode is built beside the dataset and renamed into it when it
is complete, so that a dataset holds whole episodes only, whenever its writer is stopped.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from numcodecs import Blosc

from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.store.checks import Expected, check_written
from gameplay_pipeline.store.reader import EPISODE

ZarrFormat = Literal[2, 3]

VERSION = 1
"""Version of the layout; written as the root attribute `version`."""

SHARD = 512
"""Frames in a shard (zarr v3), and in memory before they are written."""


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What holds for all episodes of a dataset."""

    keys: tuple[str, ...]
    """Names of the A action columns."""
    attributes: tuple[str, ...]
    """Names of the S state columns; empty where the game has no state."""
    height: int
    width: int
    fps: float | None
    """Ticks a second; None where unknown."""
    color_order: str
    """RGB or BGR."""
    resize: str
    """How frames came to their size: none, area, ..."""
    source: dict[str, Any]
    """Where the episodes come from, as plain JSON."""

    def root_attributes(self) -> dict[str, Any]:
        """The attributes of the root group; what the game lacks is absent."""
        found = {
            "keys": list(self.keys),
            "attributes": list(self.attributes) or None,
            "fps": self.fps,
            "color_order": self.color_order,
            "resize": self.resize,
            "resolution": [self.height, self.width],
            "source": self.source,
            "version": VERSION,
        }
        return {key: value for key, value in found.items() if value is not None}


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps other processes from writing a dataset; at the end, its unfinished episodes go.

    Raises:
        UserError: another process is writing it, or it can't be written.
    """
    lock = filelock.FileLock(path.with_name(path.name + ".lock"), blocking=False)
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory") from error
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"{path}: another process is writing it; wait for its end, or choose another path"
            ) from error
    try:
        yield
    finally:
        discard_partial(path)
        with contextlib.suppress(PermissionError):  # Windows, where releasing it removes it
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def open_dataset(path: Path, info: DatasetInfo, zarr_format: ZarrFormat) -> set[int]:
    """Creates a dataset, or prepares one for more episodes of the same kind.

    Only the `sole_writer` may do this; its workers may then write episodes of the dataset.

    Returns:
        The numbers of the episodes that are complete.

    Raises:
        UserError: something else is at `path`, the dataset there differs from `info` or
            `zarr_format`, or it can't be written.
    """
    with _writing(path):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            discard_partial(path)
            new = partial_folder(path) / "root"
            group = zarr.create_group(new, zarr_format=zarr_format)
            group.attrs.update(info.root_attributes())
            new.rename(path)
            return set()
    root = _existing(path)
    found = _flat({**root.attrs, "zarr_format": root.metadata.zarr_format})
    wanted = _flat({**info.root_attributes(), "zarr_format": zarr_format})
    differences = [
        f"  {key}: written with {found.get(key, 'none')}, asked for {wanted.get(key, 'none')}"
        for key in sorted(found | wanted)
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise UserError(
            f"{path} was written with other settings:\n" + "\n".join(differences) + "\n"
            "Repeat those settings to continue it, or choose another path."
        )
    with _writing(path):
        discard_partial(path)
    return set(episode_attributes(path))


def discard_partial(path: Path) -> None:
    """Removes the unfinished episodes of a dataset that nobody writes any more."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(partial_folder(path))


def discard_episode(path: Path, number: int) -> None:
    """Removes an episode; only the `sole_writer` may do this."""
    with _writing(path):
        partial_folder(path).mkdir(exist_ok=True)
        unwanted = partial_folder(path) / f"discarded_{number}"
        (path / f"episode_{number}").rename(unwanted)  # at once, or not at all
        shutil.rmtree(unwanted)


def episode_attributes(path: Path) -> dict[int, dict[str, Any]]:
    """The attributes of each complete episode, by its number."""
    return {
        int(match[1]): dict(group.attrs)
        for name, group in _existing(path).groups()
        if (match := EPISODE.fullmatch(name))
    }


def size_on_disk(path: Path) -> int:
    """Bytes in all files of a dataset."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class EpisodeWriter:
    """Writes one episode tick by tick; a context manager. Without `finish` nothing remains.

    Memory stays bounded by one shard of frames, however long the episode.
    """

    def __init__(self, path: Path, number: int, info: DatasetInfo, zarr_format: ZarrFormat):
        """Begins episode `number` of the dataset that `open_dataset` prepared at `path`."""
        self._target = path / f"episode_{number}"
        self._temporary = partial_folder(path) / self._target.name
        self.info = info
        """What holds for all episodes of the dataset."""
        self._compressor: dict[str, Any] = {
            # Format 2 knows no checksums that other readers know too.
            "compressors": Blosc(cname="zstd", clevel=3, shuffle=Blosc.NOSHUFFLE)
            if zarr_format == 2
            else (
                zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"),
                zarr.codecs.Crc32cCodec(),
            )
        }
        frame = (3, info.height, info.width)
        with _writing(self._target):
            self._group = zarr.create_group(
                self._temporary, zarr_format=zarr_format, overwrite=True
            )
            self._frames = self._group.create_array(
                "frames",
                shape=(0, *frame),
                chunks=(1, *frame),
                shards=(SHARD, *frame) if zarr_format == 3 else None,
                dtype="uint8",
                # A black frame equals the fill value. It is data all the same: readers take a
                # missing chunk for a damaged dataset.
                config={"write_empty_chunks": True},
                **self._compressor,
            )
        self._buffer = np.empty((SHARD, *frame), np.uint8)
        self._actions: list[npt.NDArray[np.bool_]] = []
        self._state: list[npt.NDArray[np.float32]] = []

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def append(
        self,
        frame: npt.NDArray[np.uint8],
        action: npt.NDArray[np.bool_],
        state: npt.NDArray[np.float32],
    ) -> None:
        """Adds a tick: what was seen, and what was pressed upon it.

        Args:
            frame: [H, W, 3].
            action: [A].
            state: [S]; S is 0 where the game has none.
        """
        self._buffer[len(self._actions) % SHARD] = np.moveaxis(frame, -1, 0)
        self._actions.append(action)
        self._state.append(state)
        if len(self._actions) % SHARD == 0:
            self._flush(SHARD)

    def finish(
        self,
        attributes: dict[str, Any],
        *,
        timestamps: npt.NDArray[np.float64] | None = None,
        corrections: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        check: Callable[[zarr.Group], None] | None = None,
    ) -> int:
        """Completes the episode with its attributes (plain JSON) and puts it into the dataset.

        `frame_count` and, where known and not among them, `fps` are added.

        Args:
            attributes: of the episode.
            timestamps: seconds [N] at which the frames were taken, where they are known.
            corrections: any of `reader.CORRECTIONS`.
            check: looks at the whole episode before it takes its place; what it raises prevents
                that.

        Returns:
            The number of ticks.

        Raises:
            UserError: it can't be written.
            DataError: readers would leave it out, as one whose timestamps don't rise.
        """
        if not self._actions:
            raise DataError("it is empty")
        ticks = len(self._actions)
        if ticks % SHARD:
            self._flush(ticks % SHARD)
        tables: dict[str, npt.NDArray[Any]] = {"actions": np.stack(self._actions)}
        if self.info.attributes:
            tables["state"] = np.stack(self._state)
        if timestamps is not None:
            tables["timestamps"] = timestamps
        tables |= corrections or {}
        with _writing(self._target):
            for name, table in tables.items():
                array = self._group.create_array(
                    name,
                    shape=table.shape,
                    chunks=table.shape,
                    dtype=table.dtype,
                    config={"write_empty_chunks": True},
                    **self._compressor,
                )
                array[:] = table
            fps = {} if self.info.fps is None else {"fps": self.info.fps}
            self._group.attrs.update({**fps, **attributes, "frame_count": ticks})
        names = self.info.attributes
        frame_shape = (3, self.info.height, self.info.width)
        check_written(
            self._temporary, Expected(len(self.info.keys), names, len(names), frame_shape)
        )
        if check is not None:
            check(self._group)
        with _writing(self._target):
            self._temporary.rename(self._target)
        return ticks

    def _flush(self, count: int) -> None:
        stop = len(self._actions)
        with _writing(self._target):
            self._frames.resize((stop, *self._frames.shape[1:]))
            self._frames[stop - count : stop] = self._buffer[:count]


def partial_folder(path: Path) -> Path:
    """Where unfinished episodes are: beside the dataset, where no reader of it looks."""
    return path.with_name(path.name + ".partial")


def _existing(path: Path) -> zarr.Group:
    try:
        return zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} exists and is no zarr dataset; choose another path or remove it ({error})"
        ) from error


def _flat(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as JSON gives them back, those of nested dictionaries as "outer.inner"."""
    found: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(attributes)).items():
        if isinstance(value, dict):
            found |= {f"{key}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[key] = value
    return found


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with _uninterrupted():
            yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += ". Complete episodes are kept: make room and run the same command to continue"
        raise UserError(f"{path} can't be written: {reason}") from error


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets an interrupt wait for the end of the block.

    Raised inside zarr, it leaves coroutines behind that nobody awaits and Python complains about.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {
        each: signal.signal(each, lambda number, _: caught.append(number))
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    for number in caught[:1]:
        signal.raise_signal(number)
