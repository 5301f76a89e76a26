"""The plainest model around a backbone: one frame, the mean of its map, a logit per action."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from BC_training.common.types import DataSpec, ModelConfig, Observation
from BC_training.networks.layers import ActionHead, Backbone
from BC_training.networks.model import Model


class SingleFrameConfig(ModelConfig):
    """What the config class of a model around one backbone extends."""

    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the head."""


class SingleFrame(Model):
    """One frame through a backbone, averaged over its map; a logit for each action."""

    def __init__(
        self, config: SingleFrameConfig, backbone: Backbone, spec: DataSpec, rngs: nnx.Rngs
    ):
        super().__init__(config, spec, backbone.width, rngs)
        self.backbone = backbone
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.head = ActionHead(backbone.width, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        return jnp.mean(self.backbone(tick.frames, rngs), axis=(1, 2))

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        return self.head(self.dropout(features[:, -1], deterministic=rngs is None, rngs=rngs))
