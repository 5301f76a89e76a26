"""Vision, language, action: one transformer over patches, state and an instruction."""

from BC_training.models.vla.model import VLA, Config, create_model

__all__ = ["VLA", "Config", "create_model"]
