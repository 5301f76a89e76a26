"""Masked losses over [B, K, A] logits."""

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

ClassWeights = tuple[Float[Array, "A"], Float[Array, "A"]]
"""Weights of pressed and of released targets."""

MAX_WEIGHT = 20.0
"""Bound on a class weight relative to the smallest: an action pressed once in a split must not
drown the others, and one that is never pressed must not weigh infinitely."""


def class_weights(actions: Bool[np.ndarray, "N A"], kind: str | None) -> ClassWeights:
    """Weights of pressed and of released targets, per action.

    Args:
        actions: the training split's.
        kind: `inverse_frequency` weights both targets of an action by the inverse of the action's
            frequency, scaled to a mean of one, so a rare action counts as much as a common one and
            its probabilities stay calibrated. `positive` weights only the pressed target, by
            released to pressed. None weights nothing.

    Returns:
        (pressed, released), finite and positive. An action that is never pressed weighs as little
        as the commonest: there is nothing rare to learn about it.
    """
    ones = jnp.ones(actions.shape[1], jnp.float32)
    if kind is None or not actions.any():
        return ones, ones
    frequency = actions.mean(axis=0)
    frequency = np.where(frequency > 0, frequency, frequency.max())
    if kind == "positive":
        odds = np.clip((1 - frequency) / frequency, 1 / MAX_WEIGHT, MAX_WEIGHT)
        return jnp.asarray(odds, jnp.float32), ones
    inverse = 1 / frequency
    inverse = np.minimum(inverse, MAX_WEIGHT * inverse.min())
    weights = jnp.asarray(inverse / inverse.mean(), jnp.float32)
    return weights, weights


def bce(
    logits: Float[Array, "B K A"],
    actions: Bool[Array, "B K A"],
    valid: Bool[Array, "B K"],
    weight: Float[Array, "B"],
    class_weights: ClassWeights,
    label_smoothing: float,
) -> Float[Array, ""]:
    """Mean binary cross-entropy over valid targets, weighted per row and per class.

    Zero where no target is valid.
    """
    pressed, released = class_weights
    targets = actions.astype(jnp.float32)
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    terms = optax.sigmoid_binary_cross_entropy(logits, smooth)
    terms = terms * jnp.where(actions, pressed[None, None], released[None, None])
    mask = jnp.broadcast_to((valid * weight[:, None])[..., None], terms.shape)
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1e-9)
