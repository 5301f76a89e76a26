"""What every model owes, over every model found, and over one that uses the whole contract."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from BC_training import models
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import build
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.networks import efficientnet, resnet
from BC_training.play.policy import Policy
from BC_training.training import trainer
from gameplay_pipeline.plumbing.errors import UserError
from tests.support import window_model
from tests.support.commands import records
from tests.support.in_play import observations, outputs, replay
from tests.support.made_data import make_dataset
from tests.support.small_models import SMALL

NAMES = (*models.available(), "window_model")
SLOW_LEARNERS = {
    "vla": {
        "num_epochs": 30,
        "save_every_n_epochs": 29,
        "learning_rate": 0.003,
        "use_class_weights": True,
    }
}


@pytest.fixture(scope="module", params=NAMES)
def setting(request, tmp_path_factory):
    """A small model of each kind, to be trained on the made dataset."""
    folder = tmp_path_factory.mktemp(request.param)
    made = make_dataset(folder / "made.zarr")
    load = models.load
    raw = {
        "dataset": {
            "path": str(made.path),
            "train_ratio": 0.8,
            "val_ratio": 0.2,
            "cache_dir": str(folder / "cache"),
            "instruction": "press what is bright",
        },
        "model": {"name": request.param, **SMALL.get(request.param, {})},
        "training": {
            "batch_size": 16,
            "num_epochs": 10,
            "learning_rate": 0.01,
            "save_every_n_epochs": 9,
            "checkpoint_dir": str(folder / "run"),
            **SLOW_LEARNERS.get(request.param, {}),
        },
        # An evaluation may write a checkpoint, which takes longer than all steps of an epoch.
        "evaluation": {"eval_every_n_epochs": 30},
    }
    with pytest.MonkeyPatch.context() as patch:
        # The published sizes take minutes to compile and train on a CPU.
        patch.setattr(resnet, "RESNET_WIDTH", 8)
        patch.setattr(resnet, "RESNETS", {18: (resnet.BasicBlock, (1, 1, 1, 1))})
        patch.setattr(efficientnet, "EFFICIENTNETS", {"b0": (0.25, 1.0)})
        patch.setattr(efficientnet, "MBCONVS", ((1, 3, 1, 32, 1), (2, 3, 2, 64, 2)))
        patch.setattr(
            models, "load", lambda name: window_model if name == "window_model" else load(name)
        )
        yield config_file.validate(raw, "the test"), made


@pytest.fixture
def config(setting, tmp_path):
    return changed(setting[0], checkpoint_dir=str(tmp_path / "run"))


@pytest.fixture(scope="module")
def trained(setting):
    """A run that was never interrupted."""
    return trainer.train(setting[0])


@pytest.fixture(scope="module")
def saved(trained):
    """The bundle and the model of that run's best checkpoint."""
    return checkpoints.load_model(checkpoints.locate(trained))


@pytest.fixture(scope="module")
def loaded(saved):
    return Policy(*saved)


@pytest.fixture
def policy(loaded):
    """The best checkpoint of that run, before a fight."""
    loaded.reset()
    return loaded


def changed(config, **training):
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def final_arrays(folder):
    last = max(int(step.name) for step in folder.iterdir() if step.name.isdigit())
    bundle, model = checkpoints.load_model(folder / str(last))
    return bundle, flatten(nnx.state(model))


def observed(config, samples):
    """What a model is built for, and what it sees of some training samples."""
    data = open_data(config)
    fitted, spec = data.preprocess, data.spec
    return spec, fitted(data.splits["train"].batch(samples).observation)


def test_shapes_dtype_and_determinism(config):
    window = config.model.window()
    spec, observation = observed(config, np.arange(5))
    other = config.model_copy(update={"system": config.system.model_copy(update={"seed": 1})})
    logits, same, different = (
        outputs(build(c, spec), observation) for c in (config, config, other)
    )
    assert logits.shape == (5, window.chunk, 3)
    assert logits.dtype == jnp.float32
    assert np.array_equal(logits, same)
    assert not np.array_equal(logits, different)


def test_a_ticks_encoding_depends_on_that_tick_alone(config):
    spec, observation = observed(config, np.arange(6, 10))
    graph, state = nnx.split(build(config, spec))
    encode = jax.jit(lambda tick, rngs: nnx.merge(graph, state).encode(tick, rngs))
    now = jax.tree.map(lambda x: x[:, -1], observation)
    both = encode(now, None)
    alone = encode(jax.tree.map(lambda x: x[:1], now), None)
    assert np.allclose(both[:1], alone, atol=1e-5)


def test_ticks_from_before_the_start_count_for_nothing(config):
    if config.model.window().ticks == 1:
        pytest.skip("sees one tick")
    spec, observation = observed(config, np.arange(8, 12))
    model = build(config, spec)
    features = model(observation).features
    valid = jnp.ones(features.shape[:2], bool).at[:, 0].set(False)
    other = features.at[:, 0].add(1.0)
    decode = nnx.jit(lambda model, *seen: model.decode(*seen, None))
    assert np.array_equal(decode(model, features, valid), decode(model, other, valid))
    everything = jnp.ones_like(valid)
    assert not np.array_equal(decode(model, features, everything), decode(model, other, everything))


@pytest.mark.slow  # with the training that other tests use too
def test_the_loss_falls_on_a_learnable_set(trained):
    losses = [row["train/loss"] for row in records(trained) if "train/loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    bundle, _ = final_arrays(trained)
    assert bundle.metrics["macro_f1"] > 0.8


def test_policy_sees_and_says_what_the_dataset_path_does_tick_by_tick(setting, policy, saved):
    replay(policy, saved[1], setting[1])


def test_reset_forgets_the_fight(setting, policy):
    seen = list(observations(setting[1], 0, policy.bundle.spec.state))[:8]
    first = [policy.act(observation).probabilities for observation in seen]
    policy.reset()
    again = [policy.act(observation).probabilities for observation in seen]
    assert np.array_equal(first, again)
    assert policy.act(seen[0]).pressed.dtype == bool


def test_a_policy_compiles_nothing_once_it_is_loaded(setting, policy):
    before = policy._tick._cache_size()
    for observation in list(observations(setting[1], 0, policy.bundle.spec.state))[:6]:
        policy.act(observation)
    policy.reset()
    policy.act(observation)
    assert policy._tick._cache_size() == before


def test_a_policy_refuses_a_frame_it_was_not_trained_on(policy):
    state = dict.fromkeys(policy.bundle.spec.state, 0.0)
    with pytest.raises(UserError, match=r"\(10, 32, 3\) uint8; this policy was trained on \(24"):
        policy.act({"frame": np.zeros((10, 32, 3), np.uint8), **state})


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, trained):
    """Cut back to its last checkpoint but one; in tests/project a run is really killed."""
    shutil.copytree(trained, config.run_dir())
    steps = sorted(int(folder.name) for folder in trained.iterdir() if folder.name.isdigit())
    assert len(steps) > 1
    shutil.rmtree(config.run_dir() / str(steps[-1]))
    trainer.train(config, resume=True)
    one, other = final_arrays(trained), final_arrays(config.run_dir())
    assert one[0].step == other[0].step
    assert one[0].metrics == other[0].metrics
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert np.array_equal(one[1][name], other[1][name]), name


def test_the_default_pure_cnn_has_2_to_3_million_parameters(made, tmp_path):
    raw = {"dataset": {"path": str(made.path)}, "model": {"name": "pure_cnn"}}
    config = config_file.validate(raw, "the test")
    spec = open_data(config).spec
    model = nnx.eval_shape(lambda: build(config, spec))
    assert 2e6 < sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) < 3e6


def test_a_state_without_layers_of_its_own_is_read_as_it_is(made, tmp_path):
    model = {"name": "state_vision", **SMALL["state_vision"]}
    model["encoder"] = {**model["encoder"], "state_features": []}
    raw = {
        "dataset": {"path": str(made.path), "cache_dir": str(tmp_path / "cache")},
        "model": model,
    }
    config = config_file.validate(raw, "the test")
    spec, observation = observed(config, np.arange(5))
    assert build(config, spec)(observation).logits.shape == (5, 1, 3)


def test_a_model_that_needs_state_is_refused_without_it(made, monkeypatch):
    monkeypatch.setattr(models, "load", lambda name: window_model)
    raw = {
        "dataset": {"path": str(made.path), "use_state": False},
        "model": {"name": "window_model"},
    }
    with pytest.raises(UserError, match=r"window_model reads the game state.*use_state is false"):
        open_data(config_file.validate(raw, "the test"))
