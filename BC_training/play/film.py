"""A fight as a video: what was on the screen, and beside it what the policy made of it."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

HEIGHT = 360
"""Least height of the picture in pixels; smaller frames are enlarged by a whole number."""
PANEL = 320
"""Width of the panel."""
WHITE, GREY, GREEN, BLUE = (235, 235, 235), (90, 90, 90), (80, 190, 110), (90, 140, 220)


class Film:
    """An H.264 file that can be watched up to the last whole second, however its writer ends."""

    def __init__(self, path: Path, fps: float, actions: tuple[str, ...]):
        """Begins a file.

        Args:
            path: of the .mp4.
            fps: ticks a second.
            actions: names of the A buttons.
        """
        self._actions = actions
        # Fragments: a file whose end was never written can be played all the same.
        options = {"movflags": "frag_keyframe+empty_moov"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        rate = Fraction(fps).limit_denominator(1000)
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast", "g": str(max(1, round(fps)))}

    def add(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        color_order: str,
        pressed: Bool[np.ndarray, "A"],
        probabilities: Float[np.ndarray, "A"] | None,
        expert: Bool[np.ndarray, "A"] | None,
        text: str,
    ) -> None:
        """Adds a tick.

        Args:
            frame: what was seen.
            color_order: RGB or BGR.
            pressed: what was pressed upon it.
            probabilities: from which the policy decided.
            expert: what the expert would have pressed.
            text: a line beneath.
        """
        image = frame[..., ::-1] if color_order == "BGR" else frame
        times = max(1, -(-HEIGHT // image.shape[0]))
        image = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
        panel = self._panel(image.shape[0], pressed, probabilities, expert, text)
        picture = np.concatenate([image, panel], axis=1)
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # H.264 wants even
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = height, width
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]))
        self._container.mux(self._stream.encode(shown))

    def close(self) -> None:
        """Writes what is left."""
        if self._stream.codec_context.is_open:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _panel(
        self,
        height: int,
        pressed: Bool[np.ndarray, "A"],
        probabilities: Float[np.ndarray, "A"] | None,
        expert: Bool[np.ndarray, "A"] | None,
        text: str,
    ) -> UInt8[np.ndarray, "h w 3"]:
        panel = np.full((height, PANEL, 3), 24, np.uint8)
        row = min(32, (height - 40) // (len(self._actions) + 1))
        scale = row / 64

        def write(words: str, x: int, y: int, color: tuple[int, int, int]) -> None:
            cv2.putText(
                panel, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA
            )

        write("green: pressed" + (", blue: the expert" * (expert is not None)), 8, row - 8, GREY)
        for number, name in enumerate(self._actions):
            top = (number + 1) * row
            bottom = top + row - 4
            if probabilities is not None:
                length = round((PANEL - 16) * float(probabilities[number]))
                cv2.rectangle(panel, (8, top), (8 + length, bottom), GREY, -1)
            if pressed[number]:
                cv2.rectangle(panel, (0, top), (5, bottom), GREEN, -1)
            if expert is not None and expert[number]:
                cv2.rectangle(panel, (PANEL - 6, top), (PANEL - 1, bottom), BLUE, -1)
            share = "" if probabilities is None else f"  {100 * probabilities[number]:.0f}%"
            write(name + share, 14, bottom - 6, GREEN if pressed[number] else WHITE)
        write(text, 8, height - 12, WHITE)
        return panel
