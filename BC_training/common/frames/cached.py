"""Frames decoded once into a memory-mapped file that runs share; killed, damaged or emptied, it is
found out and goes on."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import google_crc32c
import numpy as np
import platformdirs
from jaxtyping import Int, UInt8

from BC_training.common.episodes import Episodes
from BC_training.common.frames.base import GIB, FrameStore, JoinedFrames
from BC_training.common.frames.buffer_pool import BufferPool
from BC_training.common.frames.decode import decode
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import DataError, UserError

CHECKED_BYTES = 2 * 2**30
"""Bytes of a cache that are compared with their checksums when it is opened: a second or two."""


class CachedFrames(FrameStore):
    """The frame store of residency `cache`."""

    def __init__(self, frames: UInt8[np.ndarray, "N H W C"]):
        self._frames, self._pool = frames, BufferPool()

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._frames.shape[1:]

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        out = self._pool.empty((len(rows), *self.image_shape))
        # Unless it may clip, it gathers into memory of its own first; all rows are within.
        return np.take(self._frames, rows, axis=0, out=out, mode="clip")


def load(episodes: Episodes, cache_dir: Path, threads: int) -> tuple[FrameStore, list[Problem]]:
    """Opens the cache of each dataset, or decodes the dataset into it.

    Returns:
        The frames, and what is wrong with the episodes that have none among them.

    Raises:
        UserError: a frame can't be read now, or the cache can't be written.
    """
    stores, sizes, problems = [], [], []
    for part in episodes.parts:
        frames, missing = _load(part, cache_dir, threads)
        stores.append(CachedFrames(frames))
        sizes.append(len(frames))
        problems.append(missing)
    store = stores[0] if len(stores) == 1 else JoinedFrames(stores, sizes)
    return store, episodes.gather(problems)


def _load(
    episodes: Episodes, cache_dir: Path, threads: int
) -> tuple[UInt8[np.ndarray, "N H W C"], list[Problem]]:
    folder = _folder(episodes, cache_dir)
    try:
        if not (folder / "done.jsonl").is_file() or not _is_sound(folder, episodes):
            _write(episodes, folder, threads)
    except DataError as error:
        raise UserError(f"{error} What is decoded so far is kept in {folder}.") from error
    except OSError as error:
        raise UserError(
            f"{folder}: can't keep decoded frames there: {error.strerror or error}. What is "
            "decoded so far is kept. Make room, set dataset.cache_dir to a folder that can be "
            "written, or set dataset.residency to stream."
        ) from error
    problems = _read_journal(folder / "done.jsonl").problems
    shape = (episodes.without(problems).ticks, *episodes.image_shape)
    return np.memmap(folder / "frames.u8", np.uint8, "r", shape=shape), problems


def default_folder() -> Path | None:
    """The user's cache folder; None where the user has no home."""
    try:
        folder = platformdirs.user_cache_path("project_ranni", appauthor=False)
    except RuntimeError:  # as a user without an entry has none, in containers and on clusters
        return None
    return folder if folder.is_absolute() else None


def is_complete(episodes: Episodes, cache_dir: Path) -> bool:
    """Whether all frames of each dataset are decoded there."""
    # The journal gets this name when the frames are all written.
    return all((_folder(part, cache_dir) / "done.jsonl").is_file() for part in episodes.parts)


def is_writable(cache_dir: Path) -> bool:
    """Whether a cache can be made there, found out by making a file."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            return True
    except OSError:
        return False


def room_for(episodes: Episodes, cache_dir: Path) -> int:
    """Bytes that the datasets' caches may have there, those that they have already included."""
    own = sum(_size(_folder(part, cache_dir) / "frames.u8") for part in episodes.parts)
    return _free_disk(cache_dir) + own


def _folder(episodes: Episodes, cache_dir: Path) -> Path:
    name = episodes.path.partition("?")[0].rstrip("/").rpartition("/")[2]
    return cache_dir / f"{name}-{episodes.fingerprint()}"


class _Journal(NamedTuple):
    """What a cache holds, in order, one line of JSON each in its file."""

    written: dict[str, int]
    """CRC-32C of each decoded episode."""
    problems: list[Problem]
    """What is wrong with the episodes that could not be decoded."""


def _read_journal(file: Path) -> _Journal:
    journal = _Journal({}, [])
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break  # the line that a killed run was writing
        if "crc32c" in entry:
            journal.written[entry["episode"]] = entry["crc32c"]
        else:
            ticks = entry["ticks"] and tuple(entry["ticks"])
            journal.problems.append(Problem("error", entry["episode"], entry["what"], ticks))
    return journal


def _lines(journal: _Journal) -> Iterator[str]:
    for episode, crc in journal.written.items():
        yield json.dumps({"episode": episode, "crc32c": crc})
    for problem in journal.problems:
        yield json.dumps({"episode": problem.episode, "what": problem.what, "ticks": problem.ticks})


def _is_sound(folder: Path, episodes: Episodes) -> bool:
    """Whether a complete cache is what was written: its size, and checksums of episodes spread
    over it, as many as `CHECKED_BYTES` allow."""
    journal = _read_journal(folder / "done.jsonl")
    broken = {problem.episode for problem in journal.problems}
    decoded = [episode for episode in episodes.episodes if episode.name not in broken]
    sizes = np.array([episode.length * episodes.frame_bytes for episode in decoded], np.int64)
    file = folder / "frames.u8"
    sound = (
        list(journal.written) == [episode.name for episode in decoded]
        and file.is_file()
        and file.stat().st_size == int(sizes.sum())
    )
    if sound and decoded:
        count = max(2, int(CHECKED_BYTES / max(sizes.mean(), 1)))
        chosen = np.unique(np.linspace(0, len(decoded) - 1, min(count, len(decoded))).astype(int))
        starts = np.cumsum(sizes) - sizes
        with file.open("rb") as frames:
            for number in chosen.tolist():
                frames.seek(int(starts[number]))
                crc = _checksum(frames, int(sizes[number]))
                sound = sound and crc == journal.written[decoded[number].name]
    return sound


def _checksum(file: Any, size: int) -> int:
    """CRC-32C of the next `size` bytes of a file."""
    value, left = 0, size
    while left > 0:
        part = file.read(min(left, 2**24))
        if not part:
            return -1
        value, left = google_crc32c.extend(value, part), left - len(part)
    return value


def _write(episodes: Episodes, folder: Path, threads: int) -> None:
    """Decodes a dataset into a folder, unless another run is about to have done that."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        print(f"{folder}: another run is decoding this dataset; waiting for it", flush=True)
        lock.acquire()
    try:
        if (folder / "done.jsonl").is_file():
            if _is_sound(folder, episodes):
                return
            print(f"{folder}: this cache is damaged; decoding again", flush=True)
            shutil.rmtree(folder)
        _complete(episodes, folder, threads)
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _complete(episodes: Episodes, folder: Path, threads: int) -> None:
    """Decodes what a folder lacks; goes on where an earlier run was stopped."""
    folder.mkdir(exist_ok=True)
    journal = _read_journal(folder / "doing.jsonl")
    sizes = {e.name: e.length * episodes.frame_bytes for e in episodes.episodes}
    end = sum(sizes[name] for name in journal.written)
    if _size(folder / "frames.u8") < end:
        journal, end = _Journal({}, []), 0  # somebody removed the frames to make room
    done = {*journal.written, *(problem.episode for problem in journal.problems)}
    pending = [n for n, episode in enumerate(episodes.episodes) if episode.name not in done]
    needed = sum(sizes[episodes.episodes[n].name] for n in pending)
    if (free := _free_disk(folder)) < needed:
        raise UserError(
            f"{folder.parent}: the decoded frames need {needed / GIB:.1f} GiB and "
            f"{free / GIB:.1f} are free; make room, set dataset.cache_dir to a folder on "
            "another disk, or set dataset.residency to stream"
        )
    _append_frames(episodes, pending, end, folder, journal, threads)
    # Renamed when whole: what a killed run leaves is never taken for a cache.
    (folder / "doing.jsonl").replace(folder / "done.jsonl")


def _append_frames(
    episodes: Episodes,
    pending: list[int],
    end: int,
    folder: Path,
    journal: _Journal,
    threads: int,
) -> None:
    """Decodes episodes behind the first `end` bytes, and writes a line in the journal for each."""
    # Replaced whole: a run that is killed again must not lose what the one before has done.
    (folder / "next.jsonl").write_text("".join(f"{line}\n" for line in _lines(journal)))
    (folder / "next.jsonl").replace(folder / "doing.jsonl")
    # Not through a memory map: there a full disk would kill the process.
    with (
        (folder / "frames.u8").open("ab") as file,
        (folder / "doing.jsonl").open("a") as log,
    ):
        crc = 0
        file.truncate(end)
        for number, tick, frames in decode(episodes, pending, threads):
            episode = episodes.episodes[number]
            if isinstance(frames, Problem):
                file.truncate(end)
                (line,) = _lines(_Journal({}, [frames]))
            else:
                file.write(frames.data)
                crc = google_crc32c.extend(crc, frames)  # pyright: ignore[reportArgumentType]
                if tick + len(frames) < episode.length:
                    continue
                (line,) = _lines(_Journal({episode.name: crc}, []))
                file.flush()
                os.fsync(file.fileno())
                end += episode.length * episodes.frame_bytes
            print(line, file=log, flush=True)
            crc = 0


def _size(file: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def _free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or will be made."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
