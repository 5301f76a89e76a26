"""One tick of a policy, as a pure function: what play compiles, and what export converts."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from BC_training.checkpoints.bundle import Bundle
from BC_training.common.types import Observation, RawObservation, WindowSpec
from BC_training.networks.model import Model


class Memory(NamedTuple):
    """What play remembers between ticks, on the device."""

    features: Float[Array, "1 R F"]
    """Encodings of the last R ticks, oldest first; R spans the window with its stride."""
    plans: Float[Array, "K K A"]
    """Probabilities predicted at the last K ticks for the K ticks from each, newest first."""
    age: Int[Array, ""]
    """Ticks since the fight's first; -1 before it."""


@dataclasses.dataclass(frozen=True)
class PolicyTick:
    """Computes probabilities from a tick and the memory of those before it."""

    bundle: Bundle
    graph: Any
    """The structure of the model, whose arrays each method takes as `state`."""

    def begin(self, state: Any, raw: RawObservation) -> Memory:
        """Returns the memory before a fight's first tick; of `raw` only the shapes count."""
        window = self.bundle.config.model.window()
        features = jax.eval_shape(self._encode, state, raw)
        return Memory(
            jnp.zeros((1, window.span, features.shape[-1]), features.dtype),
            jnp.zeros((window.chunk, window.chunk, len(self.bundle.spec.actions))),
            jnp.array(-1, jnp.int32),
        )

    def __call__(
        self, state: Any, memory: Memory, raw: RawObservation
    ) -> tuple[Float[Array, "A"], Memory]:
        """Returns the probability of each button now, and the memory for the next tick."""
        config = self.bundle.config
        window, play = config.model.window(), config.play
        model = nnx.merge(self.graph, state, copy=True)
        features = self._encode(state, raw)
        later = jnp.concatenate([memory.features[:, 1:], features], axis=1)
        # As in training, ticks before the fight's start repeat its first one.
        first = jnp.broadcast_to(features, later.shape)
        kept, age = jnp.where(memory.age < 0, first, later), memory.age + 1
        logits = decode_kept(model, window, kept, age)
        plans = jnp.concatenate([jax.nn.sigmoid(logits), memory.plans[:-1]])
        decay = play.ensemble_decay if play.chunk == "ensemble" else np.inf
        return combine_plans(plans, age, decay), Memory(kept, plans, age)

    def _encode(self, state: Any, raw: RawObservation) -> Float[Array, "1 1 F"]:
        model = nnx.merge(self.graph, state, copy=True)
        now: Observation = jax.tree.map(lambda x: x[:, 0], self.bundle.preprocess(raw))
        return model.encode(now, None)[:, None]


def decode_kept(
    model: Model, window: WindowSpec, kept: Float[Array, "B R F"], age: Int[Array, ""]
) -> Float[Array, "B K A"]:
    """Returns logits from the encodings that play keeps, `age` ticks after the fight's first."""
    back = jnp.arange(window.ticks - 1, -1, -1) * window.stride
    valid = jnp.broadcast_to(back <= age, (len(kept), window.ticks))
    return model.decode(kept[:, :: window.stride], valid, None)


def combine_plans(
    plans: Float[Array, "K K A"], age: Int[Array, ""], decay: float
) -> Float[Array, "A"]:
    """Returns what the last K plans say of this tick: a mean in which older ones count less
    (temporal ensembling, Zhao et al. 2023, "Learning fine-grained bimanual manipulation"), or, with
    an infinite decay, what the newest one says."""
    old = np.arange(len(plans))
    weight = np.where(old == 0, 1.0, np.exp(-decay * np.maximum(old, 1)))
    weight = jnp.where(old <= age, jnp.asarray(weight, plans.dtype), 0.0)[:, None]
    for_now = jnp.stack([plans[i, i] for i in range(len(plans))])
    return (for_now * weight).sum(axis=0) / weight.sum()
