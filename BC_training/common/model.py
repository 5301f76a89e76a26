"""What every model is: a per-tick encoder, a decoder over the window, and a loss."""

from pathlib import Path

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from BC_training.common import losses, pretrained
from BC_training.common.layers import Backbone
from BC_training.common.losses import ClassWeights
from BC_training.common.types import Batch, Observation


class Model(nnx.Module):
    """Base of all models. A subclass writes `encode` and `decode`.

    Everywhere, `rngs` holds the stream `dropout` while training and is None otherwise; batch norm
    and dropout take their mode from it.
    """

    def load_pretrained(self) -> None:
        """Fills backbones from the weights they are configured with; for the beginning of a run.

        Raises:
            UserError: such a file is missing, can't be read, or does not fit.
        """
        for _, module in nnx.iter_modules(self):
            if isinstance(module, Backbone) and module.weights is not None:
                pretrained.fill(module, Path(module.weights))

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        """Features of one tick of everything (an Observation without the axis T)."""
        raise NotImplementedError

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        """Logits of the K predicted ticks from the encodings of the T observed ones."""
        raise NotImplementedError

    def __call__(
        self, observation: Observation, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K A"]:
        """Logits for a whole window: encodes each tick by itself, then decodes."""
        batch, ticks = observation.valid.shape
        folded = jax.tree.map(lambda x: x.reshape(batch * ticks, *x.shape[2:]), observation)
        features = self.encode(folded, rngs)
        return self.decode(features.reshape(batch, ticks, -1), observation.valid, rngs)

    def loss(
        self,
        batch: Batch,
        class_weights: ClassWeights,
        label_smoothing: float,
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, ""], Float[Array, "B K A"]]:
        """The loss to minimise, and the logits."""
        logits = self(batch.observation, rngs)
        loss = losses.bce(
            logits, batch.actions, batch.valid, batch.weight, class_weights, label_smoothing
        )
        return loss, logits
