"""Reads and writes videos; all use of PyAV is here."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.optional import require

MICROSECONDS = Fraction(1, 1_000_000)


class Encoding(NamedTuple):
    """How a video is stored."""

    codec: str
    """FFmpeg's name of it."""
    pixels: str
    options: dict[str, str]
    """Options of the codec."""


# A key frame every other frame, and none that needs a later one, so that any is found fast.
LOSSY = Encoding("libx264", "yuv420p", {"crf": "18", "g": "2", "bf": "0"})
LOSSLESS = Encoding("libx264rgb", "rgb24", {"qp": "0", "g": "2"})


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


class VideoWriter:
    """Writes frames to an mp4 file; a context manager."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, encoding: Encoding):
        """Opens the file.

        Args:
            path: the file; its folder must exist.
            size: width and height.
            fps: frames per second that the file states; `append` gives the times themselves.
            encoding: how the frames are stored.
        """
        self._av = require("av", "convert")
        self._container = self._av.open(str(path), "w")
        self._stream = self._container.add_stream(
            encoding.codec, rate=Fraction(fps).limit_denominator(10_000), options=encoding.options
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = encoding.pixels
        self._stream.time_base = self._stream.codec_context.time_base = MICROSECONDS

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def append(self, frame: UInt8[np.ndarray, "H W 3"], microseconds: int) -> None:
        """Adds a frame, RGB, that is shown from that time on."""
        image = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        image.pts, image.time_base = microseconds, MICROSECONDS
        self._container.mux(self._stream.encode(image))


def _video(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DataError(f"{path.name} contains no video")
    return container.streams.video[0]
