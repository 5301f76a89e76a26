"""A recurrent network over a window of ticks."""

from BC_training.models.temporal_lstm.model import Config, TemporalLSTM, create_model

__all__ = ["Config", "TemporalLSTM", "create_model"]
