"""What an untrained policy for the arena is made of, for benchmarks that need no good one."""

from typing import Any

import numpy as np
from jaxtyping import Float

from BC_training.checkpoints.bundle import Bundle, versions
from BC_training.common import config_file, game_state, instruction
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, FrameContract
from boss_arena.attributes import ACTIONS, ATTRIBUTES
from ranni_player.state_history import add_history


def arena_bundle(
    model: dict[str, Any], state: Float[np.ndarray, "N S"], height: int, width: int
) -> Bundle:
    """Returns a bundle for the arena's frames, buttons and attributes.

    Args:
        model: the section `model` of its configuration.
        state: values of the attributes that its preprocessing is fitted on.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
    """
    config = config_file.validate({"dataset": {"path": "none"}, "model": model}, "benchmark")
    reads_text = config.model.window().instruction
    fitted = Preprocess(
        frame_mean=(0.5,) * 3,
        frame_std=(0.2,) * 3,
        state=game_state.fit_schema(ATTRIBUTES, add_history(state, None)[0].joined()),
        instructions=instruction.fit(["attack whenever you can"], reads_text)
        if reads_text
        else None,
    )
    frame = FrameContract(
        height=height, width=width, channels=3, color_order="RGB", resize="none", fps=17.0
    )
    spec = DataSpec(actions=ACTIONS, state=ATTRIBUTES, frame=frame, features=fitted.features())
    return Bundle(
        config=config,
        spec=spec,
        preprocess=fitted,
        thresholds=(0.5,) * len(ACTIONS),
        step=0,
        epoch=0,
        metrics=None,
        versions=versions(),
    )
