"""A tiny model that uses every part of the contract: a window with a stride, state, past actions
and a chunk. It is put among the models by the tests that need it."""

import jax.numpy as jnp
from flax import nnx

from BC_training.common.types import ModelConfig, WindowSpec
from BC_training.networks.model import Model


class Config(ModelConfig):
    width: int = 16

    def window(self) -> WindowSpec:
        return WindowSpec(ticks=3, stride=2, chunk=2, state=True, past_actions=True)


class WindowModel(Model):
    def __init__(self, config, spec, rngs):
        super().__init__(config, spec, config.width, rngs)
        self.actions = len(spec.actions)
        frame, state = spec.frame, len(spec.features.state)
        inputs = frame.height * frame.width * frame.channels // 16 + state + self.actions
        self.inner = nnx.Linear(inputs, config.width, rngs=rngs)
        self.head = nnx.Linear(3 * (config.width + 1), 2 * self.actions, rngs=rngs)

    def encode(self, tick, rngs):
        pixels = tick.frames[:, ::4, ::4].reshape(len(tick.frames), -1)
        seen = jnp.concatenate([pixels, tick.state, tick.past_actions], axis=-1)
        return nnx.relu(self.inner(seen))

    def decode(self, features, valid, rngs):
        mask = valid[..., None].astype(jnp.float32)
        known = jnp.concatenate([features * mask, mask], axis=-1)
        return self.head(known.reshape(len(known), -1)).reshape(len(known), 2, self.actions)


def create_model(config, spec, rngs):
    return WindowModel(config, spec, rngs)
