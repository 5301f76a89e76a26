"""From the columns of a game's state to features that a model can learn from.

There are two steps. `add_history` runs on the host and adds what one tick can't tell: how long each
value has lasted, and how far things moved. `StateSchema` runs on the device and makes of these
columns continuous features, standardised, and categories, indices into vocabularies. What a column
means is told by its name for the attributes of Elden Ring, and by its values for any other game's.
"""

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from BC_training.common.types import Section
from ranni_player.state_history import StateHistory

ANIMATION = re.compile(r"\w+AnimId")
RATIO = re.compile(r"(Hero|Npc)(Hp|Sp|Fp)")
BODIES = (
    ("HeroGlobalPosX", "HeroGlobalPosY", "HeroGlobalPosZ", "HeroAngle"),
    ("NpcGlobalPosX", "NpcGlobalPosY", "NpcGlobalPosZ", "NpcGlobalPosAngle"),
)
"""Hero and opponent: position, with the vertical axis last, and facing in radians."""

NPC_OFFSET = (0.0, -8.0, 0.0)
"""What the game adds to an opponent's position against the hero's."""

MOST_VALUES = 32
"""Different whole numbers that a column of a game we don't know may hold to count as a category."""

RARE = 3
"""Ticks of the training split below which a value counts as unknown, so that unknown is learned."""

MIN_STD = 1e-3
"""A feature that hardly varies is centred, not blown up."""


class Vocabulary(Section):
    """The values of a whole-numbered attribute; index 0 is any other."""

    attribute: str
    column: int
    values: tuple[float, ...]
    """Rising; as float32 holds them, for that is how they are recorded."""

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def index(self, values: Float[Array, "*axes"]) -> Int[Array, "*axes"]:
        """Where values stand in the vocabulary, 0 for those that don't."""
        # Compared with every value rather than searched for: an exported policy has no loops.
        shape = (1,) * values.ndim + (-1,)
        is_value = values[..., None] == np.array(self.values, np.float32).reshape(shape)
        return jnp.sum(is_value * np.arange(1, self.size, dtype=np.int32).reshape(shape), axis=-1)


class StateSchema(Section):
    """Which features and categories a game's state gives; fitted on the training split."""

    attributes: tuple[str, ...]
    """The S columns of the dataset."""
    ratios: tuple[tuple[int, int], ...]
    """Columns of a resource and of its maximum."""
    bodies: tuple[tuple[int, ...], ...]
    """Columns of BODIES; empty where the game has no such thing."""
    numbers: tuple[int, ...]
    """Columns that are taken as they are."""
    categories: tuple[Vocabulary, ...]
    mean: tuple[float, ...] = ()
    """Mean of each feature over the training split."""
    std: tuple[float, ...] = ()
    """Standard deviation of each feature over the training split."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the continuous features."""
        names = [self.attributes[column] for column, _ in self.ratios]
        if self.bodies:
            names += ["ahead", "left", "above", "distance"]
            names += ["facing_sin", "facing_cos", "npc_facing_sin", "npc_facing_cos"]
            for body in ("hero", "npc"):
                names += [f"{body}_speed", f"{body}_speed_ahead", f"{body}_speed_left"]
        names += [self.attributes[column] for column in self.numbers]
        names += [f"{each.attribute}_lasted" for each in self.categories]
        return tuple(names)

    def raw(self, history: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        """The features before standardisation, from the columns of `add_history`.

        Positions are those of the opponent in the hero's frame: `ahead` along where the hero looks,
        `left` across it. `facing` is the angle from where the hero looks to the opponent,
        `npc_facing` from where the opponent looks to the hero.
        """
        state, age, change = StateHistory.split(history)
        features = [state[..., a] / jnp.maximum(state[..., b], 1.0) for a, b in self.ratios]
        if self.bodies:
            features += _relative(state, change, *self.bodies)
        features += [state[..., column] for column in self.numbers]
        features += [jnp.log1p(age[..., vocabulary.column]) for vocabulary in self.categories]
        return jnp.stack(features, axis=-1) if features else jnp.zeros((*history.shape[:-1], 0))

    def __call__(
        self, history: Float[Array, "*axes D"]
    ) -> tuple[Float[Array, "*axes F"], Int[Array, "*axes V"]]:
        """Standardised features and categories; runs on the device."""
        shape = (1,) * (history.ndim - 1) + (-1,)
        mean, std = (jnp.array(x, jnp.float32).reshape(shape) for x in (self.mean, self.std))
        indices = [
            vocabulary.index(history[..., vocabulary.column]) for vocabulary in self.categories
        ]
        empty = jnp.zeros((*history.shape[:-1], 0), jnp.int32)
        return (self.raw(history) - mean) / std, jnp.stack(indices, -1) if indices else empty


def fit_schema(attributes: Sequence[str], history: Float[np.ndarray, "N D"]) -> StateSchema:
    """Fits on the training split.

    Args:
        attributes: names of the S columns.
        history: their values, as `StateHistory` extends them.
    """
    attributes = tuple(attributes)
    at = {name: column for column, name in enumerate(attributes)}
    state = history[:, : len(attributes)]
    ratios = {
        at[name]: at[f"{match[1]}Max{match[2]}"]
        for name in attributes
        if (match := RATIO.fullmatch(name)) and f"{match[1]}Max{match[2]}" in at
    }
    whole = all(name in at for body in BODIES for name in body)
    bodies = tuple(tuple(at[name] for name in body) for body in BODIES) if whole else ()
    used = {*ratios, *ratios.values(), *(column for body in bodies for column in body)}
    numbers: list[int] = []
    categories: list[Vocabulary] = []
    for column, name in enumerate(attributes):
        values = state[:, column]
        # What never changes in training tells nothing.
        if column in used or values.min() == values.max():
            continue
        vocabulary = fit_vocabulary(name, column, values)
        if vocabulary and (ANIMATION.fullmatch(name) or vocabulary.size <= MOST_VALUES + 1):
            categories.append(vocabulary)
        else:
            numbers.append(column)
    schema = StateSchema(
        attributes=attributes,
        ratios=tuple(ratios.items()),
        bodies=bodies,
        numbers=tuple(numbers),
        categories=tuple(categories),
    )
    features = np.asarray(schema.raw(jnp.asarray(history)), np.float64)
    mean, std = features.mean(axis=0), np.maximum(features.std(axis=0), MIN_STD)
    return schema.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})


def fit_vocabulary(
    attribute: str, column: int, values: Float[np.ndarray, "N"]
) -> Vocabulary | None:
    """The values that are not rare; None if there are no such values or they are not whole."""
    if not (values == np.round(values)).all():
        return None
    distinct, counts = np.unique(values, return_counts=True)
    common = distinct[counts >= RARE]
    if len(common) == 0:
        return None
    return Vocabulary(attribute=attribute, column=column, values=tuple(common.tolist()))


def _relative(
    state: Float[Array, "*axes S"],
    change: Float[Array, "*axes S"],
    hero: tuple[int, ...],
    npc: tuple[int, ...],
) -> list[Float[Array, "*axes"]]:
    angle = state[..., hero[3]]
    x, y, z = (
        state[..., b] - state[..., a] - offset
        for a, b, offset in zip(hero[:3], npc[:3], NPC_OFFSET, strict=True)
    )
    bearing = jnp.arctan2(y, x)
    facing, npc_facing = bearing - angle, bearing + jnp.pi - state[..., npc[3]]
    features = [*_turned(x, y, angle), z, jnp.hypot(x, y)]
    features += [jnp.sin(facing), jnp.cos(facing), jnp.sin(npc_facing), jnp.cos(npc_facing)]
    for body in (hero, npc):
        dx, dy = change[..., body[0]], change[..., body[1]]
        features += [jnp.hypot(dx, dy), *_turned(dx, dy, angle)]
    return features


def _turned(
    x: Float[Array, "*axes"], y: Float[Array, "*axes"], angle: Float[Array, "*axes"]
) -> tuple[Float[Array, "*axes"], Float[Array, "*axes"]]:
    """A vector along and across a direction."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return x * cos + y * sin, y * cos - x * sin
