"""The base of every model: a per-tick encoder, a decoder over the window, and a loss."""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from BC_training.common.types import Batch, DataSpec, ModelConfig, Observation
from BC_training.networks import losses, pretrained
from BC_training.networks.layers import Backbone
from BC_training.networks.losses import Objective


class Output(NamedTuple):
    """A model's output for a batch of windows."""

    logits: Float[Array, "B K A"]
    features: Float[Array, "B T F"]


class Model(nnx.Module):
    """The base of all models. A subclass writes `encode` and `decode`.

    In all methods `rngs` holds the stream `dropout` while training and is None otherwise; batch
    norm and dropout take their mode from it.
    """

    def __init__(self, config: ModelConfig, spec: DataSpec, features: int, rngs: nnx.Rngs):
        """Builds the part that all models share.

        Args:
            config: the model's configuration.
            spec: what the model must know of the dataset.
            features: F, the width of a tick's encoding.
            rngs: random streams, among them `params`.
        """
        self.auxiliary_weight = config.auxiliary_weight
        self.auxiliary = (
            nnx.Linear(features, spec.features.auxiliary, rngs=rngs)
            if spec.features.auxiliary
            else None
        )

    def backbones(self) -> dict[str, Backbone]:
        """The model's backbones, by the dotted names of their places."""
        return {
            ".".join(map(str, path)): module
            for path, module in nnx.iter_modules(self)
            if isinstance(module, Backbone)
        }

    def multiples(self) -> dict[str, float]:
        """What layers multiply the learning rate by, by the start of their dotted names."""
        return {f"{name}.": module.learning_rate for name, module in self.backbones().items()}

    def load_pretrained(self, color_order: str) -> None:
        """Fills backbones from the weights that they are configured with, before a run begins.

        Args:
            color_order: of the dataset's frames.

        Raises:
            UserError: a file is missing, can't be read, or does not fit its backbone.
        """
        for backbone in self.backbones().values():
            if backbone.weights is not None:
                pretrained.fill(backbone, backbone.weights, color_order)

    def encode(self, tick: Observation, rngs: nnx.Rngs | None) -> Float[Array, "B F"]:
        """Features of one tick of everything (an Observation without the axis T)."""
        raise NotImplementedError

    def decode(
        self, features: Float[Array, "B T F"], valid: Bool[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B K A"]:
        """Logits of the K predicted ticks from the encodings of the T observed ones."""
        raise NotImplementedError

    def __call__(self, observation: Observation, rngs: nnx.Rngs | None = None) -> Output:
        """Encodes each tick of the windows by itself, then decodes each window."""
        batch, ticks = observation.valid.shape
        folded = jax.tree.map(lambda x: x.reshape(batch * ticks, *x.shape[2:]), observation)
        features = self.encode(folded, rngs).reshape(batch, ticks, -1)
        return Output(self.decode(features, observation.valid, rngs), features)

    def loss(
        self, batch: Batch, objective: Objective, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, ""], Float[Array, "B K A"]]:
        """The loss to minimise, and the logits.

        In training the loss is that of the actions and of the auxiliary attribute together;
        otherwise it is that of the actions alone.
        """
        logits, features = self(batch.observation, rngs)
        loss = losses.actions_loss(
            logits, batch.actions, batch.valid, batch.previous, batch.weight, objective
        )
        if self.auxiliary is not None and batch.auxiliary is not None and rngs is not None:
            told = self.auxiliary(features[:, -1])
            loss += self.auxiliary_weight * losses.auxiliary_loss(
                told, batch.auxiliary, batch.weight
            )
        return loss, logits
