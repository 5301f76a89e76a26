"""A game's observations as the inputs of a network, checked against what it was trained on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.state_history import HistoryState, add_history


class ObservationSpec(NamedTuple):
    """What a policy reads of an observation."""

    frame: tuple[int, int, int]
    """Height, width and channels."""
    actions: int
    """A: how many buttons there are."""
    attributes: tuple[str, ...]
    """The S attributes of the game's state, in order; empty where the policy reads none."""
    past_actions: bool
    """Whether the policy reads what was pressed one tick before."""


class Inputs(NamedTuple):
    """One tick, as a network takes it. What the policy does not read is None."""

    frame: UInt8[np.ndarray, "1 1 H W C"]
    state: Float[np.ndarray, "1 1 3*S"] | None
    past_actions: Bool[np.ndarray, "1 1 A"] | None


class ObservationReader:
    """Reads the observations of one fight in order."""

    def __init__(self, spec: ObservationSpec):
        """Begins a fight, with no button down."""
        self._spec = spec
        self._history: HistoryState | None = None
        self._pressed = np.zeros(spec.actions, bool)

    def read(self, observation: Mapping[str, Any]) -> Inputs:
        """Reads one tick.

        Args:
            observation: `frame` [H, W, C] uint8 and, where the policy reads the game state, each
                attribute by its name.

        Raises:
            UserError: something is missing, has another shape, or is not a finite number.
        """
        if "frame" not in observation:
            raise UserError(f"the observation has no 'frame', only {', '.join(observation)}")
        frame = np.asarray(observation["frame"])
        if frame.shape != self._spec.frame or frame.dtype != np.uint8:
            raise UserError(
                f"the environment's frame is {frame.shape} {frame.dtype}; this policy was trained "
                f"on {self._spec.frame} uint8"
            )
        past = self._pressed[None, None] if self._spec.past_actions else None
        return Inputs(frame[None, None], self._read_state(observation), past)

    def remember(self, pressed: Bool[np.ndarray, "A"]) -> None:
        """Keeps what was pressed at this tick, for the next one."""
        self._pressed = pressed

    def _read_state(self, observation: Mapping[str, Any]) -> Float[np.ndarray, "1 1 3*S"] | None:
        names = self._spec.attributes
        if not names:
            return None
        if missing := [name for name in names if name not in observation]:
            raise UserError(f"the environment gives no {', '.join(missing)}")
        # Recorded state is float32: live values are rounded alike before anything reads them.
        state = np.array([[observation[name] for name in names]], np.float32)
        if not np.isfinite(state).all():
            wrong = [name for name, value in zip(names, state[0], strict=True)
                     if not np.isfinite(value)]  # fmt: skip
            raise UserError(f"the environment's {', '.join(wrong)} is not a finite number")
        history, self._history = add_history(state, self._history)
        return history.joined()[None]


def blank_observation(spec: ObservationSpec) -> dict[str, Any]:
    """Returns an observation in which everything is zero."""
    return {**dict.fromkeys(spec.attributes, 0.0), "frame": np.zeros(spec.frame, np.uint8)}
