"""What a checkpoint is said to go by, on models that go by one thing alone."""

import copy

import numpy as np
import pytest

from BC_training import evaluate
from BC_training.analysis.policy import diagnosis
from BC_training.checkpoints import store as checkpoints
from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.training import trainer
from tests.support.commands import run
from tests.support.made_data import make_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model that reads the state too, on buttons that only the frames tell."""
    folder = tmp_path_factory.mktemp("diagnosed")
    made = make_dataset(folder / "made.zarr")
    raw = {
        "dataset": {
            "path": str(made.path), "val_ratio": 0.2, "cache_dir": str(folder / "cache"),
        },
        "model": {
            "name": "state_vision",
            "encoder": {
                "backbone": {"type": "conv", "stem": 2, "features": [8, 16], "depth": 0},
                "grid": [2, 2], "width": 32, "state": True, "past_actions": True,
            },
        },
        "training": {
            "batch_size": 16, "num_epochs": 30, "learning_rate": 0.01, "save_every_n_epochs": 30,
            "checkpoint_dir": str(folder / "run"),
        },
        "evaluation": {"eval_every_n_epochs": 10},
    }  # fmt: skip
    return trainer.train(config_file.validate(raw, "the test"))


@pytest.fixture(scope="module")
def opened(trained):
    bundle, model = checkpoints.load_model(checkpoints.locate(trained))
    return bundle, model, open_data(bundle.config)


def test_taking_the_sense_away_that_it_goes_by_costs_the_most(opened):
    bundle, model, data = opened
    dataset = data.splits["val"]
    found = diagnosis.interventions(bundle, model, dataset, 16)
    assert list(found) == [
        "as recorded", "frames blanked", "frames from elsewhere", "state blanked",
        "past actions blanked",
    ]  # fmt: skip

    def right(probabilities):
        pressed = probabilities >= np.array(bundle.thresholds)
        return (pressed == dataset.actions).all(axis=1).mean()

    scores = {name: right(probabilities) for name, probabilities in found.items()}
    assert scores["as recorded"] > 0.8
    assert scores["frames blanked"] < 0.6
    assert scores["frames from elsewhere"] < 0.6
    assert scores["state blanked"] > 0.7


def test_presses_are_timed_and_the_worst_misses_found(opened):
    bundle, _, data = opened
    dataset = data.splits["val"]
    late = np.zeros_like(dataset.actions)
    late[2:] = dataset.actions[:-2]
    late[:, 0] = False  # never pressed
    errors = diagnosis._grouped(late, dataset, bundle)
    assert set(errors["left", "all"]) == {None}
    hits = [error for error in errors["hit", "all"] if error is not None]
    assert np.median(hits) == 2
    probabilities = np.where(dataset.actions, 0.9, 0.1)
    probabilities[:, 0] = np.linspace(0.0, 0.2, len(probabilities))
    found = diagnosis.misses(probabilities, dataset, (0.5,) * 3)
    assert {action for _, action, _ in found} == {0}
    assert [most for *_, most in found] == sorted(most for *_, most in found)


def test_ticks_that_nobody_judged_are_no_mistakes(opened):
    bundle, _, data = opened
    dataset = copy.copy(data.splits["val"])
    judged = np.arange(len(dataset)) % 20 >= 10
    dataset._tables = dataset._tables._replace(judged=judged)
    pressed = np.where(judged[:, None], dataset.actions, ~dataset.actions)
    assert diagnosis.score(bundle, dataset, pressed)["exact_match"] == 1
    nothing = np.zeros(pressed.shape)
    missed = diagnosis.misses(nothing, dataset, (0.5,) * 3)
    assert missed
    assert all(judged[sample] for sample, *_ in missed)
    judged_presses = sum(
        len(errors)
        for (_, during), errors in diagnosis._grouped(nothing > 0, dataset, bundle).items()
        if during == "all"
    )
    whole = diagnosis._grouped(nothing > 0, data.splits["val"], bundle)
    assert 0 < judged_presses < sum(len(e) for (_, during), e in whole.items() if during == "all")


def test_the_command_prints_it_and_draws(trained, tmp_path):
    done = run(evaluate.main, "--checkpoint", trained, "--diagnose", tmp_path / "looks")
    assert done.status == 0, done.err
    for text in ("frames blanked", "its own past", "Presses: ticks late", "missed %"):
        assert text in done.out
