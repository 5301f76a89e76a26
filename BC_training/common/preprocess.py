"""From raw ticks to what a model sees. Training and play call the same functions."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from BC_training.common import game_state as states
from BC_training.common.game_state import StateSchema, Vocabulary
from BC_training.common.instruction import Instructions
from BC_training.common.types import Batch, Features, Observation, RawObservation, Section
from gameplay_pipeline.plumbing.errors import UserError

IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
"""Mean and deviation of ImageNet's red, green and blue."""

MIN_STD = 1e-3
"""A channel that hardly varies is centred, not blown up."""


class Preprocess(Section):
    """What was fitted on the training split; part of every checkpoint."""

    frame_mean: tuple[float, ...]
    """Per channel, of frames scaled to [0, 1]."""
    frame_std: tuple[float, ...]
    state: StateSchema | None = None
    """None where the model reads no state."""
    instructions: Instructions | None = None
    """None where the model reads no instruction."""
    auxiliary: Vocabulary | None = None
    """Vocabulary of the auxiliary attribute; None where the model learns none."""

    def features(self) -> Features:
        """What a model must know of this to be built."""
        return Features(
            state=() if self.state is None else self.state.features,
            categories=() if self.state is None else tuple(v.size for v in self.state.categories),
            tokens=0 if self.instructions is None else self.instructions.size,
            auxiliary=0 if self.auxiliary is None else self.auxiliary.size,
        )

    def __call__(
        self, ticks: RawObservation, resident: UInt8[Array, "N H W C"] | None = None
    ) -> Observation:
        """Runs on the device, inside the jitted step.

        Args:
            ticks: what is observed.
            resident: all frames of the dataset, where `ticks.frames` are rows of them.
        """
        raw = ticks.frames if resident is None else resident[ticks.frames]
        shape = (1,) * (raw.ndim - 1) + (-1,)
        mean, std = (jnp.array(x).reshape(shape) for x in (self.frame_mean, self.frame_std))
        state, categories = None, None
        if ticks.state is not None and self.state is not None:
            state, categories = self.state(jnp.asarray(ticks.state))
        past, instruction = ticks.past_actions, ticks.instruction
        if instruction is not None:
            instruction = jnp.repeat(instruction[:, None], ticks.valid.shape[1], axis=1)
        return Observation(
            frames=(raw.astype(jnp.float32) / 255 - mean) / std,
            state=state,
            categories=categories,
            past_actions=None if past is None else jnp.asarray(past, jnp.float32),
            instruction=instruction,
            valid=jnp.asarray(ticks.valid),
        )

    def batch(self, batch: Batch, resident: UInt8[Array, "N H W C"] | None) -> Batch:
        """A batch of the dataset as a model takes it; likewise on the device."""
        index = None
        if self.auxiliary is not None and batch.auxiliary is not None:
            index = self.auxiliary.index(jnp.asarray(batch.auxiliary))
        return batch._replace(observation=self(batch.observation, resident), auxiliary=index)


def fit(
    frames: UInt8[np.ndarray, "n H W C"],
    state: Float[np.ndarray, "N D"] | None,
    *,
    attributes: tuple[str, ...] = (),
    instructions: Instructions | None = None,
    auxiliary: tuple[str, Float[np.ndarray, "N"]] | None = None,
    normalize_frames: bool | Literal["imagenet"],
    color_order: str,
) -> Preprocess:
    """Fits on the training split.

    Args:
        frames: a sample of them.
        state: all of it, with history, if the model reads it.
        attributes: names of the state's columns.
        instructions: already fitted, if the model reads them.
        auxiliary: name and values of the attribute that the model learns to tell.
        normalize_frames: standardise frames, with their own statistics or those of ImageNet;
            otherwise they are only scaled.
        color_order: of the frames.

    Raises:
        UserError: the auxiliary attribute has no whole numbers, or frames have no three channels
            where ImageNet's statistics are asked for.
    """
    channels = frames.shape[-1]
    mean, std = np.zeros(channels), np.ones(channels)
    if normalize_frames == "imagenet":
        if channels != 3:
            raise UserError(
                f"dataset.normalize_frames: imagenet has three channels, the frames {channels}"
            )
        mean, std = IMAGENET if color_order != "BGR" else IMAGENET[:, ::-1]
    elif normalize_frames:
        # By the histogram of the 256 levels: exact, and without a float copy of the frames.
        levels = np.arange(256) / 255
        counts = [np.bincount(frames[..., c].reshape(-1), minlength=256) for c in range(channels)]
        share = np.stack(counts) / frames[..., 0].size
        mean = share @ levels
        std = np.maximum(np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)), MIN_STD)
    vocabulary = None
    if auxiliary is not None:
        name, values = auxiliary
        vocabulary = states.fit_vocabulary(name, attributes.index(name), values)
        if vocabulary is None:
            raise UserError(f"model.auxiliary: {name} does not hold whole numbers that repeat")
    return Preprocess(
        frame_mean=tuple(map(float, mean)),
        frame_std=tuple(map(float, std)),
        state=None if state is None else states.fit_schema(attributes, state),
        instructions=instructions,
        auxiliary=vocabulary,
    )
