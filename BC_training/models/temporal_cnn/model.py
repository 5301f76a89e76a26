"""Convolutions over the stacked maps of the window, which see motion where it happens.

Each tick's picture becomes a map of features by itself; the maps of all ticks are stacked as
channels before any pooling forgets where things are ("slow fusion": Karpathy et al. 2014,
"Large-scale video classification with convolutional neural networks").
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field, PositiveInt

from BC_training.common.types import (
    MOST_LAYERS,
    MOST_TICKS,
    DataSpec,
    Observation,
    TemporalConfig,
)
from BC_training.networks.backbones import BackboneConfig, ConvConfig, make_backbone
from BC_training.networks.encoder import pooled
from BC_training.networks.layers import MLP, ActionHead, ConvEncoder
from BC_training.networks.model import Model


class Config(TemporalConfig):
    backbone: BackboneConfig = ConvConfig()
    """The network over each picture. A shallower one, with a finer map, sees small things move."""
    width: PositiveInt = 32
    """Channels of each tick's map."""
    ticks: int = Field(default=4, ge=1, le=MOST_TICKS)
    """T: how many ticks are observed."""
    features: tuple[PositiveInt, ...] = Field(default=(128, 256), min_length=1)
    """Channels of each conv block over the stacked maps. The first keeps height and width, the
    others halve them; all have batch norm."""
    depth: int = Field(default=1, ge=0, le=MOST_LAYERS)
    """How many residual 3x3 convolutions each of these blocks has."""
    grid: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Height and width of the grid over which the last block's map is averaged: 1x1 forgets where
    things are, a finer one keeps it."""
    dense_features: tuple[PositiveInt, ...] = (256,)
    """Widths of the dense layers after the grid."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after each dense layer."""


class TemporalCNN(Model):
    """A backbone for each tick, and convolutions over the stack of their maps."""

    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        backbone = make_backbone(config.backbone, spec.frame.channels, rngs)
        self.map = (*backbone.map_size(spec.frame), config.width)
        super().__init__(config, spec, math.prod(self.map), rngs)
        self.backbone = backbone
        self.narrow = nnx.Linear(backbone.width, config.width, rngs=rngs)
        self.motion = ConvEncoder(
            config.ticks * config.width,
            config.features,
            stem=1,
            depth=config.depth,
            batch_norm=True,
            rngs=rngs,
        )
        self.grid = config.grid
        inputs = self.motion.width * config.grid[0] * config.grid[1]
        self.dense = MLP(inputs, config.dense_features, dropout_rate=config.dropout_rate, rngs=rngs)
        self.head = ActionHead(self.dense.width, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        map_ = self.narrow(self.backbone(jnp.asarray(tick.frames), rngs))
        return map_.reshape(len(map_), -1)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        # Ticks from before the episode's start show nothing.
        features = features * valid[..., None]
        maps = jnp.moveaxis(features.reshape(*valid.shape, *self.map), 1, 3)
        stacked = maps.reshape(*maps.shape[:3], -1)
        return self.head(self.dense(pooled(self.motion(stacked, rngs), self.grid), rngs))


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> TemporalCNN:
    """Builds the model for a dataset's frames and actions."""
    return TemporalCNN(config, spec, rngs)
