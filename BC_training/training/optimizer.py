"""What is minimised, and how: objective, learning-rate schedule, gradient clipping, optimizer."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool

from BC_training.checkpoints.state import flatten, unflatten
from BC_training.common.config import TrainingConfig
from BC_training.networks.losses import Objective, class_weights


def objective(config: TrainingConfig, actions: Bool[np.ndarray, "N A"]) -> Objective:
    """How the terms of the loss count.

    Args:
        config: the section `training` of the configuration.
        actions: the training split's.
    """
    count = actions.shape[1]
    return Objective(
        class_weights=class_weights(actions) if config.use_class_weights else jnp.ones(count),
        label_smoothing=config.label_smoothing,
        focal_gamma=config.loss.focal_gamma if config.loss.type == "focal" else 0.0,
        onset_weight=config.loss.onset_weight,
    )


def schedule(config: TrainingConfig, steps_per_epoch: int) -> optax.Schedule:
    """Linear warm-up from zero, then a cosine to min_lr or a constant.

    A warm-up that is longer than the run rises for all of it and does not reach the peak.
    """
    total = config.num_epochs * steps_per_epoch
    warmup = round(config.lr_schedule.warmup_epochs * steps_per_epoch)
    rise = optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1))
    if config.lr_schedule.type == "constant":
        rest = optax.constant_schedule(config.learning_rate)
    else:
        rest = optax.cosine_decay_schedule(
            config.learning_rate,
            max(total - warmup, 1),
            alpha=config.lr_schedule.min_lr / config.learning_rate,
        )
    return optax.join_schedules([rise, rest], [warmup])


def make_optimizer(
    config: TrainingConfig, learning_rate: optax.Schedule, multiples: Mapping[str, float]
) -> optax.GradientTransformation:
    """AdamW after clipping by global norm. Biases and norms are not decayed.

    Args:
        config: the section `training` of the configuration.
        learning_rate: of all layers, by step.
        multiples: of it, for layers whose dotted names begin so.
    """
    clip = (
        optax.identity()
        if config.grad_clip_norm is None
        else optax.clip_by_global_norm(config.grad_clip_norm)
    )
    adamw = optax.adamw(
        learning_rate,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    if set(multiples.values()) <= {1.0}:
        return optax.chain(clip, adamw)

    def scale(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        scaled = {
            name: update * next((m for start, m in multiples.items() if name.startswith(start)), 1)
            for name, update in flatten(updates).items()
        }
        return unflatten(updates, scaled)

    return optax.chain(clip, adamw, optax.stateless(scale))
