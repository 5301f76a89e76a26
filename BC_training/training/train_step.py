"""The one training step that serves every model."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, PRNGKeyArray, UInt8

from BC_training.checkpoints.state import TrainState, flatten
from BC_training.common.config import Config
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch
from BC_training.networks.losses import Objective
from BC_training.training.augmentation import Augmentation
from BC_training.training.devices import Devices

Figures = dict[str, Array]
"""What a step logs, by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """From a state and a batch of the dataset to the next state and the step's figures."""

    graph: nnx.GraphDef[Any]
    optimizer: optax.GradientTransformation
    preprocess: Preprocess
    augmentation: Augmentation
    objective: Objective
    config: Config
    devices: Devices

    def loss(
        self, params: Any, rest: Any, batch: Batch, dropout: PRNGKeyArray
    ) -> tuple[Array, tuple[Any, Array]]:
        """The loss of a preprocessed batch; new batch statistics, logits [B, K, A]."""
        dtype = jnp.dtype(self.config.training.precision)
        model = nnx.merge(self.graph, _cast(params, dtype), rest, copy=True)
        batch = batch._replace(observation=_cast(batch.observation, dtype))
        loss, logits = model.loss(batch, self.objective, nnx.Rngs(dropout=dropout))
        return loss, (nnx.state(model, nnx.Not(nnx.Param)), logits)

    def gradients(
        self, params: Any, rest: Any, batch: Batch, resident: Any, key: PRNGKeyArray
    ) -> tuple[Any, tuple[Any, Figures]]:
        """New batch statistics; gradients and figures of a batch of the dataset."""
        dropout, changes = jax.random.split(key)
        batch = self.augmentation(self.preprocess.batch(batch, resident), changes)
        value_and_grad = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (rest, logits)), grads = value_and_grad(params, rest, batch, dropout)
        exact = ((logits[:, 0] >= 0) == batch.actions[:, 0]).all(axis=-1)
        return rest, (grads, {"train/loss": loss, "train/exact_match": jnp.mean(exact)})

    def accumulated(
        self, state: TrainState, parts: Batch, resident: Any, key: PRNGKeyArray
    ) -> tuple[Any, tuple[Any, Figures]]:
        """As `gradients`, of a batch in parts, one after the other, for less memory: the mean over
        the parts, each with batch statistics and dropout of its own."""
        count = len(parts.weight)

        def part(rest: Any, numbered: tuple[Array, Batch]) -> tuple[Any, tuple[Any, Figures]]:
            number, samples = numbered
            part_key = jax.random.fold_in(key, number)
            return self.gradients(state.params, rest, samples, resident, part_key)

        def add(carry: Any, numbered: tuple[Array, Batch]) -> tuple[Any, None]:
            rest, total = carry
            rest, of_part = part(rest, numbered)
            return (rest, jax.tree.map(lambda a, b: a + b / count, total, of_part)), None

        numbers = jnp.arange(count)
        first = (numbers[0], jax.tree.map(lambda x: x[0], parts))
        if count == 1:  # a loop of one would only be one more thing to compile
            return part(state.rest, first)
        zeros = jax.tree.map(
            lambda shape: jnp.zeros(shape.shape, shape.dtype),
            jax.eval_shape(part, state.rest, first)[1],
        )
        return jax.lax.scan(add, (state.rest, zeros), (numbers, parts))[0]

    def update(
        self, state: TrainState, rest: Any, grads: Any, figures: Figures
    ) -> tuple[TrainState, Figures]:
        """The next state, and the figures with those of the gradients."""
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(figures["train/loss"]) & jnp.isfinite(optax.tree.norm((params, rest)))
        broken = (state.bad_step < 0) & ~finite
        figures["train/grad_norm"] = optax.tree.norm(grads)
        if self.config.logging.log_gradients:
            for name, gradient in flatten(grads).items():
                figures[f"gradients/{name}"] = jnp.linalg.norm(gradient)
        average, ema_decay = state.average, self.config.training.ema_decay
        if ema_decay is not None:
            # Early on, an average over few steps: otherwise the first parameters would linger.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
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

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def __call__(
        self, state: TrainState, parts: Batch, resident: UInt8[Array, "N H W C"] | None
    ) -> tuple[TrainState, Figures]:
        """One step; gives the memory of the state it gets to the next one.

        Args:
            state: what training changes.
            parts: a batch of the dataset, from `Devices.split`.
            resident: all frames of the dataset, where the batch holds their rows.
        """
        key = jax.random.fold_in(jax.random.key(self.config.system.seed), state.step)
        rest, (grads, figures) = self.accumulated(state, parts, resident, key)
        return self.devices.keep_replicated(self.update(state, rest, grads, figures))


def _cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floats are of another precision."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
