"""One tick in one vector: features of its picture, of the game state, of the last buttons."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field, PositiveInt

from BC_training.common.types import DataSpec, ModelConfig, Observation, Section, WindowSpec
from BC_training.networks.backbones import BackboneConfig, ConvConfig, make_backbone
from BC_training.networks.layers import MLP
from gameplay_pipeline.plumbing.errors import UserError


class EncoderConfig(Section):
    backbone: BackboneConfig = ConvConfig()
    """The network over the picture."""
    grid: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Height and width of the grid over which the backbone's map is averaged: 1x1 forgets where
    things are, a finer one keeps it."""
    width: PositiveInt = 256
    """F: how many features a tick becomes."""
    state: bool = False
    """Whether the game state is read."""
    category_width: PositiveInt = 16
    """Width of the embedding of each category of the state, such as an animation."""
    state_features: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the dense layers over the state."""
    past_actions: bool = False
    """Whether the buttons pressed one tick before are read. That raises offline figures and tends
    to ruin play, because the policy learns to repeat itself."""
    past_action_dropout: float = Field(default=0.5, ge=0, lt=1)
    """The share of training ticks at which the past actions are hidden."""
    dropout_rate: float = Field(default=0.1, ge=0, lt=1)
    """Dropout after the layer that joins picture, state and past actions."""


class EncodedConfig(ModelConfig):
    """What the config class of a model with a `TickEncoder` extends."""

    encoder: EncoderConfig = EncoderConfig()

    def window(self) -> WindowSpec:
        window = super().window()
        return window._replace(state=self.encoder.state, past_actions=self.encoder.past_actions)


class StateEncoder(nnx.Module):
    """Passes continuous features and embedded categories of the state through dense layers.

    Raises:
        UserError: the state has no features.
    """

    def __init__(self, config: EncoderConfig, spec: DataSpec, rngs: nnx.Rngs):
        features = spec.features
        if not features.state and not features.categories:
            raise UserError(
                f"model: the state ({', '.join(spec.state)}) is the same at every tick of the "
                "training split and tells nothing; set the model's key `state` to false"
            )
        self.embeddings = nnx.List(
            [CategoryEmbedding(size, config.category_width, rngs) for size in features.categories]
        )
        inputs = len(features.state) + config.category_width * len(features.categories)
        self.dense = MLP(inputs, config.state_features, dropout_rate=0.0, rngs=rngs)

    def __call__(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        assert tick.state is not None
        assert tick.categories is not None
        parts = [jnp.asarray(tick.state)]
        for at, embedding in enumerate(self.embeddings):
            parts.append(embedding(tick.categories[:, at]))
        return self.dense(jnp.concatenate(parts, axis=-1), rngs)


class CategoryEmbedding(nnx.Module):
    """A vector for each value of a vocabulary; that of the unknown value begins at zero."""

    def __init__(self, size: int, width: int, rngs: nnx.Rngs):
        table = nnx.initializers.normal(0.1)(rngs.params(), (size, width))
        self.table = nnx.Param(table.at[0].set(0.0))

    def __call__(self, index: Int[Array, "B"]) -> Float[Array, "B F"]:
        return self.table[...][index]


class TickEncoder(nnx.Module):
    """Puts everything that a model reads of a tick into one vector."""

    def __init__(self, config: EncoderConfig, spec: DataSpec, rngs: nnx.Rngs):
        self.backbone = make_backbone(config.backbone, spec.frame.channels, rngs)
        self.grid = config.grid
        inputs = self.backbone.width * config.grid[0] * config.grid[1]
        self.state = StateEncoder(config, spec, rngs) if config.state else None
        if self.state is not None:
            inputs += self.state.dense.width
        self.past_dropout = config.past_action_dropout
        self.past = config.past_actions
        if config.past_actions:
            inputs += len(spec.actions)
        self.fuse = MLP(inputs, (config.width,), dropout_rate=config.dropout_rate, rngs=rngs)

    def __call__(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        parts = [pooled(self.backbone(jnp.asarray(tick.frames), rngs), self.grid)]
        if self.state is not None:
            parts.append(self.state(tick, rngs))
        if self.past:
            assert tick.past_actions is not None
            parts.append(hidden(jnp.asarray(tick.past_actions), self.past_dropout, rngs))
        return self.fuse(jnp.concatenate(parts, axis=-1), rngs)


def pooled(map_: Float[Array, "B h w C"], grid: tuple[int, int]) -> Float[Array, "B F"]:
    """Averages the map over each cell of a grid and concatenates the cells' channels.

    Cells overlap by a row or a column where the grid doesn't divide the map.

    Raises:
        UserError: the grid is finer than the map.
    """
    height, width = map_.shape[1:3]
    if grid[0] > height or grid[1] > width:
        raise UserError(
            f"model: a grid of {grid[0]}x{grid[1]} cells (height x width), but the map that it is "
            f"laid over has only {height}x{width}; take a coarser grid, or a network that shrinks "
            "the picture less"
        )
    rows, columns = (
        [slice(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        for cells, size in zip(grid, (height, width), strict=True)
    )
    cells = [map_[:, row, column].mean(axis=(1, 2)) for row in rows for column in columns]
    return jnp.concatenate(cells, axis=-1)


def hidden(
    past_actions: Float[Array, "B A"], share: float, rngs: nnx.Rngs | None
) -> Float[Array, "B A"]:
    """Hides the past actions of a share of all ticks in training; does nothing outside it."""
    if rngs is None or share == 0:
        return past_actions
    is_kept = jax.random.bernoulli(rngs.dropout(), 1 - share, (len(past_actions), 1))
    return past_actions * is_kept
