"""Rows of pictures, each with lines of text beside it, in one image file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from BC_training.analysis.plots import escaped
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing.errors import UserError

WIDTH, TEXT_WIDTH = 160, 260
"""Pixels of a picture's width, and of the text beside it."""

Row = tuple[Sequence[UInt8[np.ndarray, "_ _ 3"]], Sequence[str]]
"""Pictures of one size, and lines of text."""


def draw(rows: Iterable[Row], file: Path, *, is_bgr: bool) -> None:
    """Writes rows of pictures, one below the other.

    Args:
        rows: at least one row; all have the same number of pictures.
        file: the image to write.
        is_bgr: whether the pictures are BGR, not RGB.

    Raises:
        UserError: the file can't be written.
    """
    drawn = []
    for pictures, lines in rows:
        images = [
            resize(picture, WIDTH, round(WIDTH * picture.shape[0] / picture.shape[1]))
            for picture in pictures
        ]
        images = [image if is_bgr else image[..., ::-1] for image in images]
        panel = np.full((len(images[0]), TEXT_WIDTH, 3), 24, np.uint8)
        for number, line in enumerate(lines):
            place, font = (6, 18 + 18 * number), cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(panel, escaped(line), place, font, 0.4, (230, 230, 230), 1)
        drawn.append(np.hstack([*images, panel]))
    if not cv2.imwrite(str(file), np.vstack(drawn)):
        raise UserError(f"{file}: can't be written")
