"""Writes videos, for converters and films alike. PyAV is imported when a file is opened."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from gameplay_pipeline.plumbing.optional import require

MICROSECONDS = Fraction(1, 1_000_000)


class Encoding(NamedTuple):
    """How a video is stored."""

    codec: str
    """FFmpeg's name of it."""
    pixels: str
    options: dict[str, str]
    """Options of the codec."""
    container: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default; nobody writes to it
    """Options of the file's format."""


# A key frame every other frame, and none that needs a later one, so that any is found fast.
LOSSY = Encoding("libx264", "yuv420p", {"crf": "18", "g": "2", "bf": "0"})
LOSSLESS = Encoding("libx264rgb", "rgb24", {"qp": "0", "g": "2"})


class VideoWriter:
    """Writes frames to an mp4 file; a context manager."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, encoding: Encoding):
        """Opens the file.

        Args:
            path: the file; its folder must exist.
            size: width and height; even ones where the encoding halves the colours.
            fps: frames per second that the file states; `append` gives the times themselves.
            encoding: how the frames are stored.
        """
        self._av = require("av", "convert")
        self._container = self._av.open(str(path), "w", format="mp4", options=encoding.container)
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
