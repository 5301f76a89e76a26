"""Backbones, chosen by configuration: images in, a map of features out."""

from typing import Annotated, Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from BC_training.common.types import MOST_LAYERS, Section
from BC_training.networks.efficientnet import EfficientNet, EfficientNetConfig
from BC_training.networks.layers import Backbone, ConvEncoder
from BC_training.networks.resnet import ResNet, ResNetConfig


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

    def extract(
        self, images: Float[Array, "B H W C"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B h w F"]:
        return self.project(images)
