"""Building blocks of models. In all of them, `rngs` is None outside training."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from BC_training.common.types import FrameContract
from BC_training.networks.convolution import convolve
from BC_training.networks.pretrained import PretrainedConfig

HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")

BATCH_NORM_MOMENTUM = 0.95
"""Flax's 0.99 needs hundreds of steps before evaluation sees sensible statistics; short runs on
small datasets have no more than that."""


class Backbone(nnx.Module):
    """Turns images into a map of features; the model decides what is done with the map.

    A subclass sets `width` and writes `extract`.
    """

    width: int
    """How many channels the map has."""
    weights: str | None = None
    """What `Model.load_pretrained` fills the backbone from; None for nothing."""
    freeze: bool = False
    """Whether training leaves it as it is, its batch statistics too."""
    learning_rate: float = 1.0
    """Its learning rate as a multiple of that of all other layers."""

    def take(self, config: PretrainedConfig) -> None:
        """Takes over what is configured for weights that others trained."""
        self.weights, self.freeze = config.weights, config.freeze
        self.learning_rate = 0.0 if config.freeze else config.learning_rate

    def extract(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        """The map of features."""
        raise NotImplementedError

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        if self.freeze:
            return jax.lax.stop_gradient(self.extract(images, None))
        return self.extract(images, rngs)

    def map_size(self, frame: FrameContract) -> tuple[int, int]:
        """Height and width of the map for this size of frame."""
        image = jax.ShapeDtypeStruct((1, frame.height, frame.width, frame.channels), jnp.float32)
        height, width = jax.eval_shape(lambda x: self(x, None), image).shape[1:3]
        return height, width


class ConvNorm(nnx.Module):
    """Convolution and batch norm.

    Padding is the same on all sides, as in torchvision, or, for weights of TensorFlow, SAME. With a
    stride of 2 and an even size that pads one side more, which shifts the image by a pixel under
    weights of the other.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding="SAME" if same else size // 2,
            feature_group_count=groups,
            use_bias=False,
            conv_general_dilated=convolve,
            kernel_init=HE_FAN_OUT,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            outputs, momentum=BATCH_NORM_MOMENTUM, epsilon=1e-3 if same else 1e-5, rngs=rngs
        )

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        return self.norm(self.conv(images), use_running_average=rngs is None)


class ConvNormAct(nnx.Module):
    """Convolution, batch norm (or a bias without it) and ReLU. The kernel is 3x3, or as wide as the
    stride if that is more, so that every pixel counts."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, batch_norm: bool, rngs: nnx.Rngs
    ):
        size = max(3, stride)
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            use_bias=not batch_norm,
            conv_general_dilated=convolve,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.norm = (
            nnx.BatchNorm(outputs, momentum=BATCH_NORM_MOMENTUM, rngs=rngs) if batch_norm else None
        )

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        images = self.conv(images)
        if self.norm is not None:
            images = self.norm(images, use_running_average=rngs is None)
        return nnx.relu(images)


class ConvBlock(nnx.Module):
    """Divides height and width by `stride`, then refines by `depth` residual convolutions."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        depth: int,
        batch_norm: bool,
        rngs: nnx.Rngs,
    ):
        self.down = ConvNormAct(inputs, outputs, stride=stride, batch_norm=batch_norm, rngs=rngs)
        self.residual = nnx.List(
            [ConvNormAct(outputs, outputs, batch_norm=batch_norm, rngs=rngs) for _ in range(depth)]
        )

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        images = self.down(images, rngs)
        for layer in self.residual:
            images = images + layer(images, rngs)
        return images


class ConvEncoder(Backbone):
    """Conv blocks of growing width: the first divides height and width by `stem`, the others
    halve them."""

    def __init__(
        self,
        channels: int,
        features: Sequence[int],
        *,
        stem: int,
        depth: int,
        batch_norm: bool,
        rngs: nnx.Rngs,
    ):
        self.width = features[-1]
        widths = itertools.pairwise([channels, *features])
        strides = [stem] + [2] * (len(features) - 1)
        self.blocks = nnx.List(
            [
                ConvBlock(*width, stride=stride, depth=depth, batch_norm=batch_norm, rngs=rngs)
                for width, stride in zip(widths, strides, strict=True)
            ]
        )

    def extract(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        for block in self.blocks:
            images = block(images, rngs)
        return images


class MLP(nnx.Module):
    """Dense layers, each followed by ReLU and dropout."""

    def __init__(
        self, inputs: int, features: Sequence[int], *, dropout_rate: float, rngs: nnx.Rngs
    ):
        widths = [inputs, *features]
        self.width = widths[-1]
        self.layers = nnx.List(
            [
                nnx.Linear(before, after, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
                for before, after in itertools.pairwise(widths)
            ]
        )
        self.dropout = nnx.Dropout(dropout_rate)

    def __call__(self, x: Float[Array, "... F"], rngs: nnx.Rngs | None) -> Float[Array, "... G"]:
        for layer in self.layers:
            x = nnx.relu(layer(x))
            x = self.dropout(x, deterministic=rngs is None, rngs=rngs)
        return x


class ActionHead(nnx.Module):
    """A linear layer with a logit for each predicted tick and action."""

    def __init__(self, inputs: int, chunk: int, actions: int, *, rngs: nnx.Rngs):
        self.chunk = chunk
        self.out = nnx.Linear(inputs, chunk * actions, rngs=rngs)

    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B K A"]:
        return self.out(x).reshape(len(x), self.chunk, -1)


class Attention(nnx.Module):
    """Multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.project = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B N F"],
        mask: Bool[Array, "B #N N"],
        bias: Float[Array, "heads N N"] | None,
    ) -> Float[Array, "B N F"]:
        """Attends where `mask` [query, key] is true; `bias` is added to the scores."""
        size, length, width = x.shape
        projected = self.project(x).reshape(size, length, 3, self.heads, width // self.heads)
        query, key, value = (projected[:, :, i] for i in range(3))
        mixed = jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=None if bias is None else bias[None].astype(x.dtype),
            mask=jnp.broadcast_to(mask[:, None], (size, 1, length, length)),
        )
        return self.out(mixed.reshape(size, length, width))


class TransformerBlock(nnx.Module):
    """Attention and a two-layer perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, *, dropout_rate: float, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout_rate)

    def __call__(
        self,
        x: Float[Array, "B N F"],
        mask: Bool[Array, "B #N N"],
        bias: Float[Array, "heads N N"] | None,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "B N F"]:
        mixed = self.attention(self.norm1(x), mask, bias)
        x = x + self.dropout(mixed, deterministic=rngs is None, rngs=rngs)
        inner = self.down(nnx.gelu(self.up(self.norm2(x))))
        return x + self.dropout(inner, deterministic=rngs is None, rngs=rngs)
