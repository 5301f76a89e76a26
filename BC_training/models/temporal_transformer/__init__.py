"""Causal attention over a window of ticks."""

from BC_training.models.temporal_transformer.model import (
    Config,
    TemporalTransformer,
    create_model,
)

__all__ = ["Config", "TemporalTransformer", "create_model"]
