"""All frames in the accelerator's memory; batches are row numbers.

Of several devices each holds all frames (`Devices.replicate`): the samples of a batch come from
anywhere in the dataset, so frames split over devices would have to be sent between them at each
step. Only a dataset of more than 60 percent of a device's memory would gain by that (margit_100
takes 10.5 GB at 144x256, 42 GB at 288x512). Such a one is cached, which on an H200 costs a ninth of
the speed (benchmarks/results/input_wait-nvidia-h200.json).
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from BC_training.common.accelerator import first_device
from BC_training.common.episodes import Episodes
from BC_training.common.frames import cached
from BC_training.common.frames.base import GIB, FrameStore
from BC_training.common.frames.decode import FRAMES_AT_ONCE, decode
from BC_training.common.types import Problem
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.progress import track


class DeviceFrames(FrameStore):
    """The frame store of residency `device`."""

    def __init__(self, resident: UInt8[Array, "N H W C"]):
        self._resident = resident

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._resident.shape[1:]

    @property
    def resident(self) -> UInt8[Array, "N H W C"]:
        return self._resident

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        return np.asarray(self._resident[jnp.asarray(rows)])

    def gather(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        return rows.astype(np.int32)


def load(episodes: Episodes, cache_dir: Path, threads: int) -> tuple[DeviceFrames, list[Problem]]:
    """Moves the frames of a dataset to the accelerator, from its cache if it has one.

    Returns:
        The frames, and what is wrong with the episodes that have none among them.

    Raises:
        UserError: the memory does not suffice, or the cache can't be read.
    """
    problems: list[Problem] = []
    if cached.is_complete(episodes, cache_dir):
        store, problems = cached.load(episodes, cache_dir, threads)
        episodes = episodes.without(problems)
        pieces = _stored(store, episodes.ticks)
    else:
        pieces = _decoded(episodes, problems, threads)
    try:
        # Every piece is placed whole, so that one program serves all; what a shorter one leaves
        # behind it, the next one overwrites.
        frames = jnp.zeros((episodes.ticks + FRAMES_AT_ONCE, *episodes.image_shape), jnp.uint8)
        place = jax.jit(jax.lax.dynamic_update_slice_in_dim, donate_argnums=0, static_argnums=3)
        padded = np.zeros((FRAMES_AT_ONCE, *episodes.image_shape), np.uint8)
        for row, piece in pieces:
            padded[: len(piece)] = piece
            frames = place(frames, padded.copy(), row, 0)
        return DeviceFrames(jax.block_until_ready(frames)), problems
    except jax.errors.JaxRuntimeError as error:
        size = episodes.ticks * episodes.frame_bytes
        raise UserError(
            f"dataset.residency: the frames need {size / GIB:.1f} GiB, more than this device "
            f"has left ({str(error).splitlines()[0]}); set it to cache or stream"
        ) from error


def free_memory() -> int | None:
    """Bytes free on each accelerator of this process; None where there is none, or one does not
    say."""
    first_device()  # says it in words where there is no device
    free = []
    for device in jax.local_devices():
        statistics = None if device.platform == "cpu" else device.memory_stats()
        if not statistics or "bytes_limit" not in statistics:
            return None
        free.append(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    return min(free)


Pieces = Iterator[tuple[int, UInt8[np.ndarray, "n H W C"]]]
"""Consecutive frames, each piece with the row of its first."""


def _stored(store: FrameStore, ticks: int) -> Pieces:
    starts = range(0, ticks, FRAMES_AT_ONCE)
    for row in track(starts, "Loading frames", len(starts)):
        yield row, store.read(np.arange(row, min(row + FRAMES_AT_ONCE, ticks)))


def _decoded(episodes: Episodes, problems: list[Problem], threads: int) -> Pieces:
    """Decodes the dataset. Episodes in which a frame can't be read are added to `problems`, and
    those behind them take their rows."""
    row = 0
    for number, tick, frames in decode(episodes, range(len(episodes)), threads):
        if isinstance(frames, Problem):
            problems.append(frames)
            continue
        yield row + tick, frames
        if tick + len(frames) == episodes.episodes[number].length:
            row += episodes.episodes[number].length
