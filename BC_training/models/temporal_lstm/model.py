"""An LSTM over the encodings of the window's ticks (Hochreiter and Schmidhuber 1997)."""

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
    """A tick encoder, and an LSTM that reads its encodings in order."""

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
        cell = output = jnp.zeros((len(features), self.hidden), features.dtype)
        for tick in range(features.shape[1]):
            (next_cell, next_output), _ = self.cell((cell, output), features[:, tick])
            # Ticks from before the episode's start leave the state as it was.
            is_valid = valid[:, tick, None]
            cell = jnp.where(is_valid, next_cell, cell)
            output = jnp.where(is_valid, next_output, output)
        return self.head(output)


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> TemporalLSTM:
    """Builds the model for a dataset's frames, state and actions."""
    return TemporalLSTM(config, spec, rngs)
