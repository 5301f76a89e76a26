"""ResNet, global average pooling, dropout, one logit per action."""

from flax import nnx

from BC_training.common.types import DataSpec
from BC_training.networks.backbones import make_backbone
from BC_training.networks.resnet import ResNetConfig
from BC_training.networks.single_frame import SingleFrame, SingleFrameConfig


class Config(SingleFrameConfig):
    backbone: ResNetConfig = ResNetConfig()


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> SingleFrame:
    """Builds the model for a dataset's frames and actions."""
    backbone = make_backbone(config.backbone, spec.frame.channels, rngs)
    return SingleFrame(config, backbone, spec, rngs)
