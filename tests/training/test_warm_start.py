"""Runs that begin with another's parameters."""

import re

import numpy as np
import pytest
from flax import nnx

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import build, read_bundle
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.training.warm_start import WarmStart
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import last, train
from tests.support.made_data import make_dataset
from tests.support.made_policy import ACTIONS, MODEL, made_bundle, save_policy


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("source"), made_bundle())


def configured(source, **model):
    raw = {
        "dataset": {"path": "d"},
        "model": {**MODEL, **model},
        "training": {"init_from": str(source)},
        "system": {"seed": 7},
    }
    return config_file.validate(raw, "the test")


def begun(source, actions=ACTIONS, **model):
    """Arrays before and after, and those of the checkpoint."""
    config, spec = configured(source, **model), made_bundle(actions).spec
    start = WarmStart.load(config)
    assert start is not None
    fresh = build(config, spec)
    before = flatten(nnx.state(fresh))
    after = flatten(nnx.state(start.fill(fresh, config, spec)))
    return before, after, flatten(nnx.state(start.model))


def test_all_parameters_are_the_checkpoints(source, capsys):
    before, after, stored = begun(source)
    assert all(np.array_equal(after[name], stored[name]) for name in stored)
    assert any(not np.array_equal(before[name], stored[name]) for name in stored)
    assert "normalisation of" in capsys.readouterr().out


@pytest.mark.parametrize("actions", [ACTIONS[:3], (*ACTIONS[1:], ACTIONS[0])])
def test_a_head_for_other_actions_begins_anew_and_nothing_else_does(source, actions, capsys):
    before, after, stored = begun(source, actions)
    head = {name for name in after if name.startswith("head.out")}
    assert head
    for name in after:
        assert np.array_equal(after[name], (before if name in head else stored)[name]), name
    assert "head.out.bias, head.out.kernel begin anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dense_features": [16]}, r"kernel has shape \(\d+, 8\), not \(\d+, 16\)"),
        ({"conv_features": [4]}, "is not known"),
        ({"name": "temporal_lstm"}, "is a pure_cnn, but model.name is temporal_lstm"),
    ],
)
def test_another_architecture_is_refused_by_name(source, model, message):
    if "name" in model:
        config = config_file.validate(
            {"dataset": {"path": "d"}, "model": model, "training": {"init_from": str(source)}}, "t"
        )
        with pytest.raises(UserError, match=message):
            WarmStart.load(config)
        return
    with pytest.raises(UserError, match=message):
        begun(source, **model)


def test_a_mixed_run_that_goes_on_equals_one_that_was_not_stopped(made, tmp_path):
    first, other = tmp_path / "first", make_dataset(tmp_path / "other.zarr", lengths=(45, 33, 27))
    assert train(made.path, first, "--training.num_epochs", "1").status == 0
    paths = f"[{made.path}, {other.path}]"
    options = (
        *("--init_from", first, "--dataset.shares", "[0.75, 0.25]"),
        *("--training.lr_schedule.type", "constant", "--training.save_every_n_epochs", "1"),
        *("--training.steps_per_epoch", "5"),
    )
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    done = train(paths, whole, *options, "--training.num_epochs", "2")
    assert done.status == 0, done.err
    assert "12 of 135 ticks of" in done.out
    assert last(whole).name == "10"
    assert re.search(r"\b4 of \d+ ticks\s+of", done.out)
    assert train(paths, halves, *options, "--training.num_epochs", "1").status == 0
    preprocess = read_bundle(last(first)).preprocess
    first.rename(tmp_path / "elsewhere")  # a run that goes on needs it no more
    assert train(paths, halves, *options, "--training.num_epochs", "2", "--resume").status == 0
    one, two = (checkpoints.load_model(last(folder))[1] for folder in (whole, halves))
    ones, others = (flatten(nnx.state(model)) for model in (one, two))
    assert all(np.array_equal(ones[name], others[name]) for name in ones)
    assert read_bundle(last(whole)).preprocess == preprocess
    longer = ("--training.num_epochs", "3", "--resume")
    swapped = train(f"[{other.path}, {made.path}]", halves, *options, *longer)
    assert "its episodes are not those from which step 10 was made" in swapped.err
    changed = train(paths, halves, *options[:3], "[0.5, 0.5]", *options[4:], "--resume")
    assert "dataset.shares: [0.75, 0.25] then, [0.5, 0.5] now" in changed.err
