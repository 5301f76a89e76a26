"""The one dataset: windows over the episodes of a split, on any frame store."""

import dataclasses
import functools
import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from BC_training.common import instruction as instructions_
from BC_training.common import preprocess as preprocessing
from BC_training.common import window as windows
from BC_training.common.config import Config
from BC_training.common.dataset_paths import locate_datasets
from BC_training.common.episodes import Episodes, split
from BC_training.common.frames.base import FrameStore
from BC_training.common.frames.open import Opened, open_frames
from BC_training.common.instruction import Instructions
from BC_training.common.joined import open_datasets
from BC_training.common.mix import MixedOrder, make_order
from BC_training.common.order import EpochOrder, StreamPlan
from BC_training.common.preprocess import Preprocess
from BC_training.common.tables import Tables, instruction_of
from BC_training.common.types import Batch, DataSpec, RawObservation, WindowSpec
from gameplay_pipeline.plumbing.errors import UserError

SPLITS = ("train", "val", "test")

FIT_FRAMES = 512
"""Training frames that the normalisation is fitted on, evenly spaced."""

READ_BYTES, MAX_GROUPED = 2**24, 16
"""Bytes of frames that a thread reads at once, in up to so many batches: to hand one over takes as
long as to copy a dozen frames."""


class Dataset:
    """Samples of one split. A sample is a tick at which a prediction is made."""

    def __init__(
        self,
        tables: Tables,
        frames: FrameStore,
        window: WindowSpec,
        order: EpochOrder | MixedOrder,
    ):
        """Gathers what others have opened.

        Args:
            tables: of the split's episodes.
            frames: of the dataset.
            window: what a sample holds.
            order: in which training visits the samples.
        """
        self.names, self.actions, self.state = tables.names, tables.actions, tables.state
        self.auxiliary, self.corrected = tables.auxiliary, tables.corrected
        self.order = order
        self._tables, self._frames, self._window = tables, frames, window
        self._firsts = np.cumsum(tables.lengths) - tables.lengths

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def targets(self) -> Int[np.ndarray, "n"]:
        """The samples at which somebody said what should be pressed: those that are trained on and
        scored. The others are only seen by windows."""
        judged = self._tables.judged
        return np.arange(len(self)) if judged is None else np.flatnonzero(judged)

    def stretches(self, samples: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Which run of neighbouring ticks of one episode each of some samples, in order, is in."""
        breaks = (np.diff(samples) != 1) | (np.diff(self._episode_of(samples)) != 0)
        return np.concatenate([np.zeros(min(len(samples), 1), int), np.cumsum(breaks)])

    @property
    def episode(self) -> Int[np.ndarray, "N"]:
        """Which of the split's episodes each sample belongs to."""
        return np.repeat(np.arange(len(self.names)), self._tables.lengths)

    @property
    def resident(self) -> UInt8[Array, "N H W C"] | None:
        """All frames of the dataset where they are in the accelerator's memory: a batch then holds
        their rows, and whoever takes it needs these too."""
        return self._frames.resident

    def frames(self, samples: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        """The current frame of samples, without a window."""
        episode = self._episode_of(samples)
        return self._frames.read(self._tables.rows[episode] + samples - self._firsts[episode])

    def batch(self, samples: Int[np.ndarray, "B"]) -> Batch:
        """The samples as a batch; those that nobody judged weigh nothing."""
        episode = self._episode_of(samples)
        first = self._firsts[episode][:, None]
        tick = samples - first[:, 0]
        ticks, within = windows.observed(tick, self._window)
        future, valid = windows.predicted(tick, self._tables.lengths[episode], self._window)
        tokens = self._tables.tokens
        rows = self._tables.rows[episode][:, None] + ticks
        frames = self._frames.gather(rows.reshape(-1))
        return Batch(
            observation=RawObservation(
                frames=frames.reshape(*rows.shape, *frames.shape[1:]),
                state=None if self.state is None else self.state[first + ticks],
                past_actions=self._before(first, ticks) if self._window.past_actions else None,
                instruction=None if tokens is None else tokens[episode],
                valid=within,
            ),
            actions=self.actions[first + future],
            valid=valid & self._judged(first + future),
            previous=self._before(first, tick[:, None])[:, 0],
            auxiliary=None if self.auxiliary is None else self.auxiliary[samples],
            weight=self._judged(samples).astype(np.float32),
        )

    def train_batches(
        self,
        *,
        batch_size: int,
        steps: range,
        threads: int,
        rows: Int[np.ndarray, "b"] | None = None,
    ) -> Iterator[Batch]:
        """The batch of each of the steps, read ahead by threads.

        What step holds what is a pure function of (seed, step): see `EpochOrder` and `MixedOrder`.

        Args:
            batch_size: samples in a step.
            steps: counted from the beginning of the run.
            threads: that read.
            rows: of each batch, those that are read; all if not given.

        Raises:
            DataError: a frame can't be read.
        """

        def load(numbers: range) -> list[Batch]:
            wanted = [steps[number] for number in numbers]
            samples = [self.order.batch(step, batch_size)[chosen] for step in wanted]
            batch = self.batch(np.concatenate(samples))
            for step in wanted:
                for block in self.order.ahead(step, batch_size):
                    self._prepare(*block)
            return _cut(batch, len(chosen))

        chosen = np.arange(batch_size) if rows is None else rows
        return _read_ahead(load, len(steps), self._grouped(len(chosen)), threads)

    def eval_batches(
        self, *, batch_size: int, threads: int, rows: Int[np.ndarray, "b"] | None = None
    ) -> Iterator[Batch]:
        """All samples in order; rows that only fill the last batch up weigh nothing. The arguments
        are those of `train_batches`."""

        def load(numbers: range) -> list[Batch]:
            firsts = np.arange(numbers.start, numbers.stop)[:, None] * batch_size
            samples = (firsts + chosen).reshape(-1)
            batch = self.batch(np.minimum(samples, len(self) - 1))
            batch = batch._replace(weight=batch.weight * (samples < len(self)))
            return _cut(batch, len(chosen))

        chosen = np.arange(batch_size) if rows is None else rows
        count = -(-len(self) // batch_size)
        return _read_ahead(load, count, self._grouped(len(chosen)), threads)

    def _grouped(self, batch_size: int) -> int:
        """Batches that a thread reads at once."""
        frame_bytes = int(np.prod(self._frames.image_shape))
        return _grouped(batch_size * self._window.ticks * frame_bytes)

    def _episode_of(self, samples: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return np.searchsorted(self._firsts, samples, "right") - 1

    def _prepare(self, first: int, last: int) -> None:
        """Has the frames decoded that samples of one episode will need."""
        (episode,) = self._episode_of(np.array([first]))
        tick = max(first - int(self._firsts[episode]) - self._window.span + 1, 0)
        row = int(self._tables.rows[episode])
        self._frames.prepare(row + tick, row + last - int(self._firsts[episode]))

    def _before(
        self, first: Int[np.ndarray, "B 1"], ticks: Int[np.ndarray, "B T"]
    ) -> Bool[np.ndarray, "B T A"]:
        """What was pressed one tick before; nothing at an episode's first tick."""
        return self._tables.pressed[first + np.maximum(ticks - 1, 0)] & (ticks > 0)[..., None]

    def _judged(self, ticks: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        judged = self._tables.judged
        return np.ones(ticks.shape, bool) if judged is None else judged[ticks]


@dataclasses.dataclass(frozen=True)
class Data:
    """An opened dataset and its splits, windowed for a model."""

    episodes: Episodes
    """Those whose frames are open."""
    spec: DataSpec
    opened: Opened
    splits: dict[str, Dataset]
    preprocess: Preprocess
    """Fitted on the training split, or a checkpoint's."""

    @functools.cached_property
    def content(self) -> str:
        """A digest of the episodes' names, lengths and actions, in their order."""
        return self.episodes.content()


def open_data(
    config: Config,
    preprocess: Preprocess | None = None,
    splits: Sequence[str] = SPLITS,
) -> Data:
    """Opens the datasets of a configuration, splits them, and decodes them if need be.

    Args:
        config: says which datasets and which split, and, through the model, which window.
        preprocess: that of a checkpoint; fitted on the training split if not given.
        splits: those whose frames are needed; of others there are only the tables.

    Raises:
        UserError: the dataset can't be used, or not by this model.
    """
    settings, threads = config.dataset, config.system.threads
    entries = locate_datasets(settings)
    whole = open_datasets(
        entries,
        validate=settings.validate_episodes,
        use_state=settings.use_state,
    )
    spec = whole.spec()
    window = config.model.window()
    _refuse_window(window, whole, spec, config)
    # Before frames are decoded, so that where they live does not change who is in which split.
    numbers = split(whole, settings.train_ratio, settings.val_ratio, settings.split_seed)
    parts = [{whole.episodes[number].name for number in part} for part in numbers]
    needed = [parts[SPLITS.index(name)] for name in splits]
    plan = _plan(whole, window, config)
    opened = open_frames(whole, settings, plan, threads=threads, names=set().union(*needed))
    instructions = None if preprocess is None else preprocess.instructions
    datasets = {}
    for name, part in zip(SPLITS, parts, strict=True):
        episodes, frames = opened.episodes, opened.frames
        if name not in splits:
            episodes, frames = whole, FrameStore()
        chosen = [n for n, episode in enumerate(episodes.episodes) if episode.name in part]
        if name == "train" and window.instruction and instructions is None:
            texts = [instruction_of(episodes.episodes[n], settings.instruction) for n in chosen]
            instructions = instructions_.fit(texts, window.instruction)
        tables = Tables.of(
            episodes,
            window,
            chosen,
            instructions=instructions,
            instruction=settings.instruction,
        )
        order = EpochOrder(tables.lengths, config.system.seed, plan, tables.judged)
        if name == "train":
            order = make_order(tables, config, plan)
        datasets[name] = Dataset(tables, frames, window, order)
    if preprocess is None:
        preprocess = _fit(datasets["train"], spec, config, instructions)
    spec = spec.model_copy(update={"features": preprocess.features()})
    return Data(opened.episodes, spec, opened, datasets, preprocess)


def _plan(episodes: Episodes, window: WindowSpec, config: Config) -> StreamPlan:
    batch = config.training.batch_size * window.ticks * episodes.frame_bytes
    # While one evaluates, what is read ahead for training waits.
    in_flight = (_ahead(config.system.threads) + 2) * 2 * _grouped(batch) * batch
    return StreamPlan.of(
        episodes.chunk_length,
        episodes.frame_bytes,
        span=window.span,
        shuffle_buffer=config.dataset.shuffle_buffer,
        in_flight=in_flight,
    )


def _fit(
    train: Dataset, spec: DataSpec, config: Config, instructions: Instructions | None
) -> Preprocess:
    if not len(train):
        raise UserError("dataset.train_ratio: the training split has no episode to fit on")
    spaced = np.linspace(0, len(train) - 1, min(FIT_FRAMES, len(train))).astype(int)
    auxiliary = config.model.auxiliary
    return preprocessing.fit(
        train.frames(spaced),
        train.state,
        attributes=spec.state,
        instructions=instructions,
        auxiliary=None if train.auxiliary is None else (str(auxiliary), train.auxiliary),
        normalize_frames=config.dataset.normalize_frames,
        color_order=spec.frame.color_order,
    )


def _refuse_window(window: WindowSpec, episodes: Episodes, spec: DataSpec, config: Config) -> None:
    """Refuses a dataset that lacks what the model needs."""
    name, settings = config.model.name, config.dataset
    for wanted, key in ((window.state, "model.name"), (window.auxiliary, "model.auxiliary")):
        if wanted and not spec.state:
            why = "the dataset has none" if settings.use_state else "dataset.use_state is false"
            raise UserError(f"{key}: {name} reads the game state, but {why}")
    if window.auxiliary and window.auxiliary not in spec.state:
        raise UserError(
            f"model.auxiliary: the dataset has no attribute {window.auxiliary!r}, only "
            f"{', '.join(spec.state)}"
        )
    longest = max(episode.length for episode in episodes.episodes)
    if window.span > longest:
        raise UserError(
            f"model: its window spans {window.span} ticks, but the longest of the dataset's "
            f"episodes has {longest}; lower model.ticks or model.stride"
        )
    shortest = min(episodes.episodes, key=lambda episode: episode.length)
    if window.chunk > shortest.length:
        raise UserError(
            f"model.chunk: {window.chunk} ticks are to be predicted, but {shortest.name} has only "
            f"{shortest.length}; lower it, or remove that episode"
        )


def _grouped(size: int) -> int:
    """Batches that a thread reads at once, each with `size` bytes of frames."""
    return min(max(READ_BYTES // size, 1), MAX_GROUPED)


def _ahead(threads: int) -> int:
    """Reads that are under way or done: one in each thread, and two that wait."""
    return threads + 2


def _cut(batch: Batch, size: int) -> list[Batch]:
    """Batches of `size` that follow each other in one, as views."""
    starts = range(0, len(batch.weight), size)
    return [jax.tree.map(operator.itemgetter(slice(at, at + size)), batch) for at in starts]


def _read_ahead(
    load: Callable[[range], list[Batch]], count: int, grouped: int, threads: int
) -> Iterator[Batch]:
    """`load` of 0, 1, ..., so many grouped, in order, called in threads before it is asked for."""
    jobs = (range(n, min(n + grouped, count)) for n in range(0, count, grouped))
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(load, job) for job in itertools.islice(jobs, _ahead(threads)))
        try:
            while ahead:
                batches = ahead.popleft().result()
                ahead.extend(pool.submit(load, job) for job in itertools.islice(jobs, 1))
                yield from batches
        finally:
            pool.shutdown(cancel_futures=True)
