"""One device or eight: the same samples, the same losses, the same parameters."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.training.devices import choose_devices
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import records
from tests.support.made_data import make_dataset
from tests.support.small_models import SMALL

ROOT = Path(__file__).parents[2]
STEPS = 50
CASES = {
    "pure_cnn": {"augmentation": {"shift": 0.1, "noise": 0.2}, "ema_decay": 0.9},
    "temporal_transformer": {"accumulation": 2},
    "vla": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the runs on one and on eight devices, and of one that changed over halfway."""
    root = tmp_path_factory.mktemp("devices")
    data = make_dataset(root / "made.zarr").path

    def configured(kind, name, epochs):
        return {
            "dataset": {
                "path": str(data), "val_ratio": 0.2, "cache_dir": str(root / "cache"),
                "instruction": "press what is bright",
            },
            "model": {"name": name, **SMALL[name]},
            "training": {
                "batch_size": 16, "num_epochs": epochs, "save_every_n_epochs": 1,
                "lr_schedule": {"type": "constant", "min_lr": 0.0},
                "checkpoint_dir": str(root / kind / name), **CASES[name],
            },
            "evaluation": {"eval_every_n_epochs": 7}, "logging": {"log_every_n_steps": 1},
        }  # fmt: skip

    def train(devices, jobs):
        file = root / "jobs.json"
        file.write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "tests.support.on_devices", str(devices), str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    train(1, [(configured("one", name, 7), False) for name in CASES])
    out = train(8, [(configured("eight", name, 7), False) for name in CASES])
    assert "on 8 x cpu" in out
    train(8, [(configured("changed", "pure_cnn", 3), False)])
    train(1, [(configured("changed", "pure_cnn", 7), True)])
    return root


def arrays(folder):
    newest = max(int(step.name) for step in folder.iterdir() if step.name.isdigit())
    return flatten(nnx.state(store.load_model(folder / str(newest))[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [*(("eight", name) for name in CASES), ("changed", "pure_cnn")]
)
def test_devices_only_split_the_batch(runs, kind, name):
    one, other = runs / "one" / name, runs / kind / name
    losses = [
        [row["train/loss"] for row in records(folder) if "train/loss" in row]
        for folder in (one, other)
    ]
    assert len(losses[0]) == len(losses[1]) >= STEPS
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)
    expected = arrays(one)
    for key, array in arrays(other).items():
        difference = np.abs(np.asarray(array) - expected[key])
        if key.endswith("attention.project.bias"):
            # A bias of the keys moves all of a softmax alike: its gradient is rounding alone, which
            # Adam makes steps of.
            difference = np.delete(
                difference, np.s_[len(difference) // 3 : 2 * len(difference) // 3]
            )
        # Measured 3e-4 where the count changes on the way, all of it rounding that Adam enlarges.
        assert difference.max() < (1e-3 if kind == "changed" else 1e-4), key
    judged = [
        [row["val/loss"] for row in records(folder) if "val/loss" in row] for folder in (one, other)
    ]
    # A run that stops and goes on is also judged where it stopped.
    np.testing.assert_allclose(judged[0][-1], judged[1][-1], atol=1e-4)


@pytest.mark.parametrize(
    ("training", "system", "message"),
    [
        ({"batch_size": 30}, {}, r"30\) can't be split over 8 devices .*nearest that can is 32"),
        ({"batch_size": 3}, {}, "nearest that can is 8"),
        (
            {"batch_size": 36, "accumulation": 2},
            {"devices": 4},
            "can't be split in 2 parts over 4 devices .*nearest that can is 32",
        ),
        ({}, {"devices": 9}, "system.devices: 9 are asked for, there are 8"),
    ],
)
def test_what_does_not_divide_is_refused(monkeypatch, training, system, message):
    raw = {"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}}
    config = config_file.validate({**raw, "training": training, "system": system}, "the test")
    there = jax.devices() * 8
    monkeypatch.setattr(jax, "devices", lambda: there)
    with pytest.raises(UserError, match=message):
        choose_devices(config)
