"""ResNet (He et al. 2015), as torchvision builds it, name for name, so that its ImageNet weights
fit."""

from typing import Any, Literal

from flax import nnx
from jaxtyping import Array, Float

from BC_training.networks.layers import Backbone, ConvNorm
from BC_training.networks.pretrained import PretrainedConfig


class ResNetConfig(PretrainedConfig):
    type: Literal["resnet"] = "resnet"
    """ResNet, with batch norm."""
    depth: Literal[18, 34, 50] = 18
    """How many layers with weights the published network has. Its classifier, which is counted, is
    left out here."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: a 7x7 convolution of stride 2 and a max pool; the map is 32 times smaller than the
    image. small: a 3x3 convolution of stride 1 and no pool, as is usual for images of up to 64
    pixels; the map is 8 times smaller, at 16 times the cost."""


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
        self.take(config)
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

    def extract(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        x = nnx.relu(self.conv1(images, rngs))
        if not self.is_small:
            padding: Any = ((1, 1), (1, 1))  # annotated as a text in Flax, which takes both
            x = self.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = block(x, rngs)
        return x
