"""A checkpoint that plays: observation in, buttons out. No dataset code behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from BC_training.checkpoints import store as checkpoint
from BC_training.checkpoints.bundle import Bundle
from BC_training.common.game_state import Moment, with_history
from BC_training.common.types import Observation, RawObservation, WindowSpec
from BC_training.networks.model import Model
from BC_training.play.button_decoder import Decision
from gameplay_pipeline.plumbing.errors import UserError


class Memory(NamedTuple):
    """What play remembers between ticks, on the device."""

    features: Float[Array, "1 R F"]
    """Encodings of the last R ticks, oldest first; R spans the window with its stride."""
    plans: Float[Array, "K K A"]
    """Probabilities predicted at the last K ticks for the K ticks from each, newest first."""
    age: Array
    """Ticks since the reset."""


class Policy:
    """Plays a model. One policy plays one fight at a time; make several to play several."""

    def __init__(self, bundle: Bundle, model: Model):
        """Compiles for one observation at a time.

        Args:
            bundle: of the checkpoint.
            model: with its trained parameters.
        """
        self.bundle = bundle
        config = bundle.config
        self._window, self.play = config.model.window(), config.play
        self._instruction = config.dataset.instruction
        self._thresholds = np.array(bundle.thresholds)
        self._graph, self._state = nnx.split(model)
        self._tick = jax.jit(self._make_tick())
        self.reset()
        # Compiles a fight's first tick and its later ones now, not while the boss swings.
        frame = bundle.spec.frame
        zeros: dict[str, Any] = {name: 0.0 for name in bundle.spec.state}
        zeros["frame"] = np.zeros((frame.height, frame.width, frame.channels), np.uint8)
        self.probabilities(zeros)
        self.probabilities(zeros)
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
            seed: of the decisions, where play.rule draws them.

        Raises:
            UserError: the model reads no instruction, or none as long as this.
        """
        self.memory: Memory | None = None
        """After the last tick."""
        self.seen: RawObservation | None = None
        """The last tick, as the model got it."""
        self._moment: Moment | None = None
        self.decision = Decision(self.play, self._thresholds, seed)
        self.latest = np.zeros(len(self.bundle.spec.actions), np.float32)
        """Probabilities [A] of the last tick, to be shown."""
        self._tokens: Int[np.ndarray, "1 L"] | None = None
        instructions = self.bundle.preprocess.instructions
        if instructions is not None:
            text = instruction or self._instruction or instructions.known[0]
            self._tokens = instructions.encode(text)[None]
        elif instruction is not None:
            name = self.bundle.config.model.name
            raise UserError(f"instruction: {name} reads none")

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        """The buttons to press now.

        Args:
            observation: `frame` [H, W, C] uint8 in the colour order of the bundle, and, where the
                model reads the game state, each of its attributes by name.

        Raises:
            UserError: the observation breaks the bundle's contract.
        """
        return self.decision(self.probabilities(observation))

    def probabilities(self, observation: Mapping[str, Any]) -> Float[np.ndarray, "A"]:
        """Probability of each button now; what `act` decides from. Advances the fight by a tick."""
        self.seen = self._ticks(observation)
        probabilities, self.memory = self._tick(self._state, self.memory, self.seen)
        result = np.asarray(probabilities)
        self.latest = result
        return result

    def _ticks(self, observation: Mapping[str, Any]) -> RawObservation:
        if "frame" not in observation:
            raise UserError(f"the observation has no 'frame', only {', '.join(observation)}")
        spec, frame = self.bundle.spec, observation["frame"]
        shape = (spec.frame.height, spec.frame.width, spec.frame.channels)
        if frame.shape != shape or frame.dtype != np.uint8:
            raise UserError(
                f"the environment's frame is {frame.shape} {frame.dtype}; this policy was trained "
                f"on {shape} uint8"
            )
        state = None
        if self._window.state:
            missing = [name for name in spec.state if name not in observation]
            if missing:
                raise UserError(f"the environment gives no {', '.join(missing)}")
            # Recorded state is float32: live values are rounded alike before anything reads them.
            now = np.array([[observation[name] for name in spec.state]], np.float32)
            known, self._moment = with_history(now, self._moment)
            state = known[None]
        return RawObservation(
            frames=frame[None, None],
            state=state,
            past_actions=self.decision.pressed[None, None] if self._window.past_actions else None,
            instruction=self._tokens,
            valid=np.ones((1, 1), bool),
        )

    def _make_tick(self):
        graph, window, preprocess = self._graph, self._window, self.bundle.preprocess
        actions = len(self.bundle.spec.actions)
        decay = self.play.ensemble_decay if self.play.chunk == "ensemble" else np.inf

        def tick(
            state: Any, memory: Memory | None, ticks: RawObservation
        ) -> tuple[Array, "Memory"]:
            model = nnx.merge(graph, state, copy=True)
            now: Observation = jax.tree.map(lambda x: x[:, 0], preprocess(ticks))
            features = model.encode(now, None)[:, None]
            if memory is None:
                # As in training, ticks before the fight's start repeat its first one.
                kept, age = jnp.repeat(features, window.span, axis=1), jnp.array(0)
                plans = jnp.zeros((window.chunk, window.chunk, actions))
            else:
                kept = jnp.concatenate([memory.features[:, 1:], features], axis=1)
                plans, age = memory.plans, memory.age + 1
            logits = decode_kept(model, window, kept, age)
            plans = jnp.concatenate([jax.nn.sigmoid(logits), plans[:-1]])
            return _now(plans, age, decay), Memory(kept, plans, age)

        return tick


def decode_kept(
    model: Model, window: WindowSpec, kept: Float[Array, "B R F"], age: Array
) -> Float[Array, "B K A"]:
    """Logits from the encodings that play keeps, `age` ticks after the reset."""
    back = jnp.arange(window.ticks - 1, -1, -1) * window.stride
    valid = jnp.broadcast_to(back <= age, (len(kept), window.ticks))
    return model.decode(kept[:, :: window.stride], valid, None)


def _now(plans: Float[Array, "K K A"], age: Array, decay: float) -> Float[Array, "A"]:
    """What the last K plans say of this tick: a mean in which older ones count less (temporal
    ensembling, Zhao et al. 2023, "Learning fine-grained bimanual manipulation"), or, with an
    infinite decay, what the newest one says."""
    old = np.arange(len(plans))
    weight = np.where(old == 0, 1.0, np.exp(-decay * np.maximum(old, 1)))
    known = jnp.where(old <= age, weight, 0.0)[:, None]
    return (plans[old, old] * known).sum(axis=0) / known.sum()
