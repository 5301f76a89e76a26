"""Image patches, the game state and an instruction as tokens of one transformer, which predicts the
next K ticks at K tokens of their own.

The layout is that of vision-language-action models with an encoder (Brohan et al. 2022, "RT-1") and
action queries (Zhao et al. 2023, "Learning fine-grained bimanual manipulation"), at a size that one
GPU trains from nothing.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field, PositiveInt, model_validator

from BC_training.common.types import (
    MOST_LAYERS,
    MOST_TICKS,
    DataSpec,
    ModelConfig,
    Observation,
    WindowSpec,
)
from BC_training.networks.backbones import BackboneConfig, PatchConfig, make_backbone
from BC_training.networks.encoder import EncoderConfig, StateEncoder
from BC_training.networks.layers import TransformerBlock
from BC_training.networks.model import Model

POSITION = nnx.initializers.normal(0.02)


class Config(ModelConfig):
    chunk: int = Field(default=8, ge=1, le=MOST_TICKS)
    """K: how many ticks are predicted; the first is now."""
    backbone: BackboneConfig = PatchConfig()
    """The network over the picture. Each place of its map becomes a token."""
    state: bool = True
    """Whether the model reads the game state, as one token."""
    instruction_length: PositiveInt = 16
    """L: the most tokens that an instruction may have."""
    width: PositiveInt = 192
    """Width of each token."""
    layers: int = Field(default=4, ge=1, le=MOST_LAYERS)
    """How many transformer blocks there are."""
    heads: PositiveInt = 4
    """Attention heads, which share the width."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after attention and after the dense layers of each block."""

    @model_validator(mode="after")
    def _heads(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) can't be split among {self.heads} heads")
        return self

    def window(self) -> WindowSpec:
        return super().window()._replace(state=self.state, instruction=self.instruction_length)


class VLA(Model):
    """Tokens of picture, state and instruction, and K tokens that become the predicted ticks."""

    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        width, frame = config.width, spec.frame
        super().__init__(config, spec, config.chunk * width, rngs)
        self.chunk = config.chunk
        self.backbone = make_backbone(config.backbone, frame.channels, rngs)
        rows, columns = self.backbone.map_size(frame)
        self.look = nnx.Linear(self.backbone.width, width, rngs=rngs)
        self.places = nnx.Param(POSITION(rngs.params(), (rows * columns, width)))
        wide = EncoderConfig(state=True, state_features=(width, width))
        self.state = StateEncoder(wide, spec, rngs) if config.state else None
        self.words = nnx.Embed(spec.features.tokens, width, embedding_init=POSITION, rngs=rngs)
        self.order = nnx.Param(POSITION(rngs.params(), (config.instruction_length, width)))
        self.queries = nnx.Param(POSITION(rngs.params(), (config.chunk, width)))
        self.blocks = nnx.List(
            [
                TransformerBlock(width, config.heads, dropout_rate=config.dropout_rate, rngs=rngs)
                for _ in range(config.layers)
            ]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        map_ = self.backbone(jnp.asarray(tick.frames), rngs)
        size, width = len(map_), self.look.out_features
        picture = self.look(map_.reshape(size, -1, map_.shape[-1])) + self.places[...][None]
        assert tick.instruction is not None
        tokens = jnp.asarray(tick.instruction)
        text = self.words(tokens).astype(picture.dtype) + self.order[...][None]
        queries = jnp.broadcast_to(self.queries[...][None], (size, self.chunk, width))
        parts = [queries, text, picture]
        if self.state is not None:
            parts.append(self.state(tick, rngs)[:, None])
        x = jnp.concatenate(parts, axis=1)
        # Everything is attended to but the padding of the instruction.
        is_token = jnp.ones(x.shape[:2], bool)
        is_token = is_token.at[:, self.chunk : self.chunk + tokens.shape[1]].set(tokens > 0)
        for block in self.blocks:
            x = block(x, is_token[:, None], None, rngs)
        return self.norm(x[:, : self.chunk]).reshape(size, -1)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        return self.head(features[:, -1].reshape(len(features), self.chunk, -1))


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> VLA:
    """Builds the model for a dataset's frames, state, instructions and actions."""
    return VLA(config, spec, rngs)
