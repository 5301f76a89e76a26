"""What a policy is shown in play, beside what training shows it of the recording."""

import copy

import jax
import numpy as np
from flax import nnx

from BC_training.checkpoints.bundle import Bundle, build
from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.common.episodes import split
from BC_training.play.policy import Policy
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, open_dataset

TICKS = 60
MODEL = {
    "name": "temporal_transformer",
    "encoder": {
        "backbone": {"type": "conv", "stem": 2, "features": [8, 16], "depth": 0},
        "grid": [2, 2],
        "width": 32,
        "past_actions": True,
    },
    "ticks": 4,
    "stride": 2,
    "layers": 1,
    "heads": 2,
}


def observations(made, number, names):
    """An episode as an environment would give it."""
    for frame, state in zip(made.frames[number], made.state[number], strict=True):
        values = dict(zip(names, map(float, state), strict=True)) if names else {}
        yield {"frame": np.moveaxis(frame, 0, -1), **values}


outputs = nnx.jit(lambda model, observation: model(observation).logits)
"""Compiled once for each shape; a lambda inside of a test would be compiled each time."""


def replay(policy, model, made):
    """Plays the one validation episode tick by tick; what is said must be what the model says of
    the dataset's samples."""
    config, preprocess = policy.bundle.config, policy.bundle.preprocess
    data = open_data(config)
    validation = data.splits["val"]
    parts = np.split(np.arange(len(validation)), len(validation) // 5)
    batches = [preprocess(validation.batch(part).observation) for part in parts]
    logits = np.concatenate([outputs(model, batch)[:, 0] for batch in batches])
    expected = np.asarray(jax.nn.sigmoid(logits))
    policy.reset()
    ratios = config.dataset.train_ratio, config.dataset.val_ratio
    (number,) = split(data.episodes, *ratios, config.dataset.split_seed)[1]
    for sample, observation in enumerate(observations(made, number, policy.bundle.spec.state)):
        previous = made.actions[number][sample - 1] if sample else None  # teacher forcing
        said = policy.act(observation, previous).probabilities
        assert np.allclose(said, expected[sample], atol=1e-5)
    assert sample == len(validation) - 1


def play_and_record(env, path):
    """Presses at random: what was seen in play and what was pressed, for each recorded episode."""
    frame = env.observation_space["frame"].shape
    names = env.attribute_names
    info = DatasetInfo(
        keys=env.action_names,
        attributes=names,
        height=frame[0],
        width=frame[1],
        fps=env.fps,
        color_order=env.color_order,
        resize=env.resize_method,
        source={},
    )
    open_dataset(path, info, 3)
    env.action_space.seed(1)
    played = {}
    for number in range(2):
        seen, pressed = played[number] = [], []
        with EpisodeWriter(path, number, info, 3) as writer:
            observation, _ = env.reset(seed=number)
            for _ in range(TICKS):
                action = env.action_space.sample().astype(bool)
                seen.append(copy.deepcopy(observation))
                pressed.append(action)
                writer.append(
                    observation["frame"],
                    action,
                    np.array([observation[name] for name in names], np.float32),
                )
                observation, _, terminated, truncated, _ = env.step(action.astype(np.int8))
                if terminated or truncated:
                    break
            writer.finish({})
    return played


def same_in_play_and_training(env, folder, state=True):
    played = play_and_record(env, folder / "recorded.zarr")
    raw = {
        "dataset": {
            "path": str(folder / "recorded.zarr"), "train_ratio": 0.5, "val_ratio": 0.5,
            "cache_dir": str(folder),
        },
        "model": {**MODEL, "encoder": {**MODEL["encoder"], "state": state}},
    }  # fmt: skip
    config = config_file.validate(raw, "the test")
    data = open_data(config)
    fitted, spec = data.preprocess, data.spec
    model = build(config, spec)
    bundle = Bundle(
        config=config, spec=spec, preprocess=fitted,
        thresholds=(0.5,) * len(spec.actions), step=0, epoch=0, metrics=None, versions={},
    )  # fmt: skip
    policy = Policy(bundle, model)
    validation = data.splits["val"]
    (number,) = split(data.episodes, 0.5, 0.5, config.dataset.split_seed)[1]
    seen, pressed = played[number]
    assert len(validation) == len(seen) > 10
    np.testing.assert_array_equal(validation.actions, pressed)
    model = nnx.jit(model)
    said, expected = [], []
    for tick, observation in enumerate(seen):
        previous = pressed[tick - 1] if tick else None
        said.append(policy.act(observation, previous).probabilities)
        batch = validation.batch(np.array([tick]))
        logits = model(fitted(batch.observation)).logits
        expected.append(jax.nn.sigmoid(logits[0, 0]))
    np.testing.assert_allclose(said, expected, atol=1e-5)
    assert np.ptp(said, axis=0).max() > 1e-3  # what was seen does make a difference
