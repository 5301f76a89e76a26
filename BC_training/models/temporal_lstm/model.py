"""An LSTM over the encodings of the window's ticks (Hochreiter and Schmidhuber 1997)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import PositiveInt

from BC_training.common.types import DataSpec, Observation, TemporalConfig
from BC_training.networks.encoder import EncodedConfig, TickEncoder
from BC_training.networks.layers import ActionHead
from BC_training.networks.model import Model


class Config(EncodedConfig, TemporalConfig):
    hidden: PositiveInt = 256
    """Width of the recurrent state."""


class TemporalLSTM(Model):
    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        super().__init__(config, spec, config.encoder.width, rngs)
        self.encoder = TickEncoder(config.encoder, spec, rngs)
        self.hidden = config.hidden
        self.cell = nnx.OptimizedLSTMCell(config.encoder.width, config.hidden, rngs=rngs)
        self.head = ActionHead(config.hidden, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        return self.encoder(tick, rngs)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        # Unrolled: T is small, and the loop's own cost is not.
        zeros = jnp.zeros((len(features), self.hidden), features.dtype)
        carry = (zeros, zeros)
        for tick in range(features.shape[1]):
            after, _ = self.cell(carry, features[:, tick])
            # Ticks from before the episode's start are no ticks.
            known = valid[:, tick, None]
            carry = jax.tree.map(lambda a, b, known=known: jnp.where(known, a, b), after, carry)
        return self.head(carry[1])


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> TemporalLSTM:
    """Builds the model for a dataset's frames, state and actions."""
    return TemporalLSTM(config, spec, rngs)
