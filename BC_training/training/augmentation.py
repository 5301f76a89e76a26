"""Random changes to training batches, on the device."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from BC_training.common.config import AugmentationConfig
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch
from gameplay_pipeline.plumbing.errors import UserError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The configured changes, with names resolved to columns."""

    config: AugmentationConfig
    actions: tuple[int, ...]
    """Which action each column becomes in a mirrored sample."""
    turned: tuple[bool, ...]
    """State features whose sign mirroring turns."""
    centre: tuple[float, ...]
    """Zero of each state feature, standardised."""

    def __call__(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        """Changes each sample of a preprocessed batch in its own way.

        Args:
            batch: from `Preprocess.batch`.
            key: of this step.
        """
        config, size = self.config, len(batch.weight)
        keys = jax.random.split(key, 6)
        frames = batch.observation.frames
        if config.shift:
            frames = _shifted(frames, config.shift, keys[0])
        shape = (size, 1, 1, 1, frames.shape[-1])
        if config.contrast:
            spread = jax.random.uniform(keys[1], (size, 1, 1, 1, 1), minval=-1.0)
            frames = frames * (1 + config.contrast * spread)
        if config.brightness:
            frames = frames + config.brightness * jax.random.uniform(keys[2], shape, minval=-1.0)
        if config.noise:
            frames = frames + config.noise * jax.random.normal(keys[3], frames.shape)
        if config.cutout:
            # Of normalised frames, zero is the mean of the training split's pixels.
            frames = jnp.where(_rectangle(frames.shape, config.cutout, keys[4]), 0.0, frames)
        batch = batch._replace(observation=batch.observation._replace(frames=frames))
        if config.mirror.probability:
            chosen = jax.random.bernoulli(keys[5], config.mirror.probability, (size,))
            batch = self._mirrored(batch, chosen)
        return batch

    def _mirrored(self, batch: Batch, chosen: Bool[Array, "B"]) -> Batch:
        def either(mirrored: Array, plain: Array) -> Array:
            return jnp.where(chosen.reshape(-1, *[1] * (plain.ndim - 1)), mirrored, plain)

        order = np.array(self.actions)
        seen = batch.observation
        state, past = seen.state, seen.past_actions
        if state is not None:
            turned = jnp.where(np.array(self.turned)[None, None], 1.0, 0.0)
            centre = jnp.array(self.centre)[None, None]
            state = either(state + 2 * turned * (centre - state), state)
        if past is not None:
            past = either(past[..., order], past)
        frames = either(seen.frames[..., ::-1, :], seen.frames)
        return batch._replace(
            observation=seen._replace(frames=frames, state=state, past_actions=past),
            actions=either(batch.actions[..., order], batch.actions),
            previous=either(batch.previous[..., order], batch.previous),
        )


def make_augmentation(
    config: AugmentationConfig, fitted: Preprocess, actions: Sequence[str]
) -> Augmentation:
    """Resolves the names in a configuration.

    Raises:
        UserError: it names an action or a state feature that there isn't, or one twice.
    """
    actions, mirror = tuple(actions), config.mirror
    order = list(range(len(actions)))
    named = [name for pair in mirror.actions for name in pair]
    for name in named:
        if name not in actions:
            raise UserError(
                f"training.augmentation.mirror.actions: there is no action {name!r}; the dataset "
                f"has {', '.join(actions)}"
            )
        if named.count(name) > 1:
            raise UserError(f"training.augmentation.mirror.actions: {name!r} stands twice")
    for one, other in mirror.actions:
        a, b = actions.index(one), actions.index(other)
        order[a], order[b] = b, a
    schema = fitted.state
    features = () if schema is None else schema.features
    for name in mirror.state:
        if name not in features:
            known = ", ".join(features) or "none: this model reads no state"
            raise UserError(
                f"training.augmentation.mirror.state: there is no state feature {name!r}; known "
                f"are {known}"
            )
    centre = () if schema is None else np.divide(schema.mean, schema.std) * -1
    return Augmentation(
        config,
        actions=tuple(order),
        turned=tuple(name in mirror.state for name in features),
        centre=tuple(map(float, centre)),
    )


def _shifted(
    frames: Float[Array, "B T H W C"], share: float, key: PRNGKeyArray
) -> Float[Array, "B T H W C"]:
    height, width = frames.shape[2:4]
    most = jnp.array([share * height, share * width])
    by = jax.random.uniform(key, (len(frames), 2), minval=-1.0) * most[None]

    def moved(window: Array, by: Array) -> Array:
        down, right = jnp.round(by).astype(jnp.int32)
        window = jnp.take(window, jnp.clip(jnp.arange(height) + down, 0, height - 1), axis=1)
        return jnp.take(window, jnp.clip(jnp.arange(width) + right, 0, width - 1), axis=2)

    return jax.vmap(moved)(frames, by)


def _rectangle(shape: tuple[int, ...], share: float, key: PRNGKeyArray) -> Bool[Array, "B 1 H W 1"]:
    """True within a random rectangle of each sample's picture."""
    size, _, height, width, _ = shape
    sides, centres = jax.random.uniform(key, (2, size, 2))
    inside = []
    for axis, length in enumerate((height, width)):
        half = share * sides[:, axis, None] / 2
        place = (jnp.arange(length)[None] + 0.5) / length
        inside.append(jnp.abs(place - centres[:, axis, None]) < half)
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None, :, :, None]
