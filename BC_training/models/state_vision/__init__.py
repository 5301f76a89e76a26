"""One frame and the game state, fused."""

from BC_training.models.state_vision.model import Config, StateVision, create_model

__all__ = ["Config", "StateVision", "create_model"]
