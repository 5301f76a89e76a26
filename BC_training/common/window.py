"""Index arithmetic over the ticks of an episode; a window never leaves its episode."""

import numpy as np
from jaxtyping import Bool, Int

from BC_training.common.types import WindowSpec


def observed(
    tick: Int[np.ndarray, "B"], window: WindowSpec
) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
    """Observed ticks for predictions at `tick` (counted from the episode's start), oldest first.

    Ticks before the episode's start become its first tick and are marked invalid.
    """
    back = np.arange(window.ticks - 1, -1, -1) * window.stride
    indices = tick[:, None] - back
    return np.maximum(indices, 0), indices >= 0


def predicted(
    tick: Int[np.ndarray, "B"], length: Int[np.ndarray, "B"], window: WindowSpec
) -> tuple[Int[np.ndarray, "B K"], Bool[np.ndarray, "B K"]]:
    """Predicted ticks for predictions at `tick`, in episodes of `length` ticks.

    Ticks after the episode's end become its last tick and are marked invalid.
    """
    indices = tick[:, None] + np.arange(window.chunk)
    last = length[:, None] - 1
    return np.minimum(indices, last), indices <= last
