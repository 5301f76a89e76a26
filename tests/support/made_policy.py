"""Checkpoints of untrained policies."""

from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from BC_training.checkpoints.bundle import Bundle, build
from BC_training.checkpoints.state import TrainState
from BC_training.checkpoints.store import Checkpoints
from BC_training.common import config_file
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, FrameContract

ACTIONS = (
    *("move_left", "lock_on", "dodge_roll/dash", "move_right"),
    *("attack", "move_back", "move_forward"),
)
MODEL = {"name": "pure_cnn", "conv_stem": 2, "conv_features": [4, 8], "dense_features": [8]}


def made_bundle(actions=ACTIONS, state=(), config=None, **frame) -> Bundle:
    """A bundle for the simulated fight, or for whatever takes these actions and frames."""
    contract = {"height": 36, "width": 64, "channels": 3, "color_order": "RGB", "fps": 17.0}
    contract |= {"resize": "none"} | frame
    plain = {"dataset": {"path": "d"}, "model": MODEL}
    return Bundle(
        config=config or config_file.validate(plain, "the test"),
        spec=DataSpec(actions=actions, state=state, frame=FrameContract(**contract)),
        preprocess=Preprocess(frame_mean=(0.0,) * 3, frame_std=(1.0,) * 3),
        thresholds=(0.5,) * len(actions),
        step=1,
        epoch=1,
        metrics=None,
        versions={},
    )


def save_policy(folder: Path, bundle: Bundle) -> Path:
    """Saves an untrained model with this bundle; gives the checkpoint's folder."""
    model = build(bundle.config, bundle.spec)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    state = TrainState(jnp.int32(1), params, rest, {"count": jnp.zeros(())}, jnp.int32(-1), None)
    store = Checkpoints(folder, keep_last=1, best_metric="loss")
    store.save(state, bundle)
    return folder / "1"
