"""Exports datasets of the project to LeRobot's format, version 3."""

import contextlib
import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np

from gameplay_pipeline.convert.exporting import (
    Export,
    Source,
    find_entry,
    open_reader,
    open_source,
    print_not_carried_over,
    read_rgb,
    read_tables,
    report,
    unfinished,
    writing,
)
from gameplay_pipeline.convert.importing import check_workers
from gameplay_pipeline.convert.lerobot_writer import (
    EncodedVideo,
    LeRobotWriter,
    combined,
    statistics,
)
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.video import LOSSLESS, LOSSY, Encoding, VideoWriter
from gameplay_pipeline.plumbing.workers import in_processes
from gameplay_pipeline.store.checks import is_rate
from gameplay_pipeline.store.writer import partial_folder

SAMPLED_FRAMES = 100
"""Frames of an episode, at least, from which the statistics of its pixels are taken."""


@dataclasses.dataclass(frozen=True)
class ToLeRobot(Export):
    """Converts a dataset of this project into a LeRobot dataset; if stopped, it starts over."""

    task: str = "Defeat the boss."
    """What is being done, in words, for models that take an instruction."""
    fps: float | None = None
    """Ticks per second, for a dataset that does not say."""
    workers: int | None = None
    """Number of episodes converted at the same time; by default the number of usable cores."""


def to_lerobot(job: ToLeRobot) -> int:
    """Writes a LeRobot dataset.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: there is no such dataset, it can't be carried over, or the new one can't be
            written.
    """
    require("av", "convert")
    check_workers(job.workers)
    source = open_source(job)
    fps = _ticks_per_second(job, source)
    height, width = source.size
    if not job.lossless and (height % 2 or width % 2):
        raise UserError(
            f"{job.source}: its frames are {width}x{height}, but a lossy video needs even sizes; "
            "repack it with --resolution, or give --lossless"
        )
    _name_what_is_lost(job, source, fps)
    names = source.names
    encode = functools.partial(_encode, job, fps, source.color_order, source.size)
    with unfinished(job.out) as folder:
        with contextlib.closing(in_processes(encode, names, job.workers)) as encoding:
            videos = list(
                track(encoding, "Converting episodes", total=len(names),
                      frames_of=lambda video: video.frames)
            )  # fmt: skip
        videos.sort(key=lambda video: names.index(video.episode))
        complete = [video for video in videos if video.problem is None]
        if complete:
            with writing(folder):
                with LeRobotWriter(folder, source, job.task, fps, _encoding(job)) as writer:
                    for video in complete:
                        tables = read_tables(
                            source.entries[video.episode], source.reader.attributes
                        )
                        writer.add(_video_path(job, video.episode), video, tables)
                folder.rename(job.out)
    left_out = {video.episode: video.problem for video in videos if video.problem is not None}
    return report(job.out, len(complete), sum(video.frames for video in complete), left_out)


def _ticks_per_second(job: ToLeRobot, source: Source) -> float:
    if job.fps is not None and not is_rate(job.fps):
        raise UserError(f"--fps is {job.fps:g}, not a number of ticks per second")
    attributes = [entry.attributes for entry in source.entries.values()]
    rates = [each["fps"] for each in attributes if "fps" in each]
    stated = source.reader.attributes.get("fps")
    fps = job.fps or stated or (float(np.median(rates)) if rates else None)
    if fps is None or not is_rate(fps):
        raise UserError(f"{job.source}: its fps is {fps}; give --fps, the ticks per second")
    return fps


def _name_what_is_lost(job: ToLeRobot, source: Source, fps: float) -> None:
    entries = source.entries.values()
    lost = []
    if not job.lossless:
        lost.append("frames: the video is lossy (H.264, crf 18); --lossless keeps every pixel")
    if any("timestamps" in entry.arrays for entry in entries):
        lost.append(f"timestamps: LeRobot's frames are a constant 1/{fps:g} s apart")
    if of_episodes := {key for e in entries for key in e.attributes} - {"fps", "frame_count"}:
        lost.append(f"attributes of the episodes: {', '.join(sorted(of_episodes))}")
    carried = {"keys", "attributes", "fps", "color_order", "resolution", "version"}
    if of_root := set(source.reader.attributes) - carried:
        lost.append(f"attributes of the dataset: {', '.join(sorted(of_root))}")
    lost.append("quantiles of the statistics: lerobot has a script that adds them")
    print_not_carried_over(lost)


def _encoding(job: ToLeRobot) -> Encoding:
    return LOSSLESS if job.lossless else LOSSY


def _encode(
    job: ToLeRobot, fps: float, color: str, size: tuple[int, int], name: str
) -> EncodedVideo:
    """Writes the video of one episode, if the episode is sound."""
    try:
        reader = open_reader(job.source)
        entry = find_entry(reader, name)
        length = len(read_tables(entry, reader.attributes).actions)
        pixels, path = [], _video_path(job, name)
        with writing(path), VideoWriter(path, (size[1], size[0]), fps, _encoding(job)) as writer:
            frames = itertools.chain.from_iterable(read_rgb(entry, color, size))
            for tick, frame in enumerate(frames):
                writer.append(frame, round(tick * 1e6 / fps))
                if tick % max(1, length // SAMPLED_FRAMES) == 0:
                    pixels.append(statistics(frame.reshape(-1, 3) / 255))
        count = np.array([len(pixels)])
        return EncodedVideo(name, length, {**combined(pixels), "count": count})
    except DataError as error:
        _video_path(job, name).unlink(missing_ok=True)
        return EncodedVideo(name, 0, {}, str(error))


def _video_path(job: ToLeRobot, name: str) -> Path:
    """Where an episode's video waits until it is known which number the episode gets."""
    return partial_folder(job.out) / f"{name}.mp4"
