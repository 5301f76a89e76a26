"""A recorded fight played to a policy tick by tick, as a live one would be."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from BC_training.play.policy import Policy


class Replayed(NamedTuple):
    """One tick of a replayed fight."""

    frame: UInt8[np.ndarray, "H W C"]
    """The recorded frame, as it was given to the policy."""
    pressed: Bool[np.ndarray, "A"]
    """The buttons that the policy would press."""
    probabilities: Float[np.ndarray, "A"]
    """How probable it holds each button."""


def replay(
    policy: Policy,
    frames: Iterable[UInt8[np.ndarray, "H W C"]],
    state: Float[np.ndarray, "N S"] | None,
    instruction: str | None = None,
) -> Iterator[Replayed]:
    """Plays an episode to a policy whose past actions are its own, not the recorded ones.

    Args:
        policy: is reset first; between two ticks it is as it was after the earlier one.
        frames: the episode's N frames in order, in the colour order of the policy's bundle.
        state: the episode's columns of the bundle's state attributes; None where there are none.
        instruction: how to play, for models that read it.
    """
    policy.reset(instruction)
    for tick, frame in enumerate(frames):
        observation: dict[str, Any] = {"frame": frame}
        if state is not None:
            observation |= dict(zip(policy.bundle.spec.state, state[tick], strict=True))
        yield Replayed(frame, *policy.act(observation))
