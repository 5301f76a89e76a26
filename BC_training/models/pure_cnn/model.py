"""Conv blocks, global average pooling, dense layers, one logit per action."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field, PositiveInt

from BC_training.common.types import MOST_LAYERS, DataSpec, ModelConfig, Observation
from BC_training.networks.encoder import pooled
from BC_training.networks.layers import MLP, ActionHead, ConvEncoder
from BC_training.networks.model import Model


class Config(ModelConfig):
    conv_features: tuple[PositiveInt, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    """Channels of each conv block. The first divides height and width by `conv_stem`, each other
    by 2."""
    conv_stem: PositiveInt = 8
    """Stride of the first convolution, whose kernel is as wide, and 3x3 at least. Four times the
    cost for half the stride: 8 suits 288x512, 4 suits 144x256, 2 small pictures."""
    conv_depth: int = Field(default=2, ge=0, le=MOST_LAYERS)
    """How many residual 3x3 convolutions each block has after the one that downsamples."""
    grid: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Height and width of the grid over which the last block's map is averaged: 1x1 forgets where
    things are, a finer one keeps it."""
    dense_features: tuple[PositiveInt, ...] = (512, 256)
    """Widths of the dense layers."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after each dense layer."""
    use_batch_norm: bool = True
    """Whether each convolution is followed by batch norm."""


class PureCNN(Model):
    """One frame through conv blocks, pooling and dense layers."""

    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        pooled_width = config.conv_features[-1] * config.grid[0] * config.grid[1]
        super().__init__(config, spec, pooled_width, rngs)
        self.encoder = ConvEncoder(
            spec.frame.channels,
            config.conv_features,
            stem=config.conv_stem,
            depth=config.conv_depth,
            batch_norm=config.use_batch_norm,
            rngs=rngs,
        )
        self.grid = config.grid
        self.dense = MLP(
            pooled_width,
            config.dense_features,
            dropout_rate=config.dropout_rate,
            rngs=rngs,
        )
        self.head = ActionHead(self.dense.width, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        return pooled(self.encoder(jnp.asarray(tick.frames), rngs), self.grid)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        return self.head(self.dense(features[:, -1], rngs))


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> PureCNN:
    """Builds the model for a dataset's frames and actions."""
    return PureCNN(config, spec, rngs)
