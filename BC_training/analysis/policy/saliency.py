"""Where a picture speaks for the buttons that a policy presses."""

from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from BC_training.checkpoints.bundle import Bundle
from BC_training.common.types import Observation, RawObservation
from BC_training.networks.model import Model
from BC_training.play.policy import Policy
from BC_training.play.tick import Memory, decode_kept

NOISE = 0.15
"""Standard deviation of the noise, as a share of the range of a frame's values."""

BLUR = 0.025
"""Standard deviation of the blur, as a share of the frame's height: single pixels can't be seen."""


class Saliency:
    """SmoothGrad (Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise"): the gradient
    of the pressed buttons' summed logits with respect to the current frame, averaged over noisy
    copies of it. Earlier frames of the window count as they were seen."""

    def __init__(self, bundle: Bundle, model: Model, copies: int):
        """Compiles at the first call.

        Args:
            bundle: the checkpoint's bundle.
            model: the model with its trained parameters.
            copies: noisy copies of each frame to average over.
        """
        self._graph, self._state = nnx.split(model)
        self._preprocess, self._copies = bundle.preprocess, copies
        self._window = bundle.config.model.window()
        self._gradient = jax.jit(self._make_gradient())

    def __call__(self, policy: Policy, pressed: Bool[np.ndarray, "A"]) -> Float[np.ndarray, "H W"]:
        """How much each pixel counts for the buttons: the squared gradient around it, 1 where it is
        largest in the frame; 0 everywhere if none is pressed or the model does not look.

        Args:
            policy: a policy of the same model, just after the tick in question.
            pressed: the buttons that it pressed at that tick.
        """
        gradient = self._gradient(self._state, *policy.last_tick(), jnp.asarray(pressed))
        gradient = np.asarray(gradient)
        blurred = cv2.GaussianBlur(gradient, (0, 0), BLUR * gradient.shape[0])
        return blurred / max(float(blurred.max()), np.finfo(np.float32).tiny)

    def _make_gradient(self) -> Callable[..., Float[Array, "H W"]]:
        """The function to compile: (state, observation, memory, pressed) to squared gradients."""
        graph, preprocess, window = self._graph, self._preprocess, self._window
        copies = self._copies

        def gradient(
            state: Any, observation: RawObservation, memory: Memory, pressed: Bool[Array, "A"]
        ) -> Float[Array, "H W"]:
            model = nnx.merge(graph, state, copy=True)
            now: Observation = jax.tree.map(
                lambda x: jnp.repeat(x[:, 0], copies, axis=0), preprocess(observation)
            )
            frame = jnp.asarray(now.frames)
            # The same noise at every tick: what changes in the picture is then the game's doing.
            noise = jax.random.normal(jax.random.key(0), frame.shape)
            noisy = frame + NOISE * (frame.max() - frame.min()) * noise

            def pressed_logits(frames: Float[Array, "B H W C"]) -> Float[Array, ""]:
                features = jnp.repeat(memory.features, copies, axis=0)
                features = features.at[:, -1].set(model.encode(now._replace(frames=frames), None))
                logits = decode_kept(model, window, features, memory.age)
                return jnp.where(pressed[None], logits[:, 0], 0.0).sum()

            return (jax.grad(pressed_logits)(noisy).mean(axis=0) ** 2).sum(axis=-1)

        return gradient
