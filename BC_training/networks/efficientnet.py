"""EfficientNet (Tan & Le 2019), as torchvision builds it, name for name, so that its ImageNet
weights fit; and EfficientNet-Lite0, as TensorFlow builds it."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from BC_training.networks.layers import HE_FAN_OUT, Backbone, ConvNorm
from BC_training.networks.pretrained import PretrainedConfig

STOCHASTIC_DEPTH = 0.2
"""The rate at which training skips EfficientNet's last block; it grows linearly from zero at the
first."""


class EfficientNetConfig(PretrainedConfig):
    type: Literal["efficientnet"] = "efficientnet"
    """EfficientNet, with batch norm and stochastic depth."""
    variant: Literal["b0", "b1", "b2", "b3", "lite0"] = "b0"
    """Compound scaling of width and depth; the image size that goes with it is the dataset's.
    lite0: b0 without squeeze-and-excitation and with ReLU6, whose ImageNet weights come in a
    package (weights: imagenet)."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """Stride of the first convolution. imagenet: 2; the map is 32 times smaller than the image.
    small: 1; the map is 16 times smaller, at 4 times the cost."""


class SqueezeExcitation(nnx.Module):
    """Scales each channel by a factor computed from the means of all channels over the image (Hu et
    al. 2018, "Squeeze-and-excitation networks")."""

    def __init__(self, channels: int, squeezed: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Conv(channels, squeezed, (1, 1), kernel_init=HE_FAN_OUT, rngs=rngs)
        self.fc2 = nnx.Conv(squeezed, channels, (1, 1), kernel_init=HE_FAN_OUT, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        mean = jnp.mean(images, axis=(1, 2), keepdims=True)
        return images * nnx.sigmoid(self.fc2(nnx.silu(self.fc1(mean))))


class MBConv(nnx.Module):
    """Widens, convolves each channel by itself, weighs the channels, and narrows again.

    Where the shape stays, there is a shortcut beside the block, and training skips the block for
    some images (Huang et al. 2016, "Deep networks with stochastic depth").
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        size: int,
        stride: int,
        skip_rate: float,
        lite: bool = False,
        rngs: nnx.Rngs,
    ):
        inner = inputs * expansion
        widen = [ConvNorm(inputs, inner, size=1, same=lite, rngs=rngs)] if expansion > 1 else []
        excite = [] if lite else [SqueezeExcitation(inner, inputs // 4, rngs=rngs)]
        self.activation = nnx.relu6 if lite else nnx.silu
        self.block: nnx.List[Any] = nnx.List(
            [
                *widen,
                ConvNorm(
                    inner, inner, size=size, stride=stride, groups=inner, same=lite, rngs=rngs
                ),
                *excite,
                ConvNorm(inner, outputs, size=1, same=lite, rngs=rngs),
            ]
        )
        self.is_residual = stride == 1 and inputs == outputs
        self.skip = nnx.Dropout(skip_rate, broadcast_dims=(1, 2, 3))

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        *layers, narrow = self.block
        x = images
        for layer in layers:
            is_norm = isinstance(layer, ConvNorm)
            x = self.activation(layer(x, rngs)) if is_norm else layer(x)
        x = narrow(x, rngs)
        if not self.is_residual:
            return x
        return images + self.skip(x, deterministic=rngs is None, rngs=rngs)


EFFICIENTNETS = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "lite0": (1.0, 1.0),
}  # fmt: skip
"""Factors of width and depth, by variant."""

MBCONVS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""The stages of B0: expansion, kernel size, stride of the first block, channels, number of
blocks."""


class EfficientNet(Backbone):
    """EfficientNet without its classifier."""

    def __init__(self, config: EfficientNetConfig, channels: int, rngs: nnx.Rngs):
        self.take(config)
        lite = config.variant == "lite0"
        self.activation = nnx.relu6 if lite else nnx.silu
        width_factor, depth_factor = EFFICIENTNETS[config.variant]
        counts = [math.ceil(depth_factor * stage[-1]) for stage in MBCONVS]
        inputs, done = _rounded(32 * width_factor), 0
        stem_stride = 1 if config.stem == "small" else 2
        features: list[nnx.Module] = [
            ConvNorm(channels, inputs, size=3, stride=stem_stride, same=lite, rngs=rngs)
        ]
        for (expansion, size, first_stride, width, _), count in zip(MBCONVS, counts, strict=True):
            outputs, blocks = _rounded(width * width_factor), []
            for number in range(count):
                blocks.append(
                    MBConv(
                        inputs,
                        outputs,
                        expansion=expansion,
                        size=size,
                        stride=first_stride if number == 0 else 1,
                        skip_rate=STOCHASTIC_DEPTH * done / sum(counts),
                        lite=lite,
                        rngs=rngs,
                    )
                )
                inputs, done = outputs, done + 1
            features.append(nnx.List(blocks))
        self.width = 4 * inputs
        features.append(ConvNorm(inputs, self.width, size=1, same=lite, rngs=rngs))
        self.features: nnx.List[Any] = nnx.List(features)

    def extract(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        stem, *stages, last = self.features
        x = self.activation(stem(images, rngs))
        for stage in stages:
            for block in stage:
                x = block(x, rngs)
        return self.activation(last(x, rngs))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
