"""Convolutions over a window of ticks, stacked."""

from BC_training.models.temporal_cnn.model import Config, TemporalCNN, create_model

__all__ = ["Config", "TemporalCNN", "create_model"]
