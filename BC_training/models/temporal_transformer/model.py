"""A transformer over the encodings of the window's ticks.

Attention is causal and ignores ticks from before the episode's start; a learned bias tells it how
long ago a tick was (Raffel et al. 2020, "Exploring the limits of transfer learning").
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field, PositiveInt, model_validator

from BC_training.common.types import MOST_LAYERS, DataSpec, Observation, TemporalConfig
from BC_training.networks.encoder import EncodedConfig, TickEncoder
from BC_training.networks.layers import ActionHead, TransformerBlock
from BC_training.networks.model import Model


class Config(EncodedConfig, TemporalConfig):
    layers: int = Field(default=2, ge=1, le=MOST_LAYERS)
    """How many transformer blocks there are."""
    heads: PositiveInt = 4
    """Attention heads, which share the encoder's width."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after attention and after the dense layers of each block."""

    @model_validator(mode="after")
    def _heads(self) -> "Config":
        if self.encoder.width % self.heads:
            raise ValueError(
                f"encoder.width ({self.encoder.width}) can't be split among {self.heads} heads"
            )
        return self


class TemporalTransformer(Model):
    """A tick encoder, and causal attention over its encodings."""

    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        width = config.encoder.width
        super().__init__(config, spec, width, rngs)
        self.encoder = TickEncoder(config.encoder, spec, rngs)
        self.bias = nnx.Param(jnp.zeros((config.heads, config.ticks)))
        self.blocks = nnx.List(
            [
                TransformerBlock(width, config.heads, dropout_rate=config.dropout_rate, rngs=rngs)
                for _ in range(config.layers)
            ]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = ActionHead(width, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        return self.encoder(tick, rngs)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        ticks = features.shape[1]
        ago = jnp.arange(ticks)[:, None] - jnp.arange(ticks)[None]
        # Every tick attends to itself, so that none attends to nothing.
        mask = (ago >= 0)[None] & (valid[:, None] | (ago == 0)[None])
        bias = self.bias[...][:, jnp.maximum(ago, 0)]
        for block in self.blocks:
            features = block(features, mask, bias, rngs)
        return self.head(self.norm(features[:, -1]))


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> TemporalTransformer:
    """Builds the model for a dataset's frames, state and actions."""
    return TemporalTransformer(config, spec, rngs)
