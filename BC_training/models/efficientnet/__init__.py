"""EfficientNet on one frame."""

from BC_training.models.efficientnet.model import Config, create_model

__all__ = ["Config", "create_model"]
