"""Convolutional backbones, chosen by configuration: images in, a map of features out.

ResNet (He et al. 2015) and EfficientNet (Tan & Le 2019) are built as torchvision builds them, name
for name, so that its ImageNet weights fit.
"""

import math
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from BC_training.common.types import MOST_LAYERS, Section
from BC_training.networks.convolution import convolve
from BC_training.networks.layers import BATCH_NORM_MOMENTUM, Backbone, ConvEncoder

HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
STOCHASTIC_DEPTH = 0.2
"""The rate at which training skips EfficientNet's last block; it grows linearly from zero at the
first."""


class ConvConfig(Section):
    type: Literal["conv"] = "conv"
    """A stack of conv blocks."""
    features: tuple[PositiveInt, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    """Channels of each conv block. The first divides height and width by `stem`, each other
    by 2."""
    stem: PositiveInt = 8
    """Stride of the first convolution, whose kernel is as wide, and 3x3 at least. Four times the
    cost for half the stride: 8 suits 288x512, 4 suits 144x256, 2 small pictures."""
    depth: int = Field(default=2, ge=0, le=MOST_LAYERS)
    """How many residual 3x3 convolutions each block has after the one that downsamples."""
    batch_norm: bool = True
    """Whether each convolution is followed by batch norm."""


class ResNetConfig(Section):
    type: Literal["resnet"] = "resnet"
    """ResNet, with batch norm."""
    depth: Literal[18, 34, 50] = 18
    """How many layers with weights the published network has. Its classifier, which is counted, is
    left out here."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: a 7x7 convolution of stride 2 and a max pool; the map is 32 times smaller than the
    image. small: a 3x3 convolution of stride 1 and no pool, as is usual for images of up to 64
    pixels; the map is 8 times smaller, at 16 times the cost."""
    weights: str | None = None
    """A .safetensors file with torchvision's tensors for a run to begin with, looked up from the
    current folder, or a .pth that PyTorch saved before 1.6; null begins at random. The file of
    torchvision's own weights is written by
    safetensors.torch.save_file(torchvision.models.resnet18(weights="DEFAULT").state_dict(), FILE).
    They were trained on RGB images standardised by ImageNet's statistics. Here frames are
    standardised by the training split's, in the colour order of the dataset, so that these weights
    are a beginning to train from, not a fixed feature extractor."""


class EfficientNetConfig(Section):
    type: Literal["efficientnet"] = "efficientnet"
    """EfficientNet, with batch norm and stochastic depth."""
    variant: Literal["b0", "b1", "b2", "b3"] = "b0"
    """Compound scaling of width and depth; the image size that goes with it is the dataset's."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """Stride of the first convolution. imagenet: 2; the map is 32 times smaller than the image.
    small: 1; the map is 16 times smaller, at 4 times the cost."""
    weights: str | None = None
    """A .safetensors file as for resnet, of torchvision.models.efficientnet_b0(weights="DEFAULT").
    It fits either stem."""


class PatchConfig(Section):
    type: Literal["patch"] = "patch"
    """The image is cut into squares and each is projected by itself, for models that look further
    with attention (Dosovitskiy et al. 2020, "An image is worth 16x16 words")."""
    size: PositiveInt = 16
    """Side of a square in pixels. The map is that many times smaller than the image."""
    width: PositiveInt = 192
    """How many features a square becomes."""


BackboneConfig = Annotated[
    ConvConfig | ResNetConfig | EfficientNetConfig | PatchConfig, Field(discriminator="type")
]


def make_backbone(config: BackboneConfig, channels: int, rngs: nnx.Rngs) -> Backbone:
    """Builds a backbone, at random: `Model.load_pretrained` fills in its weights.

    Args:
        config: the configuration of one of the types.
        channels: how many channels the images have.
        rngs: random streams, among them `params`.
    """
    if config.type == "conv":
        return ConvEncoder(
            channels,
            config.features,
            stem=config.stem,
            depth=config.depth,
            batch_norm=config.batch_norm,
            rngs=rngs,
        )
    if config.type == "patch":
        return Patches(config, channels, rngs)
    if config.type == "resnet":
        return ResNet(config, channels, rngs)
    return EfficientNet(config, channels, rngs)


class Patches(Backbone):
    """Projects squares of the image; those that reach over its edges are filled up with zeros."""

    def __init__(self, config: PatchConfig, channels: int, rngs: nnx.Rngs):
        self.width = config.width
        self.project = nnx.Conv(
            channels, config.width, (config.size, config.size), strides=config.size, rngs=rngs
        )

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        return self.project(images)


class ConvNorm(nnx.Module):
    """Convolution and batch norm.

    Padding is the same on all sides, as in torchvision. With a stride of 2 and an even size, SAME
    pads one side more, which shifts the image by a pixel under pretrained weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int = 1,
        groups: int = 1,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            conv_general_dilated=convolve,
            kernel_init=HE_FAN_OUT,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=BATCH_NORM_MOMENTUM, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        return self.norm(self.conv(images), use_running_average=rngs is None)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(inputs, width, size=3, stride=stride, rngs=rngs)
        self.conv2 = ConvNorm(width, width, size=3, rngs=rngs)
        self.downsample = _shortcut(inputs, width, stride, rngs)

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        x = nnx.relu(self.conv1(images, rngs))
        x = self.conv2(x, rngs)
        return nnx.relu(x + (self.downsample(images, rngs) if self.downsample else images))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (which has the stride) and 1x1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        outputs = self.expansion * width
        self.conv1 = ConvNorm(inputs, width, size=1, rngs=rngs)
        self.conv2 = ConvNorm(width, width, size=3, stride=stride, rngs=rngs)
        self.conv3 = ConvNorm(width, outputs, size=1, rngs=rngs)
        self.downsample = _shortcut(inputs, outputs, stride, rngs)

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        x = nnx.relu(self.conv1(images, rngs))
        x = nnx.relu(self.conv2(x, rngs))
        x = self.conv3(x, rngs)
        return nnx.relu(x + (self.downsample(images, rngs) if self.downsample else images))


def _shortcut(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> ConvNorm | None:
    """None where the shortcut changes nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return ConvNorm(inputs, outputs, size=1, stride=stride, rngs=rngs)


RESNETS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""The kind of block, and how many of them each of the four scales has, by depth."""

RESNET_WIDTH = 64
"""Channels at the first scale. Each further scale doubles them."""


class ResNet(Backbone):
    """ResNet without its classifier; the map has 8 * RESNET_WIDTH * expansion channels."""

    def __init__(self, config: ResNetConfig, channels: int, rngs: nnx.Rngs):
        self.weights = config.weights
        self.max_pool = nnx.max_pool
        self.is_small = config.stem == "small"
        block, counts = RESNETS[config.depth]

        def blocks(scale: int) -> list[BasicBlock | Bottleneck]:
            width, stride = RESNET_WIDTH * 2**scale, 1 if scale == 0 else 2
            inputs = RESNET_WIDTH if scale == 0 else width // 2 * block.expansion
            first = block(inputs, width, stride=stride, rngs=rngs)
            rest = [
                block(width * block.expansion, width, stride=1, rngs=rngs)
                for _ in range(counts[scale] - 1)
            ]
            return [first, *rest]

        size, stride = (3, 1) if self.is_small else (7, 2)
        self.conv1 = ConvNorm(channels, RESNET_WIDTH, size=size, stride=stride, rngs=rngs)
        self.layer1 = nnx.List(blocks(0))
        self.layer2 = nnx.List(blocks(1))
        self.layer3 = nnx.List(blocks(2))
        self.layer4 = nnx.List(blocks(3))
        self.width = 8 * RESNET_WIDTH * block.expansion

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        x = nnx.relu(self.conv1(images, rngs))
        if not self.is_small:
            padding: Any = ((1, 1), (1, 1))  # annotated as a text in Flax, which takes both
            x = self.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = block(x, rngs)
        return x


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
        rngs: nnx.Rngs,
    ):
        inner = inputs * expansion
        widen = [ConvNorm(inputs, inner, size=1, rngs=rngs)] if expansion > 1 else []
        self.block: nnx.List[Any] = nnx.List(
            [
                *widen,
                ConvNorm(inner, inner, size=size, stride=stride, groups=inner, rngs=rngs),
                SqueezeExcitation(inner, inputs // 4, rngs=rngs),
                ConvNorm(inner, outputs, size=1, rngs=rngs),
            ]
        )
        self.is_residual = stride == 1 and inputs == outputs
        self.skip = nnx.Dropout(skip_rate, broadcast_dims=(1, 2, 3))

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w c"]:
        *convolutions, excite, narrow = self.block
        x = images
        for convolution in convolutions:
            x = nnx.silu(convolution(x, rngs))
        x = narrow(excite(x), rngs)
        if not self.is_residual:
            return x
        return images + self.skip(x, deterministic=rngs is None, rngs=rngs)


EFFICIENTNETS = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}
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
        self.weights = config.weights
        width_factor, depth_factor = EFFICIENTNETS[config.variant]
        counts = [math.ceil(depth_factor * stage[-1]) for stage in MBCONVS]
        inputs, done = _rounded(32 * width_factor), 0
        stem_stride = 1 if config.stem == "small" else 2
        features: list[nnx.Module] = [
            ConvNorm(channels, inputs, size=3, stride=stem_stride, rngs=rngs)
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
                        rngs=rngs,
                    )
                )
                inputs, done = outputs, done + 1
            features.append(nnx.List(blocks))
        self.width = 4 * inputs
        features.append(ConvNorm(inputs, self.width, size=1, rngs=rngs))
        self.features: nnx.List[Any] = nnx.List(features)

    def __call__(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        stem, *stages, last = self.features
        x = nnx.silu(stem(images, rngs))
        for stage in stages:
            for block in stage:
                x = block(x, rngs)
        return nnx.silu(last(x, rngs))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
