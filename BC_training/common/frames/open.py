"""Puts the frames of a dataset where the configuration says, or where they fit."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from BC_training.common.config import DatasetConfig
from BC_training.common.episodes import Episodes
from BC_training.common.frames import cached, device
from BC_training.common.frames.base import GIB, FrameStore
from BC_training.common.frames.streamed import StreamedFrames
from BC_training.common.order import StreamPlan
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import expand

DEVICE_SHARE = 0.6
"""Share of an accelerator's free memory that `auto` gives to frames; the model needs the rest."""


class Opened(NamedTuple):
    """Decoded frames, whose they are, and why they are where they are."""

    frames: FrameStore
    episodes: Episodes
    """The episodes that the rows of `frames` run through: those whose frames can all be read."""
    residency: str
    reason: str


def open_frames(
    episodes: Episodes,
    settings: DatasetConfig,
    plan: StreamPlan,
    *,
    threads: int,
    names: Collection[str] | None = None,
) -> Opened:
    """Opens the frame store of a dataset.

    Args:
        episodes: the dataset.
        settings: dataset.residency and what belongs to it.
        plan: what streaming decodes together and keeps.
        threads: that decode.
        names: the episodes that are needed, all if not given. Others are left out, unless the
            whole dataset is decoded in its cache already.

    Raises:
        UserError: the frames fit nowhere, or one can't be read and broken episodes are an error.
    """
    folder = cached.default_folder()
    if settings.cache_dir is not None:
        folder = Path(expand(settings.cache_dir))
    kind = settings.residency
    has_cache = folder is not None and cached.is_complete(episodes, folder)
    if names is not None and not (has_cache and kind in ("auto", "cache")):
        episodes = episodes.only(names)
    reason = "as configured"
    if kind == "auto":
        kind, reason = choose(episodes, folder)
    if kind == "stream":
        bound = int(settings.stream_memory_gib * GIB)
        return Opened(StreamedFrames(episodes, plan, bound, threads), episodes, kind, reason)
    if folder is None:
        raise UserError(
            "dataset.cache_dir: this user has no home folder to keep decoded frames in; set it, or "
            "set dataset.residency to stream"
        )
    load = device.load if kind == "device" else cached.load
    frames, problems = load(episodes, folder, threads)
    return Opened(frames, episodes.without(problems), kind, reason)


def choose(episodes: Episodes, cache_dir: Path | None) -> tuple[str, str]:
    """The fastest residency that the frames fit in, and the reason in words."""
    size = episodes.ticks * episodes.frame_bytes
    why = f"{size / GIB:.2f} GiB decoded"
    memory = device.free_memory()
    if memory is not None:
        fits = size <= DEVICE_SHARE * memory
        relation = "within" if fits else "more than"
        why += f", {relation} {DEVICE_SHARE:.0%} of {memory / GIB:.1f} GiB of free device memory"
        if fits:
            return "device", why
    if cache_dir is None:
        return "stream", f"{why}, and there is no home folder to keep that in"
    if cached.is_complete(episodes, cache_dir):
        return "cache", f"{why}, already decoded in {cache_dir}"
    if not cached.is_writable(cache_dir):
        return "stream", f"{why}, and nothing can be written in {cache_dir}"
    free = cached.room_for(episodes, cache_dir)
    if size <= free:
        return "cache", f"{why}, {free / GIB:.1f} GiB free in {cache_dir}"
    return "stream", f"{why}, only {free / GIB:.1f} GiB free in {cache_dir}"
