"""A checkpoint that plays: observation in, buttons out. No dataset code behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Int

from BC_training.checkpoints import store as checkpoint
from BC_training.checkpoints.bundle import Bundle
from BC_training.common.types import RawObservation
from BC_training.networks.model import Model
from BC_training.play.tick import Memory, PolicyTick
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.button_decoder import ButtonDecoder, Decision, Rule
from ranni_player.observations import ObservationReader, ObservationSpec, blank_observation


class Policy:
    """Plays a model. One policy plays one fight at a time; make several to play several."""

    def __init__(self, bundle: Bundle, model: Model):
        """Compiles for one observation at a time.

        Args:
            bundle: the checkpoint's bundle.
            model: the model with its trained parameters.
        """
        self.bundle = bundle
        config = bundle.config
        self._rule: Rule = config.play.rule
        self._instruction = config.dataset.instruction
        self._spec = observation_spec(bundle)
        self._thresholds = np.array(bundle.thresholds)
        graph, self._state = nnx.split(model)
        tick = PolicyTick(bundle, graph)
        self._tick = jax.jit(tick.__call__)
        self.reset()
        blank = self._raw(blank_observation(self._spec))
        # Where the parameters are, or else the second tick would compile anew.
        device = jax.tree.leaves(self._state)[0].sharding
        self._first_memory = jax.device_put(tick.begin(self._state, blank), device)
        # Compiles now, not while the boss swings.
        self._tick(self._state, self._first_memory, blank)
        self.reset()

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Loads a checkpoint, or the best one of a run's folder.

        Raises:
            UserError: there is none, or it is damaged or of another version.
        """
        return cls(*checkpoint.load_model(checkpoint.locate(path)))

    def reset(self, instruction: str | None = None, seed: int = 0) -> None:
        """Forgets the fight so far. To be called before each fight.

        Args:
            instruction: how to play, for models that read it; by default dataset.instruction, or
                else the commonest one of the training split.
            seed: seed of the decisions, where play.rule draws them.

        Raises:
            UserError: the model takes no instruction, or none as long as this.
        """
        self._tokens = instruction_tokens(self.bundle, instruction or self._instruction)
        if instruction is not None and self._tokens is None:
            raise UserError("instruction: this model takes no instruction")
        self._memory: Memory | None = None
        self._last: RawObservation | None = None
        self._reader = ObservationReader(self._spec)
        self._decode = ButtonDecoder(self._rule, self._thresholds, seed)

    def act(
        self, observation: Mapping[str, Any], previous: Bool[np.ndarray, "A"] | None = None
    ) -> Decision:
        """Decides what to press now. Advances the fight by a tick.

        Args:
            observation: `frame` [H, W, C] uint8 in the colour order of the bundle, and, where the
                model reads the game state, each of its attributes by name.
            previous: what was pressed one tick before, where that was not what the policy decided.

        Raises:
            UserError: the observation breaks the bundle's contract.
        """
        if previous is not None:
            self._reader.remember(previous)
        self._last = self._raw(observation)
        memory = self._first_memory if self._memory is None else self._memory
        probabilities, self._memory = self._tick(self._state, memory, self._last)
        probabilities = np.asarray(probabilities)
        pressed = self._decode(probabilities)
        self._reader.remember(pressed)
        return Decision(pressed, probabilities)

    def last_tick(self) -> tuple[RawObservation, Memory]:
        """Returns what the model got at the last tick, and its memory after it."""
        assert self._last is not None, "no tick since the reset"
        assert self._memory is not None
        return self._last, self._memory

    def _raw(self, observation: Mapping[str, Any]) -> RawObservation:
        inputs = self._reader.read(observation)
        return RawObservation(
            frames=inputs.frame,
            state=inputs.state,
            past_actions=inputs.past_actions,
            instruction=self._tokens,
            valid=np.ones((1, 1), bool),
        )


def observation_spec(bundle: Bundle) -> ObservationSpec:
    """Returns what the policy of a checkpoint reads of an observation."""
    window, frame = bundle.config.model.window(), bundle.spec.frame
    return ObservationSpec(
        frame=(frame.height, frame.width, frame.channels),
        actions=len(bundle.spec.actions),
        attributes=bundle.spec.state if window.state else (),
        past_actions=window.past_actions,
    )


def instruction_tokens(bundle: Bundle, text: str | None) -> Int[np.ndarray, "1 L"] | None:
    """Returns the tokens of an instruction, or of the commonest one; None for models without.

    Raises:
        UserError: it is empty or too long.
    """
    instructions = bundle.preprocess.instructions
    if instructions is None:
        return None
    return instructions.encode(text or instructions.known[0])[None]
