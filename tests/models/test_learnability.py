"""What each family is for: a task that it solves and that a model without its sense can't."""

import json

import numpy as np
import pytest
import zarr

from BC_training.common import config_file
from BC_training.training import trainer

ENCODER = {
    "backbone": {"type": "conv", "stem": 2, "features": [8], "depth": 0},
    "grid": [2, 2],
    "width": 32,
}
SINGLE = {"pure_cnn": {"conv_stem": 2, "conv_features": [8], "conv_depth": 0, "grid": [2, 2]}}
TEMPORAL = {
    "temporal_cnn": {
        "backbone": ENCODER["backbone"],
        "width": 8,
        "features": [16],
        "ticks": 8,
    },
    "temporal_lstm": {"encoder": ENCODER, "hidden": 32, "ticks": 8},
    "temporal_transformer": {"encoder": ENCODER, "layers": 1, "heads": 2, "ticks": 8},
}
VLA = {
    "backbone": {"type": "patch", "size": 8, "width": 32},
    "width": 32,
    "layers": 2,
    "heads": 2,
    "chunk": 2,
    "dropout_rate": 0.0,
}
SOLVED, AT_CHANCE = 0.95, 0.7
"""Exact match of one button that is pressed half of the time when it matters."""


def write(path, episodes, keys=("press",), attributes=()):
    """A dataset of (frames [N, 3, 16, 16], actions [N, A], state [N, S], episode attributes)."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs.update({"keys": list(keys), "attributes": list(attributes), "fps": 17.0})
    for number, (frames, actions, state, about) in enumerate(episodes):
        group = root.create_group(f"episode_{number}")
        group.attrs.update(about)
        arrays = {"frames": frames, "actions": actions}
        if attributes:
            arrays["state"] = state.astype(np.float32)
        for name, array in arrays.items():
            group.create_array(
                name, shape=array.shape, dtype=array.dtype, chunks=array.shape,
                config={"write_empty_chunks": True},
            )[:] = array  # fmt: skip


def noise(rng, length):
    return rng.integers(0, 60, (length, 3, 16, 16), dtype=np.uint8)


def exact_match(tmp_path, path, name, model, epochs=8):
    """Of the best checkpoint on the validation split."""
    raw = {
        "dataset": {
            "path": str(path), "train_ratio": 0.8, "val_ratio": 0.2,
            "cache_dir": str(tmp_path / "cache"),
        },
        "model": {"name": name, **model},
        "training": {
            "num_epochs": epochs, "learning_rate": 0.01, "batch_size": 32,
            "checkpoint_dir": str(tmp_path / name), "lr_schedule": {"warmup_epochs": 1.0},
        },
        "evaluation": {"eval_every_n_epochs": epochs},
    }  # fmt: skip
    folder = trainer.train(config_file.validate(raw, "the test"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return max(line["val/exact_match"] for line in lines if "val/exact_match" in line)


@pytest.fixture(scope="module")
def delayed_blows(tmp_path_factory):
    """The boss raises its arm (a bright half) and holds it. The blow falls five ticks later, and
    until then the picture stays the same: pressing is right from the third tick of holding on."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(12):
        frames, actions = [noise(rng, int(rng.integers(3, 9)))], []
        actions.append(np.zeros((len(frames[0]), 1), bool))
        for _ in range(8):
            held = noise(rng, 6)
            held[:, :, :8] += 150
            frames += [held, noise(rng, int(rng.integers(3, 9)))]
            actions += [np.arange(6)[:, None] >= 3, np.zeros((len(frames[-1]), 1), bool)]
        episodes.append((np.concatenate(frames), np.concatenate(actions), None, {}))
    path = tmp_path_factory.mktemp("blows") / "blows.zarr"
    write(path, episodes)
    share = np.concatenate([actions for _, actions, _, _ in episodes]).mean()
    assert 0.2 < share < 0.3  # never pressing is right in three quarters of the ticks
    return path


@pytest.mark.parametrize("name", TEMPORAL)
def test_elapsed_time_is_seen_by_temporal_models(delayed_blows, tmp_path, name):
    assert exact_match(tmp_path, delayed_blows, name, TEMPORAL[name], epochs=4) > SOLVED


def test_elapsed_time_is_not_seen_in_a_single_frame(delayed_blows, tmp_path):
    assert exact_match(tmp_path, delayed_blows, "pure_cnn", SINGLE["pure_cnn"], epochs=4) < 0.8


@pytest.fixture(scope="module")
def tired(tmp_path_factory):
    """A bright picture calls for the button, but only with stamina, which isn't drawn."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(10):
        frames, called = noise(rng, 60), rng.random(60) < 0.5
        frames[called] += 150
        stamina = rng.uniform(0, 100, 60)
        state = np.stack([stamina, np.full(60, 100.0)], axis=1)
        episodes.append((frames, (called & (stamina > 50))[:, None], state, {}))
    path = tmp_path_factory.mktemp("tired") / "tired.zarr"
    write(path, episodes, attributes=("HeroSp", "HeroMaxSp"))
    return path


def test_stamina_that_is_not_drawn_is_read_from_the_state(tired, tmp_path):
    model = {"encoder": {**ENCODER, "state": True, "state_features": [32]}, "dense_features": [32]}
    assert exact_match(tmp_path, tired, "state_vision", model) > SOLVED
    # From the picture alone three quarters can be right; the validation split is small.
    assert exact_match(tmp_path, tired, "pure_cnn", SINGLE["pure_cnn"]) < 0.85


@pytest.mark.slow
def test_an_instruction_turns_the_right_button_around(tmp_path):
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(16):
        frames, bright = noise(rng, 40), rng.random(40) < 0.5
        frames[bright] += 150
        wanted = bright if number % 2 else ~bright
        about = {"instruction": ("avoid the light", "strike at the light")[number % 2]}
        episodes.append((frames, wanted[:, None], None, about))
    path = tmp_path / "told.zarr"
    write(path, episodes)
    assert exact_match(tmp_path, path, "vla", {**VLA, "state": False}) > SOLVED
    assert exact_match(tmp_path, path, "pure_cnn", SINGLE["pure_cnn"]) < AT_CHANCE
