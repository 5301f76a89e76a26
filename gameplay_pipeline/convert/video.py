"""Reads videos."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.plumbing.video import MICROSECONDS


class TimedFrame(NamedTuple):
    """A frame of a video, and when it is shown."""

    time: float
    """Seconds, by the video's own clock."""
    image: UInt8[np.ndarray, "H W 3"]
    """RGB."""


def frame_times(path: Path) -> Int64[np.ndarray, "N"]:
    """Returns when each frame is shown, in microseconds since the first; decodes nothing.

    Raises:
        DataError: the file is no video, is cut off, or its times don't rise.
    """
    av = require("av", "convert")
    try:
        with av.open(str(path)) as container:
            stream = _video(container, path)
            promised, packets = stream.frames, []
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue  # marks the end
                if packet.is_corrupt:
                    raise DataError(
                        f"{path.name} is cut off or damaged after {len(packets):,} frames"
                    )
                if packet.pts is None:
                    raise DataError(f"{path.name}: frame {len(packets)} has no time")
                packets.append((packet.pts, packet.is_discard))
            base = stream.time_base
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path.name} can't be read as a video: {error.strerror}") from error
    if len(packets) < promised:
        raise DataError(f"{path.name} is cut off: {len(packets):,} of {promised:,} frames")
    shown = sorted(pts for pts, discarded in packets if not discarded)
    if len(shown) < 2:
        raise DataError(f"{path.name} has {len(shown)} frames, which is too few")
    times = np.array([round((pts - shown[0]) * base / MICROSECONDS) for pts in shown])
    if still := np.flatnonzero(np.diff(times) <= 0).tolist():
        raise DataError(f"{path.name}: frame {still[0] + 1} is at the time of the one before it")
    return times


def read_frames(path: Path, *, start: float = 0.0, threads: int = 1) -> Iterator[TimedFrame]:
    """Decodes the frames one after another.

    Args:
        path: the video.
        start: time of the first frame that is wanted, in seconds of the video's own clock.
        threads: number of threads that decode.

    Raises:
        DataError: it can't be decoded.
    """
    av = require("av", "convert")
    number = 0
    try:
        with av.open(str(path)) as container:
            stream = _video(container, path)
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            first = start / stream.time_base
            if start > 0:
                container.seek(int(first), stream=stream)
            for frame in container.decode(stream):
                if start > 0 and frame.pts is not None and frame.pts < first:
                    continue
                if frame.is_corrupt:
                    raise DataError(f"{path.name}: frame {number} is damaged")
                if frame.pts is None:
                    raise DataError(f"{path.name}: frame {number} has no time")
                time = float(frame.pts * stream.time_base)
                yield TimedFrame(time, frame.to_ndarray(format="rgb24"))
                number += 1
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{path.name}: frame {number} can't be decoded: {error.strerror}"
        ) from error


def _video(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DataError(f"{path.name} contains no video")
    return container.streams.video[0]
