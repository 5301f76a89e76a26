"""The one training step that serves every model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.store import TrainState
from BC_training.common.config import Config
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch
from BC_training.networks.losses import Objective
from BC_training.training.augmentation import Augmentation


def make_train_step(
    graph: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    fitted: Preprocess,
    augmentation: Augmentation,
    objective: Objective,
    config: Config,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Array]]]:
    """The jitted step: (state, stacked batches, resident frames) to (state, stacked figures).

    Does one step for each batch; the resident frames are those of the dataset, or None where the
    batches hold their frames themselves.
    """
    training, key = config.training, jax.random.key(config.system.seed)
    dtype = jnp.dtype(training.precision)

    def gradients(params: Any, rest: Any, batch: Batch, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        """Of one part of a batch: gradients, new batch statistics, figures."""

        def loss_of(params: Any) -> tuple[Array, tuple[Any, Array]]:
            model = nnx.merge(graph, _cast(params, dtype), rest, copy=True)
            seen = batch._replace(observation=_cast(batch.observation, dtype))
            loss, logits = model.loss(seen, objective, nnx.Rngs(dropout=key))
            return loss, (nnx.state(model, nnx.Not(nnx.Param)), logits)

        (loss, (rest, logits)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        exact = ((logits[:, 0] >= 0) == batch.actions[:, 0]).all(axis=-1)
        return grads, rest, {"train/loss": loss, "train/exact_match": jnp.mean(exact)}

    def step(resident: Any, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        parts = jax.tree.map(lambda x: x.reshape(training.accumulation, -1, *x.shape[1:]), batch)
        at_step = jax.random.fold_in(key, state.step)

        def part(rest: Any, number: Array | int) -> tuple[Any, tuple[Any, Any]]:
            dropout, changes = jax.random.split(jax.random.fold_in(at_step, number))
            own = fitted.batch(jax.tree.map(lambda x: x[number], parts), resident)
            grads, rest, figures = gradients(
                state.params, rest, augmentation(own, changes), dropout
            )
            return rest, (grads, figures)

        if training.accumulation == 1:
            rest, (grads, figures) = part(state.rest, 0)
        else:
            rest, (grads, figures) = _mean_of_parts(part, state, training.accumulation)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(figures["train/loss"]) & jnp.isfinite(optax.tree.norm((params, rest)))
        broken = (state.bad_step < 0) & ~finite
        figures["train/grad_norm"] = optax.tree.norm(grads)
        if config.logging.log_gradients:
            for name, gradient in checkpoints.flatten(grads).items():
                figures[f"gradients/{name}"] = jnp.linalg.norm(gradient)
        average = state.average
        if training.ema_decay is not None:
            # Early on, an average over few steps: otherwise the first parameters would linger.
            decay = jnp.minimum(training.ema_decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update((params, rest), average, 1 - decay)
        following = TrainState(
            step=state.step + 1,
            params=params,
            rest=rest,
            opt_state=opt_state,
            bad_step=jnp.where(broken, state.step, state.bad_step),
            average=average,
        )
        return following, figures

    def dispatch(
        state: TrainState, batches: Batch, resident: Any
    ) -> tuple[TrainState, dict[str, Array]]:
        one = functools.partial(step, resident)
        if len(batches.weight) > 1:
            return jax.lax.scan(one, state, batches)
        # A loop of one would only be one more thing to compile.
        state, figures = one(state, jax.tree.map(lambda x: x[0], batches))
        return state, jax.tree.map(lambda x: x[None], figures)

    return jax.jit(dispatch, donate_argnums=0)


def _cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floats are of another precision."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _mean_of_parts(
    part: Callable[[Any, Array], tuple[Any, tuple[Any, Any]]], state: TrainState, count: int
) -> tuple[Any, tuple[Any, Any]]:
    """Works through the parts of a batch; batch statistics, mean gradients and mean figures."""

    def add(carry: tuple[Any, Any], number: Array) -> tuple[tuple[Any, Any], None]:
        rest, total = carry
        rest, found = part(rest, number)
        return (rest, jax.tree.map(lambda a, b: a + b / count, total, found)), None

    shapes = jax.eval_shape(part, state.rest, jnp.int32(0))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, (state.rest, zeros), jnp.arange(count))[0]
