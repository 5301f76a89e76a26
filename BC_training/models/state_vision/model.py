"""Features of the frame and of the game state side by side, dense layers, a logit per action."""

from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field, PositiveInt

from BC_training.common.types import DataSpec, Observation
from BC_training.networks.encoder import EncodedConfig, EncoderConfig, TickEncoder
from BC_training.networks.layers import MLP, ActionHead
from BC_training.networks.model import Model


class Config(EncodedConfig):
    encoder: EncoderConfig = EncoderConfig(state=True)
    dense_features: tuple[PositiveInt, ...] = (256,)
    """Widths of the dense layers after the encoder."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after each dense layer."""


class StateVision(Model):
    """One tick, its game state included, through an encoder and dense layers."""

    def __init__(self, config: Config, spec: DataSpec, rngs: nnx.Rngs):
        width = config.encoder.width
        super().__init__(config, spec, width, rngs)
        self.encoder = TickEncoder(config.encoder, spec, rngs)
        self.dense = MLP(width, config.dense_features, dropout_rate=config.dropout_rate, rngs=rngs)
        self.head = ActionHead(self.dense.width, config.chunk, len(spec.actions), rngs=rngs)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        return self.encoder(tick, rngs)

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        return self.head(self.dense(features[:, -1], rngs))


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> StateVision:
    """Builds the model for a dataset's frames, state and actions."""
    return StateVision(config, spec, rngs)
