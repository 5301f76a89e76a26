"""What every frame store offers.

A frame store is where decoded frames live: accelerator memory, a file on disk, or nowhere for long.
A row is a tick of all usable episodes laid end to end. Every store gives the same frames for the
same rows; they differ in speed and in what they occupy.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Int, UInt8

GIB = 2**30


class FrameStore:
    """Decoded frames of a dataset, by row."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of a frame."""
        raise NotImplementedError

    @property
    def resident(self) -> UInt8[Array, "N H W C"] | None:
        """All frames, where they are in the accelerator's memory; `gather` then gives their rows,
        and the jitted step takes the frames from here."""
        return None

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        """Frames of any rows, in that order, on the host.

        Raises:
            DataError: a zarr chunk of the dataset is missing or can't be decoded.
        """
        raise NotImplementedError

    def gather(
        self, rows: Int[np.ndarray, "n"]
    ) -> UInt8[np.ndarray, "n H W C"] | Int[np.ndarray, "n"]:
        """What the step needs of those frames: themselves, or their rows in `resident`."""
        return self.read(rows)

    def prepare(self, first: int, last: int) -> None:
        """Makes the rows from `first` to one past `last` ready for a `gather` to come."""


class JoinedFrames(FrameStore):
    """Frames of several stores, one store's rows after the other's."""

    def __init__(self, stores: Sequence[FrameStore], sizes: Sequence[int]):
        """Lays stores end to end; `sizes` are their numbers of rows."""
        self._stores = tuple(stores)
        self._ends = np.cumsum(sizes)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._stores[0].image_shape

    def read(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W C"]:
        out = np.empty((len(rows), *self.image_shape), np.uint8)
        numbers = np.searchsorted(self._ends, rows, "right")
        for number in np.unique(numbers).tolist():
            within = numbers == number
            first = int(self._ends[number - 1]) if number else 0
            out[within] = self._stores[number].read(rows[within] - first)
        return out
