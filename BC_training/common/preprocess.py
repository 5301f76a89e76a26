"""From raw ticks to what a model sees. Training and play call the same function."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from BC_training.common.types import ArrayLike, Observation, Section, Ticks

MIN_STD = 1e-3
"""A column that hardly varies is centred, not blown up."""


class Preprocess(Section):
    """What was fitted on the training split; part of every checkpoint."""

    frame_mean: tuple[float, ...]
    """Per channel, of frames scaled to [0, 1]."""
    frame_std: tuple[float, ...]
    state_mean: tuple[float, ...] = ()
    """Per state attribute; empty where the model reads no state."""
    state_std: tuple[float, ...] = ()

    def __call__(
        self, ticks: Ticks, resident: UInt8[Array, "N H W C"] | None = None
    ) -> Observation:
        """Runs on the device, inside the jitted step.

        Args:
            ticks: what is observed.
            resident: all frames of the dataset, where `ticks.frames` are rows of them.
        """
        raw = ticks.frames if resident is None else resident[ticks.frames]
        frames = raw.astype(jnp.float32) / 255
        state, past = ticks.state, ticks.past_actions
        return Observation(
            frames=_standardise(frames, self.frame_mean, self.frame_std),
            state=None if state is None else _standardise(state, self.state_mean, self.state_std),
            past_actions=None if past is None else past.astype(jnp.float32),
            valid=jnp.asarray(ticks.valid),
        )


def _standardise(
    values: Float[ArrayLike, "*axes F"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[ArrayLike, "*axes F"]:
    shape = (1,) * (values.ndim - 1) + (-1,)
    return (values - jnp.array(mean).reshape(shape)) / jnp.array(std).reshape(shape)


def fit(
    frames: UInt8[np.ndarray, "n H W C"],
    state: Float[np.ndarray, "N S"] | None,
    *,
    normalize_frames: bool,
) -> Preprocess:
    """Fits on the training split: a sample of its frames, all of its state if a model reads it."""
    channels = frames.shape[-1]
    mean, std = np.zeros(channels), np.ones(channels)
    if normalize_frames:
        # By the histogram of the 256 levels: exact, and without a float copy of the frames.
        levels = np.arange(256) / 255
        counts = [np.bincount(frames[..., c].reshape(-1), minlength=256) for c in range(channels)]
        share = np.stack(counts) / frames[..., 0].size
        mean = share @ levels
        std = np.maximum(np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)), MIN_STD)
    fitted = Preprocess(frame_mean=tuple(map(float, mean)), frame_std=tuple(map(float, std)))
    if state is None:
        return fitted
    return fitted.model_copy(
        update={
            "state_mean": tuple(map(float, state.mean(axis=0, dtype=np.float64))),
            "state_std": tuple(
                map(float, np.maximum(state.std(axis=0, dtype=np.float64), MIN_STD))
            ),
        }
    )
