"""Memory of finished batches, used again for the next ones."""

import math

import numpy as np
from jaxtyping import UInt8


class BufferPool:
    """Hands out arrays, and the memory of those that nobody holds any longer anew.

    Fresh memory costs up to a third of the time in which frames are decoded: the system maps and
    clears it page by page.
    """

    def __init__(self) -> None:
        # The last one let go comes first: some of it may still be in the processor's cache.
        self._free: list[UInt8[np.ndarray, "n"]] = []

    def empty(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
        """An array that holds anything. Threads may ask at once."""
        size = math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) != size:
            # One of another size is let go: what is kept fits what is asked for now.
            memory = np.empty(size, np.uint8)
        return np.asarray(_PooledBuffer(memory, shape, self._free))


class _PooledBuffer:
    """What an array and all its views hold instead of their memory, which outlives them."""

    def __init__(
        self, memory: UInt8[np.ndarray, "n"], shape: tuple[int, ...], free: list[np.ndarray]
    ):
        self._memory, self._free = memory, free
        self.__array_interface__ = {**memory.__array_interface__, "shape": shape, "strides": None}

    def __del__(self) -> None:
        self._free.append(self._memory)
