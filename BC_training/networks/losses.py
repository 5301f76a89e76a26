"""Masked losses over [B, K, A] logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

MAX_WEIGHT = 20.0
"""Bound on a class weight relative to the smallest: an action pressed once in a split must not
drown the others, and one that is never pressed must not weigh infinitely."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """How the terms of a loss count."""

    class_weights: Float[Array, "A"]
    label_smoothing: float = 0.0
    """Targets become (1 - s) y + s / 2."""
    focal_gamma: float = 0.0
    """Above zero, terms count (1 - p) ** gamma, with p the probability of the true target: what is
    easy counts less (Lin et al. 2017, "Focal loss for dense object detection")."""
    onset_weight: float = 0.0
    """Ticks at which any button changes count 1 plus this."""


def class_weights(actions: Bool[np.ndarray, "N A"]) -> Float[Array, "A"]:
    """The inverse frequency of each action, scaled to a mean of one.

    A rare action then counts as much as a common one. One that is never pressed weighs as little as
    the commonest: there is nothing rare to learn about it.

    Args:
        actions: the training split's.

    Returns:
        Finite and positive weights.
    """
    frequency = actions.mean(axis=0)
    if not actions.any():
        return jnp.ones(len(frequency), jnp.float32)
    inverse = 1 / np.where(frequency > 0, frequency, frequency.max())
    inverse = np.minimum(inverse, MAX_WEIGHT * inverse.min())
    return jnp.asarray(inverse / inverse.mean(), jnp.float32)


def actions_loss(
    logits: Float[Array, "B K A"],
    actions: Bool[Array, "B K A"],
    valid: Bool[Array, "B K"],
    previous: Bool[Array, "B A"],
    weight: Float[Array, "B"],
    objective: Objective,
) -> Float[Array, ""]:
    """Mean binary cross-entropy over valid targets, weighted as the objective says.

    Zero where no target is valid.
    """
    smoothing = objective.label_smoothing
    logits = logits.astype(jnp.float32)
    smooth = actions.astype(jnp.float32) * (1 - smoothing) + smoothing / 2
    terms = optax.sigmoid_binary_cross_entropy(logits, smooth)
    if objective.focal_gamma:
        missing = jax.nn.sigmoid(jnp.where(actions, -logits, logits))
        terms = terms * missing**objective.focal_gamma
    terms = terms * objective.class_weights[None, None]
    mask = valid * weight[:, None]
    counts = mask
    if objective.onset_weight:
        before = jnp.concatenate([previous[:, None], actions[:, :-1]], axis=1)
        counts = mask * (1 + objective.onset_weight * (actions != before).any(axis=-1))
    total = (terms * counts[..., None]).sum()
    return total / jnp.maximum(mask.sum() * actions.shape[-1], 1e-9)


def auxiliary_loss(
    logits: Float[Array, "B V"], target: Int[Array, "B"], weight: Float[Array, "B"]
) -> Float[Array, ""]:
    """Mean cross-entropy of a class among V; unknown targets (0) don't count."""
    terms = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), target)
    mask = weight * (target > 0)
    return (terms * mask).sum() / jnp.maximum(mask.sum(), 1e-9)
