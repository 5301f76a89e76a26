"""Where decoded frames live: accelerator memory, a file on disk, or nowhere for long.

A row is a tick of all valid episodes laid end to end. Every residency gives the same frames for the
same rows; they differ in speed and in what they occupy.
"""

import collections
import fcntl
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from BC_training.common.config import DatasetConfig
from BC_training.common.episodes import Episodes
from BC_training.common.frames.buffer_pool import Recycled
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.progress import track

BLOCK = 128
"""Frames decoded at once where a whole dataset is: enough to occupy all decoding threads."""

DEVICE_SHARE = 0.6
"""Of an accelerator's free memory that `auto` gives to frames; the model needs the rest."""

CHECKED_BYTES = 2 * 2**30
"""Of a cache that are compared with their checksums when it is opened: a second or two."""

GIB = 2**30


class Frames:
    """Frames of a dataset on some residency."""

    @property
    def resident(self) -> UInt8[Array, "N H W C"] | None:
        """All frames, where they are in the accelerator's memory; `gather` then gives their rows,
        and the jitted step takes the frames from here."""
        return None

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        """Frames of any rows, in that order, on the host.

        Raises:
            DataError: a chunk of the dataset is missing or can't be decoded.
        """
        raise NotImplementedError

    def gather(
        self, rows: Int[np.ndarray, "n"]
    ) -> UInt8[np.ndarray, "n H W C"] | Int[np.ndarray, "n"]:
        """What the step needs of those frames: themselves, or their rows in `resident`."""
        return self.read(rows)

    def prepare(self, first: int, last: int) -> None:
        """Makes the rows from `first` to one past `last` ready for a `gather` to come."""


class Opened(NamedTuple):
    """Frames and why they are where they are."""

    frames: Frames
    residency: str
    reason: str


def open_frames(
    episodes: Episodes, settings: DatasetConfig, *, threads: int, in_flight: int
) -> Opened:
    """Puts the frames of a dataset where the configuration says, or where they fit.

    Args:
        episodes: the dataset; episodes in which a frame can't be read are dropped from it.
        settings: dataset.residency and what belongs to it.
        threads: that decode.
        in_flight: bytes of the batches that are read ahead.

    Raises:
        UserError: they fit nowhere, or a frame can't be read and broken episodes are an error.
    """
    kind, reason = settings.residency, "as configured"
    folder = Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()
    if kind == "auto":
        kind, reason = choose(episodes, folder)
    if kind == "device":
        return Opened(DeviceFrames(episodes, folder, threads), kind, reason)
    if kind == "cache":
        return Opened(CachedFrames(episodes, folder, threads), kind, reason)
    frames = StreamedFrames(
        episodes,
        bound=int(settings.stream_memory_gib * GIB),
        in_flight=in_flight,
        shuffle_buffer=settings.shuffle_buffer,
        threads=threads,
    )
    return Opened(frames, kind, reason)


def choose(episodes: Episodes, cache_dir: Path) -> tuple[str, str]:
    """The fastest residency that the frames fit in, and the reason in words."""
    size = episodes.ticks * episodes.frame_bytes
    why = f"{size / GIB:.2f} GiB decoded"
    memory = _free_device_memory()
    if memory is not None:
        fits = size <= DEVICE_SHARE * memory
        relation = "within" if fits else "more than"
        why += f", {relation} {DEVICE_SHARE:.0%} of {memory / GIB:.1f} GiB of free device memory"
        if fits:
            return "device", why
    folder = cache_folder(episodes, cache_dir)
    if _is_complete(folder):
        return "cache", f"{why}, already decoded in {cache_dir}"
    free = _free_disk(cache_dir) + _size(folder / "frames.u8")
    if size <= free:
        return "cache", f"{why}, {free / GIB:.1f} GiB free in {cache_dir}"
    return "stream", f"{why}, only {free / GIB:.1f} GiB free in {cache_dir}"


def default_cache_dir() -> Path:
    """The user's cache folder, as XDG names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "project_ranni"


class CachedFrames(Frames):
    """Residency `cache`: frames decoded once into a memory-mapped file that runs share."""

    def __init__(self, episodes: Episodes, cache_dir: Path, threads: int):
        """Opens the cache of a dataset, or decodes the dataset into it.

        Raises:
            UserError: a frame can't be read, or the cache can't be written.
        """
        folder = cache_folder(episodes, cache_dir)
        try:
            if not _is_complete(folder) or not _is_sound(folder, episodes):
                _write_cache(episodes, folder, threads)
        except DataError as error:
            raise UserError(f"{error} What is decoded so far is kept in {folder}.") from error
        except OSError as error:
            raise UserError(
                f"{folder}: can't keep decoded frames there: {error.strerror or error}. What is "
                "decoded so far is kept. Make room, set dataset.cache_dir to a folder that can be "
                "written, or set dataset.residency to stream."
            ) from error
        episodes.drop(_read_journal(folder / "done.jsonl").problems)
        channels, height, width = episodes.frame_shape
        shape = (episodes.ticks, height, width, channels)
        self._frames = np.memmap(folder / "frames.u8", np.uint8, "r", shape=shape)
        self._memory = Recycled()

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        out = self._memory.empty((len(rows), *self._frames.shape[1:]))
        # Unless it may clip, it gathers into memory of its own first; all rows are within.
        return np.take(self._frames, rows, axis=0, out=out, mode="clip")


class DeviceFrames(Frames):
    """Residency `device`: all frames in the accelerator's memory; batches are row numbers."""

    def __init__(self, episodes: Episodes, cache_dir: Path, threads: int):
        """Moves the dataset there, from its cache if it has one.

        Raises:
            UserError: a frame can't be read, or the memory does not suffice.
        """
        channels, height, width = episodes.frame_shape
        size = episodes.ticks * episodes.frame_bytes
        try:
            # Every block is placed whole, so that one program serves all; what a shorter one leaves
            # behind it, the next one overwrites.
            frames = jnp.zeros((episodes.ticks + BLOCK, height, width, channels), jnp.uint8)
            place = jax.jit(jax.lax.dynamic_update_slice_in_dim, donate_argnums=0, static_argnums=3)
            padded = np.zeros((BLOCK, *frames.shape[1:]), np.uint8)
            for row, block in _rows(episodes, cache_dir, threads):
                padded[: len(block)] = block
                frames = place(frames, padded.copy(), row, 0)
            self._resident = jax.block_until_ready(frames)
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"dataset.residency: the frames need {size / GIB:.1f} GiB, more than this device "
                f"has left ({str(error).splitlines()[0]}); set it to cache or stream"
            ) from error

    @property
    def resident(self) -> UInt8[Array, "N H W C"]:
        return self._resident

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        return np.asarray(self._resident[jnp.asarray(rows)])

    def gather(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return rows.astype(np.int32)


class StreamedFrames(Frames):
    """Residency `stream`: frames decoded when they are needed, in bounded memory.

    Chunks of several frames are kept while the order of samples still needs them.
    """

    def __init__(
        self, episodes: Episodes, *, bound: int, in_flight: int, shuffle_buffer: int, threads: int
    ):
        """Opens it; nothing is decoded yet.

        Args:
            episodes: the dataset.
            bound: bytes that decoded frames may occupy.
            in_flight: bytes of them in batches that are read ahead.
            shuffle_buffer: ticks among which samples are shuffled.
            threads: that decode chunks of several frames ahead of their use.

        Raises:
            UserError: the bound is too small for the batches and the buffer.
        """
        self._episodes = episodes
        self._memory, self._block_memory = Recycled(), Recycled()
        self._lock = threading.Lock()
        self._blocks: collections.OrderedDict[
            tuple[int, int], Future[UInt8[np.ndarray, "n H W C"]]
        ] = collections.OrderedDict()
        self._sizes = np.array([episode.frames.chunk_length for episode in episodes.episodes])
        """Frames in a block, by episode."""
        self._is_blocked = episodes.chunk_length > 1
        # Their own, so that many are decoded at once while batches wait for one.
        self._pool, self._threads = ThreadPoolExecutor(threads), threads
        needed = in_flight
        if self._is_blocked:
            # This group of blocks, the next one, and what their windows reach back into.
            needed += 3 * max(shuffle_buffer, episodes.chunk_length) * episodes.frame_bytes
        if needed > bound:
            raise UserError(
                f"dataset.stream_memory_gib is {bound / GIB:.2f}, but streaming needs "
                f"{needed / GIB:.2f}: raise it, or lower training.batch_size, system.num_workers"
                + (", dataset.shuffle_buffer" if self._is_blocked else "")
                + " or the model's window"
            )
        self._capacity = max(
            (bound - in_flight) // (episodes.chunk_length * episodes.frame_bytes), 1
        )

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        if not self._is_blocked:
            return self._episodes.read_rows(rows, self._memory)
        channels, height, width = self._episodes.frame_shape
        out = self._memory.empty((len(rows), height, width, channels))
        keys, ticks = self._located(rows)
        places = collections.defaultdict(list)
        for at, key in enumerate(keys):
            places[key].append(at)
        # No more than are decoded at once: the rows may lie in more blocks than fit in memory.
        todo = iter(places)
        first = itertools.islice(todo, self._threads)
        ahead = collections.deque(self._block(*key) for key in first)
        for positions in places.values():
            block = ahead.popleft().result()
            ahead.extend(self._block(*key) for key in itertools.islice(todo, 1))
            for at in positions:
                out[at] = block[ticks[at]]
        return out

    def prepare(self, first: int, last: int) -> None:
        keys, _ = self._located(np.arange(first, last))
        for key in dict.fromkeys(keys):
            self._block(*key)

    def _located(self, rows: Int[np.ndarray, "n"]) -> tuple[list[tuple[int, int]], list[int]]:
        """Of each row: its episode and its block there, and its tick within the block."""
        starts = self._episodes.starts
        numbers = np.searchsorted(starts, rows, "right") - 1
        blocks, ticks = np.divmod(rows - starts[numbers], self._sizes[numbers])
        return [*zip(numbers.tolist(), blocks.tolist(), strict=True)], ticks.tolist()

    def _block(self, number: int, block: int) -> Future[UInt8[np.ndarray, "n H W C"]]:
        """A block, decoded or about to be; whoever asks first has it decoded."""
        key = (number, block)
        with self._lock:
            if key not in self._blocks:
                size = self._episodes.episodes[number].frames.chunk_length
                ticks = slice(block * size, (block + 1) * size)
                self._blocks[key] = self._pool.submit(
                    self._episodes.read_frames, number, ticks, self._block_memory
                )
                while len(self._blocks) > self._capacity:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
            return self._blocks[key]


def cache_folder(episodes: Episodes, cache_dir: Path) -> Path:
    """Where the cache of a dataset is, or would be."""
    name = episodes.path.partition("?")[0].rstrip("/").rpartition("/")[2]
    return cache_dir / f"{name}-{episodes.fingerprint()}"


def _is_complete(folder: Path) -> bool:
    # The journal gets this name when the frames are all written.
    return (folder / "done.jsonl").is_file()


class _Journal(NamedTuple):
    """What a cache holds, in order, one line of JSON each in its file."""

    written: dict[str, int]
    """CRC-32C of each decoded episode."""
    problems: list[Problem]
    """Of episodes that could not be decoded."""


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
    kept = [episode for episode in episodes.episodes if episode.name not in broken]
    sizes = np.array([episode.length * episodes.frame_bytes for episode in kept], np.int64)
    file = folder / "frames.u8"
    sound = (
        list(journal.written) == [episode.name for episode in kept]
        and file.is_file()
        and file.stat().st_size == int(sizes.sum())
    )
    if sound and kept:
        count = max(2, int(CHECKED_BYTES / max(sizes.mean(), 1)))
        chosen = np.unique(np.linspace(0, len(kept) - 1, min(count, len(kept))).astype(int))
        starts = np.cumsum(sizes) - sizes
        with file.open("rb") as frames:
            for number in chosen.tolist():
                frames.seek(int(starts[number]))
                crc = _checksum(frames, int(sizes[number]))
                sound = sound and crc == journal.written[kept[number].name]
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


def _write_cache(episodes: Episodes, folder: Path, threads: int) -> None:
    """Decodes a dataset into a folder; goes on where an earlier run was stopped."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another run is decoding this dataset; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_complete(folder):
            if _is_sound(folder, episodes):
                return
            print(f"{folder}: this cache is damaged; decoding again", flush=True)
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        journal = _read_journal(folder / "doing.jsonl")
        sizes = {each.name: each.length * episodes.frame_bytes for each in episodes.episodes}
        end = sum(sizes[name] for name in journal.written)
        if _size(folder / "frames.u8") < end:
            journal, end = _Journal({}, []), 0  # somebody removed the frames to make room
        seen = {*journal.written, *(problem.episode for problem in journal.problems)}
        pending = [n for n, episode in enumerate(episodes.episodes) if episode.name not in seen]
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
    Path(lock.name).unlink(missing_ok=True)


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
        for number, tick, found in _decode(episodes, pending, threads):
            episode = episodes.episodes[number]
            if isinstance(found, Problem):
                file.truncate(end)
                (line,) = _lines(_Journal({}, [found]))
            else:
                file.write(found.data)
                crc = google_crc32c.extend(crc, found)  # pyright: ignore[reportArgumentType]
                if tick + len(found) < episode.length:
                    continue
                (line,) = _lines(_Journal({episode.name: crc}, []))
                file.flush()
                os.fsync(file.fileno())
                end += episode.length * episodes.frame_bytes
            print(line, file=log, flush=True)
            crc = 0


def _decode(
    episodes: Episodes, numbers: list[int], threads: int
) -> Iterator[tuple[int, int, UInt8[np.ndarray, "n H W C"] | Problem]]:
    """All frames of episodes in order: the episode's number, the block's first tick, its frames.

    Where a frame can't be read, the problem comes instead, and the episode ends there.
    """
    blocks = [
        (number, tick)
        for number in numbers
        for tick in range(0, episodes.episodes[number].length, BLOCK)
    ]
    broken, memory = None, Recycled()
    with ThreadPoolExecutor(threads) as pool:
        ahead: collections.deque[Future[UInt8[np.ndarray, "n H W C"]]] = collections.deque()
        left = iter(blocks)
        for number, tick in track(blocks, "Decoding frames", len(blocks)):
            for following in itertools.islice(left, 2 * threads - len(ahead)):
                first = following[1]
                ticks = slice(first, first + BLOCK)
                ahead.append(pool.submit(episodes.read_frames, following[0], ticks, memory))
            block = ahead.popleft()
            if number == broken:
                continue
            try:
                yield number, tick, block.result()
            except DataError as error:
                if error.is_transient:
                    raise
                broken = number
                name = episodes.episodes[number].name
                yield number, tick, Problem("error", name, str(error), error.ticks)


def _rows(
    episodes: Episodes, cache_dir: Path, threads: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "n H W C"]]]:
    """All frames, in blocks with their first rows, from the cache if there is one. Episodes that
    can't be decoded are dropped, and those behind them take their rows."""
    if _is_complete(cache_folder(episodes, cache_dir)):
        cached = CachedFrames(episodes, cache_dir, threads)
        rows = range(0, episodes.ticks, BLOCK)
        for row in track(rows, "Loading frames", len(rows)):
            yield row, cached.read(np.arange(row, min(row + BLOCK, episodes.ticks)))
        return
    row, problems = 0, []
    for number, tick, found in _decode(episodes, [*range(len(episodes))], threads):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        yield row + tick, found
        if tick + len(found) == episodes.episodes[number].length:
            row += episodes.episodes[number].length
    episodes.drop(problems)


def _size(file: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def _free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _free_device_memory() -> int | None:
    """Bytes free on the accelerator; None where there is none or it does not say."""
    device = jax.local_devices()[0]
    statistics = None if device.platform == "cpu" else device.memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
