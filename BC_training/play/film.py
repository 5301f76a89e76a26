"""A fight as a video: what was on the screen, and beside it what the policy made of it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gameplay_pipeline.environments.adapter import Environment, Player
from gameplay_pipeline.environments.play import Tick
from gameplay_pipeline.plumbing.video import Encoding, VideoWriter

HEIGHT = 360
"""Least height of the picture in pixels; smaller frames are enlarged by a whole number."""
PANEL = 320
"""Width of the panel in pixels."""
WHITE, GREY, GREEN, BLUE = (235, 235, 235), (90, 90, 90), (80, 190, 110), (90, 140, 220)
ORANGE = (240, 160, 60)
DEFAULT_FPS = 30.0
"""Frames a second of a film where nobody says how many ticks a second has."""

Probabilities = Callable[[], Float[np.ndarray, "A"] | None]


class Film:
    """Watches a fight and films it. A context manager; the H.264 file can be watched up to the last
    whole second, however its writer ends."""

    def __init__(
        self,
        path: Path,
        env: Environment,
        probabilities: Probabilities,
        seed: int,
        is_corrected: Callable[[], bool] = lambda: False,
    ):
        """Opens nothing yet: the first frame says how large the picture is.

        Args:
            path: the .mp4.
            env: where the fight takes place; it says the tick rate, the colour order and the names
                of the A buttons.
            probabilities: gives what the policy decided from at this tick, or None.
            seed: seed of the environment's expert, whose choice is shown too where there is one.
            is_corrected: tells whether somebody else than the policy drives at this tick.
        """
        self._path, self._env, self._seed = path, env, seed
        self._probabilities, self._is_corrected = probabilities, is_corrected
        self._expert: Player | None = None
        self._fps = env.fps or DEFAULT_FPS
        self._writer: VideoWriter | None = None
        self._ticks = 0

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            # Also after an error: what was filmed until then is what one wants to see.
            self._writer.__exit__(None, None, None)

    def __call__(self, tick: Tick) -> None:
        """Adds a tick."""
        if self._ticks == 0 and self._env.has_expert:
            # Not before: an expert is made of an environment that was reset.
            self._expert = self._env.make_expert(self._seed)
            self._expert.reset()
        expert = None
        if self._expert is not None:
            expert = np.asarray(self._expert.act(tick.observation), bool)
        picture = self._picture(tick, self._probabilities(), expert)
        if self._writer is None:
            size = (picture.shape[1], picture.shape[0])
            self._writer = VideoWriter(self._path, size, self._fps, self._encoding())
        self._writer.append(picture, round(1e6 * self._ticks / self._fps))
        self._ticks += 1

    def _encoding(self) -> Encoding:
        second = str(max(1, round(self._fps)))
        # Fragments: a file whose end was never written can be played all the same.
        return Encoding(
            "libx264",
            "yuv420p",
            {"crf": "20", "preset": "veryfast", "g": second},
            {"movflags": "frag_keyframe+empty_moov"},
        )

    def _picture(
        self,
        tick: Tick,
        probabilities: Float[np.ndarray, "A"] | None,
        expert: Bool[np.ndarray, "A"] | None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        frame: UInt8[np.ndarray, "H W 3"] = tick.observation["frame"]
        image = frame[..., ::-1] if self._env.color_order == "BGR" else frame
        times = max(1, -(-HEIGHT // image.shape[0]))
        image = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
        text = f"tick {self._ticks + 1}  act {tick.latency_ms:.1f} ms"
        panel = self._panel(image.shape[0], tick.pressed, probabilities, expert, text)
        picture = np.concatenate([image, panel], axis=1)
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # H.264 wants even
        return picture[:height, :width]

    def _panel(
        self,
        height: int,
        pressed: Bool[np.ndarray, "A"],
        probabilities: Float[np.ndarray, "A"] | None,
        expert: Bool[np.ndarray, "A"] | None,
        text: str,
    ) -> UInt8[np.ndarray, "h w 3"]:
        panel = np.full((height, PANEL, 3), 24, np.uint8)
        row = min(32, (height - 40) // (len(self._env.action_names) + 1))
        scale = row / 64

        def write(words: str, x: int, y: int, color: tuple[int, int, int]) -> None:
            cv2.putText(
                panel, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA
            )

        if self._is_corrected():
            cv2.rectangle(panel, (0, 0), (PANEL - 1, 5), ORANGE, -1)
            write("corrected: not the policy drives", 8, height - 12 - row // 2, ORANGE)
        write("green: pressed" + (", blue: the expert" * (expert is not None)), 8, row - 8, GREY)
        for number, name in enumerate(self._env.action_names):
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
