"""EfficientNet, global average pooling, dropout, one logit per action."""

from flax import nnx
from pydantic import Field

from BC_training.common.types import DataSpec
from BC_training.networks.backbones import make_backbone
from BC_training.networks.efficientnet import EfficientNetConfig
from BC_training.networks.single_frame import SingleFrame, SingleFrameConfig


class Config(SingleFrameConfig):
    backbone: EfficientNetConfig = EfficientNetConfig()
    dropout_rate: float = Field(default=0.2, ge=0, lt=1)
    """Dropout before the head."""


def create_model(config: Config, spec: DataSpec, rngs: nnx.Rngs) -> SingleFrame:
    """Builds the model for a dataset's frames and actions."""
    backbone = make_backbone(config.backbone, spec.frame.channels, rngs)
    return SingleFrame(config, backbone, spec, rngs)
