"""A policy plays until a person presses something, and again once the person presses nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from BC_training.play.policy import Policy
from gameplay_pipeline.environments.person import Person, Shown

SILENCE_S = 0.7
"""Seconds without a key after which the policy has the buttons again."""


class Takeover:
    """A policy and a person at the same buttons, as the play loop knows players.

    Whatever the person holds is pressed at once, and nothing else. What is pressed is what should
    be where the person drove (`intervention`); the moment of silence before the policy drives again
    is not: it says who drives, not what to do.
    """

    def __init__(
        self,
        policy: Policy,
        person: Person,
        fps: float,
        instruction: str | None = None,
        seed: int = 0,
    ):
        """Takes both for one fight at a time.

        Args:
            policy: goes on deciding while the person drives, and is told what was pressed.
            person: sees each tick and what the policy makes of it.
            fps: ticks a second.
            instruction: how the policy is to play.
            seed: seed of the policy's decisions.
        """
        self._policy, self._person = policy, person
        self._instruction, self._seed = instruction, seed
        self._silence = max(1, round(SILENCE_S * fps))
        self._actions = len(policy.bundle.spec.actions)

    def reset(self) -> None:
        self._policy.reset(self._instruction, self._seed)
        self._pressed = np.zeros(self._actions, bool)
        self._silent = self._silence
        self._policy_actions: list[Bool[np.ndarray, "A"]] = []
        self._intervention: list[bool] = []

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        drove = self._silent < self._silence
        decision = self._policy.act(observation, self._pressed if drove else None)
        shown = Shown(self._pressed, drove, decision.probabilities)
        held = self._person.choose(observation, shown)
        self._policy_actions.append(decision.pressed)
        self._intervention.append(bool(held.any()))
        if held.any():
            if drove:  # the silence was a pause for breath
                for tick in range(self._silent):
                    self._intervention[-2 - tick] = True
            self._silent = 0
        else:
            self._silent += 1
        self._pressed = held if self._silent < self._silence else decision.pressed
        return self._pressed

    def corrections(self) -> dict[str, Bool[np.ndarray, "..."]]:
        """The fight's `policy_actions` [N, A] and `intervention` [N], as a dataset holds them."""
        return {
            "policy_actions": np.stack(self._policy_actions),
            "intervention": np.array(self._intervention),
        }
