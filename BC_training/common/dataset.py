"""The one dataset: windows over the episodes of a split, on any residency."""

import dataclasses
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from BC_training.common import window as windows
from BC_training.common.config import Config
from BC_training.common.console import progress
from BC_training.common.episodes import Episodes
from BC_training.common.types import Batch, DataSpec, Ticks, UserError, WindowSpec

SPLITS = ("train", "val", "test")

BLOCK = 256
"""Frames decoded at once while the cache is written: enough to occupy all decoding threads."""


class CachedFrames:
    """Residency `cache`: frames decoded once into a memory-mapped file that runs share.

    A row is a tick of all valid episodes laid end to end.
    """

    def __init__(self, episodes: Episodes, cache_dir: Path):
        """Opens the cache of a dataset, or decodes the dataset into it.

        Raises:
            UserError: a frame can't be read, or the cache can't be written.
        """
        channels, height, width = episodes.frame_shape
        shape = (episodes.ticks, height, width, channels)
        folder = cache_dir / f"{episodes.path.name}-{episodes.fingerprint()}"
        file = folder / "frames.u8"
        if not _complete(folder, shape):
            _write_cache(episodes, folder, shape)
        self._frames = np.memmap(file, np.uint8, "r", shape=shape)

    def gather(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        """Frames of any rows, in that order."""
        return self._frames[rows]


class Dataset:
    """Samples of one split. A sample is a tick at which a prediction is made."""

    def __init__(
        self, episodes: Episodes, numbers: Sequence[int], window: WindowSpec, frames: CachedFrames
    ):
        """Lays the split's episodes end to end.

        Args:
            episodes: the dataset.
            numbers: the split's episodes, as positions in `episodes.episodes`.
            window: what a sample holds.
            frames: of the whole dataset.
        """
        chosen = [episodes.episodes[number] for number in numbers]
        self._window = window
        self._frames = frames
        self._lengths = np.array([episode.length for episode in chosen], np.int64)
        self._firsts = np.cumsum(self._lengths) - self._lengths
        self._rows = episodes.starts[np.array(numbers, np.int64)]
        # The leading empty arrays give a split without episodes its shapes.
        self.actions: Bool[np.ndarray, "N A"] = np.concatenate(
            [np.zeros((0, len(episodes.actions)), bool), *(e.actions for e in chosen)]
        )
        self.state: Float[np.ndarray, "N S"] | None = None
        if window.state:
            known = [e.state for e in chosen if e.state is not None]
            self.state = np.concatenate(
                [np.zeros((0, len(episodes.state_names)), np.float32), *known]
            )
        self.episode: Int[np.ndarray, "N"] = np.repeat(np.arange(len(chosen)), self._lengths)
        """Which of the split's episodes each sample belongs to."""

    def __len__(self) -> int:
        return len(self.actions)

    def frames(self, samples: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        """The current frame of samples, without a window."""
        episode = self.episode[samples]
        return self._frames.gather(self._rows[episode] + samples - self._firsts[episode])

    def batch(self, samples: Int[np.ndarray, "B"]) -> Batch:
        """The samples as a batch of weight one."""
        episode = self.episode[samples]
        first = self._firsts[episode][:, None]
        tick = samples - first[:, 0]
        ticks, seen = windows.observed(tick, self._window)
        future, valid = windows.predicted(tick, self._lengths[episode], self._window)
        rows = self._rows[episode][:, None] + ticks
        frames = self._frames.gather(rows.reshape(-1))
        return Batch(
            observation=Ticks(
                frames=frames.reshape(*rows.shape, *frames.shape[1:]),
                state=None if self.state is None else self.state[first + ticks],
                past_actions=self._before(first, ticks) if self._window.past_actions else None,
                valid=seen,
            ),
            actions=self.actions[first + future],
            valid=valid,
            previous=self._before(first, tick[:, None])[:, 0],
            weight=np.ones(len(samples), np.float32),
        )

    def train_batches(
        self, *, seed: int, batch_size: int, start: int, stop: int, threads: int
    ) -> Iterator[Batch]:
        """Batches of steps `start` to `stop`, read ahead by threads.

        What step holds what is a pure function of (seed, step): each epoch is a new shuffle, whose
        remainder that fills no batch is left out.
        """
        steps_per_epoch = len(self) // batch_size
        order = functools.lru_cache(2)(lambda epoch: windows.epoch_order(seed, epoch, len(self)))

        def load(step: int) -> Batch:
            epoch, at = divmod(step, steps_per_epoch)
            return self.batch(order(epoch)[at * batch_size : (at + 1) * batch_size])

        return _read_ahead(load, start, stop, threads)

    def eval_batches(self, *, batch_size: int, threads: int) -> Iterator[Batch]:
        """All samples in order; rows that only fill the last batch up weigh nothing."""

        def load(step: int) -> Batch:
            samples = np.arange(step * batch_size, (step + 1) * batch_size)
            batch = self.batch(np.minimum(samples, len(self) - 1))
            return batch._replace(weight=(samples < len(self)).astype(np.float32))

        return _read_ahead(load, 0, -(-len(self) // batch_size), threads)

    def _before(
        self, first: Int[np.ndarray, "B 1"], ticks: Int[np.ndarray, "B T"]
    ) -> Bool[np.ndarray, "B T A"]:
        """What was pressed one tick before; nothing at an episode's first tick."""
        return self.actions[first + np.maximum(ticks - 1, 0)] & (ticks > 0)[..., None]


@dataclasses.dataclass(frozen=True)
class Data:
    """An opened dataset and its splits, windowed for a model."""

    episodes: Episodes
    spec: DataSpec
    splits: dict[str, Dataset]


def open_data(config: Config, path: str | None = None) -> Data:
    """Opens the dataset of a configuration, decodes it if need be, and splits it.

    Args:
        config: says which dataset and which split, and, through the model, which window.
        path: another dataset instead.

    Raises:
        UserError: the dataset can't be used, or not by this model.
    """
    settings = config.dataset
    episodes = Episodes(
        path or config.dataset_path(),
        validate=settings.validate_episodes,
        threads=config.system.num_workers,
    )
    spec = episodes.spec(use_state=settings.use_state)
    window = config.model.window()
    if window.state and not spec.state:
        why = "the dataset has none" if settings.use_state else "dataset.use_state is false"
        raise UserError(f"model.name: {config.model.name} reads the game state, but {why}")
    numbers = episodes.split(settings.train_ratio, settings.val_ratio, settings.split_seed)
    cache_dir = Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()
    frames = CachedFrames(episodes, cache_dir)
    splits = {
        name: Dataset(episodes, chosen, window, frames)
        for name, chosen in zip(SPLITS, numbers, strict=True)
    }
    return Data(episodes, spec, splits)


def _read_ahead(load, start: int, stop: int, threads: int) -> Iterator[Batch]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(start, stop).map(load).to_iter_dataset(options))


def default_cache_dir() -> Path:
    """The user's cache folder, as XDG names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "project_ranni"


def _complete(folder: Path, shape: tuple[int, ...]) -> bool:
    file = folder / "frames.u8"
    return file.is_file() and file.stat().st_size == int(np.prod(shape))


def _write_cache(episodes: Episodes, folder: Path, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise UserError(
                f"{folder.parent}: the decoded frames need {size / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} are free; set dataset.cache_dir to a folder on another disk"
            )
        # Written under another name and renamed when whole: a killed run leaves no cache behind
        # that could be taken for one.
        work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            _decode(episodes, work / "frames.u8", shape)
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: can't keep decoded frames there: {error}; "
            "set dataset.cache_dir to a folder that can be written"
        ) from error


def _decode(episodes: Episodes, file: Path, shape: tuple[int, ...]) -> None:
    frames = np.memmap(file, np.uint8, "w+", shape=shape)
    blocks = [
        (number, tick)
        for number, episode in enumerate(episodes.episodes)
        for tick in range(0, episode.length, BLOCK)
    ]
    for number, tick in progress(blocks, "Decoding frames", len(blocks)):
        stop = min(tick + BLOCK, episodes.episodes[number].length)
        block = episodes.read_frames(number, slice(tick, stop))
        row = episodes.starts[number] + tick
        frames[row : row + len(block)] = block
    frames.flush()
