"""The nouns that every other module shares.

Letters, in code and prose: B batch, T observed ticks (oldest first, the last is now), K predicted
ticks, A actions, S state features, L instruction tokens, H W C image.
"""

from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8
from pydantic import Field

# Networks and models, which import nothing further down, take it from here.
from gameplay_pipeline.plumbing.section import Section as Section

# Host arrays come from NumPy and device arrays from JAX; both cross these types.
ArrayLike = Array | Any


MOST_LAYERS = 1000
"""Layers of one kind that a model may have: a checkpoint of a stranger is built before its arrays
are compared."""

MOST_TICKS = 10_000
"""Ticks that a window may hold or skip."""


class Problem(NamedTuple):
    """Something wrong with a dataset."""

    severity: Literal["error", "warning"]
    """An error can't be trained on; a warning may be meant so."""
    episode: str | None
    """None where it concerns the whole dataset."""
    what: str
    ticks: tuple[int, int] | None = None
    """From the first to one past the last; None where it concerns the whole episode."""

    def __str__(self) -> str:
        where = self.episode or "dataset"
        if self.ticks is not None:
            first, last = self.ticks[0], self.ticks[1] - 1
            where += f", tick {first}" if first == last else f", ticks {first} to {last}"
        return f"{where}: {self.what}"


class WindowSpec(NamedTuple):
    """The ticks and modalities that a model needs for one prediction."""

    ticks: int = 1
    """T: observed ticks, the last is now."""
    stride: int = 1
    """Ticks between two observed ones."""
    chunk: int = 1
    """K: predicted ticks, the first is now."""
    state: bool = False
    """Whether the model reads the game state."""
    past_actions: bool = False
    """Whether the model reads what was pressed one tick before each observed tick."""
    instruction: int = 0
    """L: tokens that an instruction may have; 0 where the model reads none."""
    auxiliary: str | None = None
    """A state attribute whose value now the model learns to tell besides; None for none."""

    @property
    def span(self) -> int:
        """Ticks from the oldest observed one to now, both counted."""
        return (self.ticks - 1) * self.stride + 1


class ModelConfig(Section):
    """What every model's own config class extends."""

    name: str
    """The folder under models/."""
    chunk: int = Field(default=1, ge=1, le=MOST_TICKS)
    """K: ticks that are predicted, the first is now."""
    auxiliary: str | None = None
    """A whole-numbered state attribute, such as NpcAnimId, that the encoding of each tick must tell
    besides while training. Play needs no state for it."""
    auxiliary_weight: float = Field(default=0.1, gt=0)
    """How much the auxiliary loss counts against that of the actions."""

    def window(self) -> WindowSpec:
        """The window this model needs, as configured."""
        return WindowSpec(chunk=self.chunk, auxiliary=self.auxiliary)


class TemporalConfig(ModelConfig):
    """What the config class of a model that looks back extends."""

    ticks: int = Field(default=16, ge=1, le=MOST_TICKS)
    """T: observed ticks."""
    stride: int = Field(default=1, ge=1, le=MOST_TICKS)
    """Ticks between two observed ones."""

    def window(self) -> WindowSpec:
        return super().window()._replace(ticks=self.ticks, stride=self.stride)


class FrameContract(Section):
    """What a frame is. Training and play must agree on every field."""

    height: int
    width: int
    channels: int
    color_order: str
    """RGB, BGR, or unknown where the dataset does not say."""
    resize: str
    """How frames came to this size: none, area, ..., or unknown where the dataset does not say."""
    fps: float | None
    """Ticks a second; None where the dataset does not say."""


class Features(Section):
    """What preprocessing makes of the state and the instruction."""

    state: tuple[str, ...] = ()
    """Names of the continuous features."""
    categories: tuple[int, ...] = ()
    """Sizes of the vocabularies that the categories are indices of; 0 is the unknown value."""
    tokens: int = 0
    """Size of the vocabulary of instructions; token 0 is padding."""
    auxiliary: int = 0
    """Size of the vocabulary of the auxiliary attribute."""


class DataSpec(Section):
    """What a model must know of a dataset to be built, and a policy to be played."""

    actions: tuple[str, ...]
    """The A buttons, in the order of the dataset's columns."""
    state: tuple[str, ...]
    """The S state attributes, in the order of the dataset's columns; empty where there are none."""
    frame: FrameContract
    features: Features = Features()
    """What the fitted preprocessing gives the model."""


class RawObservation(NamedTuple):
    """Observed ticks as a dataset or an environment gives them; frames are uint8."""

    frames: UInt8[ArrayLike, "B T H W C"] | Int[ArrayLike, "B T"]
    """Or their rows in the frames that are on the device already."""
    state: Float[ArrayLike, "B T D"] | None
    """The D columns of `state_history.add_history`, joined."""
    past_actions: Bool[ArrayLike, "B T A"] | None
    instruction: Int[ArrayLike, "B L"] | None
    valid: Bool[ArrayLike, "B T"]
    """False where the window reaches over the episode's start and repeats its first tick."""


class Observation(NamedTuple):
    """What a model sees: preprocessed ticks. A modality that a model does not declare is None.

    A model's `encode` gets the same structure for one tick, without the axis T.
    """

    frames: Float[ArrayLike, "B T H W C"]
    state: Float[ArrayLike, "B T S"] | None
    """Continuous features, standardised; their names are DataSpec.features.state."""
    categories: Int[ArrayLike, "B T V"] | None
    """Indices into the V vocabularies of DataSpec.features.categories."""
    past_actions: Float[ArrayLike, "B T A"] | None
    instruction: Int[ArrayLike, "B T L"] | None
    """Tokens, the same at all T ticks; 0 is padding."""
    valid: Bool[ArrayLike, "B T"]


class Batch(NamedTuple):
    """Training or evaluation samples."""

    observation: Any
    """`RawObservation` from the dataset, `Observation` once preprocessed."""
    actions: Bool[ArrayLike, "B K A"]
    valid: Bool[ArrayLike, "B K"]
    """False where the chunk reaches over the episode's end and repeats its last tick."""
    previous: Bool[ArrayLike, "B A"]
    """What was pressed one tick before now; nothing at an episode's first tick."""
    auxiliary: Float[ArrayLike, "B"] | Int[ArrayLike, "B"] | None
    """The auxiliary attribute now: its value from the dataset, its index once preprocessed."""
    weight: Float[ArrayLike, "B"]
    """Zero for rows that only fill a batch up."""
