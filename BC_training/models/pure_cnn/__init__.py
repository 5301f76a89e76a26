"""The baseline: a convolutional network that sees one frame and nothing else."""

from BC_training.models.pure_cnn.model import Config, PureCNN, create_model

__all__ = ["Config", "PureCNN", "create_model"]
