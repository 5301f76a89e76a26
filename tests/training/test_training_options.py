"""What training can be told besides the model: each option does what it says, and resumes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.training import devices, trainer
from BC_training.training.train_step import TrainStep
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.made_data import make_dataset

ROOT = Path(__file__).parents[2]
MODEL = {
    "name": "pure_cnn",
    "conv_stem": 2,
    "conv_features": [8, 16],
    "conv_depth": 0,
    "dense_features": [16],
}
PLAIN = {"use_batch_norm": False, "dropout_rate": 0.0}


@pytest.fixture
def configure(made, tmp_path):
    def configured(run="run", model=PLAIN, validation=0.0, **training):
        raw = {
            "dataset": {
                "path": str(made.path), "val_ratio": validation,
                "cache_dir": str(tmp_path / "cache"),
            },
            "model": {**MODEL, **model},
            "training": {
                "batch_size": 16, "num_epochs": 2, "checkpoint_dir": str(tmp_path / run),
                "learning_rate": 0.003, **training,
            },
        }  # fmt: skip
        return config_file.validate(raw, "the test")

    return configured


def arrays(folder):
    last = max(int(found.name) for found in folder.iterdir() if found.name.isdigit())
    return flatten(nnx.state(checkpoints.load_model(folder / str(last))[1]))


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_a_batch_in_parts_is_the_same_step(configure):
    whole, parts = configure("whole"), configure("parts", accumulation=4)
    found = [arrays(trainer.train(config)) for config in (whole, parts)]
    for name in found[0]:
        assert np.allclose(found[0][name], found[1][name], atol=2e-4), name
    # AdamW hardly minds gradients that are a multiple of the right ones.
    assert np.allclose(*(losses(config.run_dir()) for config in (whole, parts)), atol=1e-4)
    with pytest.raises(
        UserError, match=r"batch_size \(16\) can't be split into accumulation \(3\)"
    ):
        configure(accumulation=3)


def test_the_average_of_the_parameters_is_what_is_evaluated_and_played(configure):
    decay, config = 0.9, configure(ema_decay=0.9)
    live, expected = [], None
    make = trainer.TrainStep

    def watched(*arguments):
        step = make(*arguments)

        def run(state, batch, resident):
            live.append(jax.tree.map(np.array, state.params))
            state, figures = step(state, batch, resident)
            live.append(jax.tree.map(np.array, state.params))
            return state, figures

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainStep", watched)
        folder = trainer.train(config)
    expected = live[0]
    for step, params in enumerate(live[1::2]):
        share = min(decay, (1 + step) / (10 + step))
        expected = jax.tree.map(lambda a, b, s=share: s * a + (1 - s) * b, expected, params)
    found = arrays(folder)
    for name, value in flatten(expected).items():
        assert np.allclose(found[name], value, atol=1e-5), name
    away = [np.abs(found[name] - value).max() for name, value in flatten(live[-1]).items()]
    assert max(away) > 1e-4


def test_a_resumed_run_compiles_its_step_once(configure):
    trainer.train(configure(num_epochs=1))
    before = TrainStep.__call__._cache_size()
    trainer.train(configure(num_epochs=2), resume=True)
    assert TrainStep.__call__._cache_size() == before + 1


def test_a_checkpoint_of_another_accelerator_loads_here(configure):
    checkpoint = checkpoints.locate(trainer.train(configure(num_epochs=1)))
    here = flatten(nnx.state(checkpoints.load_model(checkpoint)[1]))
    written = checkpoint / "model" / "_sharding"
    text = written.read_text()
    # A device that isn't here; JSON within JSON.
    assert r"\"id\": 0" in text
    written.write_text(text.replace(r"\"id\": 0", r"\"id\": 7"))
    there = flatten(nnx.state(checkpoints.load_model(checkpoint)[1]))
    assert all(np.array_equal(here[name], there[name]) for name in here)


@pytest.mark.slow
def test_an_average_resumes_bit_for_bit(configure):
    options = {"ema_decay": 0.95, "augmentation": {"shift": 0.1, "noise": 0.1}, "model": {}}
    options["save_every_n_epochs"] = 1
    whole, halves = configure("whole", **options), configure("halves", **options)
    trainer.train(whole)
    make = trainer.TrainStep

    def failing(*arguments):
        step, done = make(*arguments), []

        def run(state, batch, resident):
            done.append(1)
            if len(done) > 9:
                raise RuntimeError("killed")
            return step(state, batch, resident)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainStep", failing)
        with pytest.raises(RuntimeError, match="killed"):
            trainer.train(halves)
    assert [f.name for f in halves.run_dir().iterdir() if f.name.isdigit()] == ["8"]
    trainer.train(halves, resume=True)
    one, other = arrays(whole.run_dir()), arrays(halves.run_dir())
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_bfloat16_keeps_float32_parameters_and_learns(configure):
    config = configure(num_epochs=12, precision="bfloat16", model={})
    folder = trainer.train(config)
    assert {value.dtype for value in arrays(folder).values()} == {jnp.dtype("float32")}
    found = losses(folder)
    assert found[-1] < 0.8 * found[0]
    plain = losses(trainer.train(configure("plain", num_epochs=12, model={})))
    assert found != plain
    assert np.allclose(found, plain, atol=0.15)


def test_bfloat16_is_refused_where_a_gpu_would_only_emulate_it(configure, monkeypatch):
    class Old:
        compute_capability, device_kind = "7.5", "Tesla T4"

    monkeypatch.setattr(devices, "first_device", Old)
    with pytest.raises(UserError, match=r"Tesla T4 can't compute in bfloat16.*set it to float32"):
        trainer.train(configure(precision="bfloat16"))


def test_a_run_without_progress_ends_early_and_stays_ended(configure, capsys):
    config = configure(
        validation=0.2, num_epochs=9, early_stopping_patience=2, learning_rate=1e-9,
        lr_schedule={"type": "constant", "min_lr": 0.0},
    )  # fmt: skip
    folder = trainer.train(config)
    assert "exact_match has not improved for 2 epochs; stopping" in capsys.readouterr().out
    last = max(int(found.name) for found in folder.iterdir() if found.name.isdigit())
    assert read_bundle(folder / str(last)).epoch == 3
    trainer.train(config, resume=True)
    assert max(int(found.name) for found in folder.iterdir() if found.name.isdigit()) == last


def test_each_option_reaches_the_step(configure):
    plain = losses(trainer.train(configure("plain", num_epochs=1)))
    for number, training in enumerate((
        {"use_class_weights": True},
        {"loss": {"type": "focal"}},
        {"loss": {"onset_weight": 4.0}},
        {"augmentation": {"cutout": 0.5}},
        {"augmentation": {"mirror": {"probability": 1.0, "actions": [["left", "right"]]}}},
    )):  # fmt: skip
        other = configure(f"other{number}", num_epochs=1, **training)
        assert losses(trainer.train(other)) != plain, training


@pytest.mark.slow
def test_an_auxiliary_attribute_is_learned_and_play_needs_no_state(tmp_path):
    made = make_dataset(tmp_path / "made.zarr", whole_state=True)
    raw = {
        "dataset": {
            "path": str(made.path), "val_ratio": 0.2, "cache_dir": str(tmp_path / "cache"),
        },
        "model": {**MODEL, "auxiliary": "hint", "auxiliary_weight": 1.0},
        "training": {
            "batch_size": 16, "num_epochs": 30, "learning_rate": 0.01,
            "checkpoint_dir": str(tmp_path / "run"),
        },
        "evaluation": {"eval_every_n_epochs": 30},
    }  # fmt: skip
    config = config_file.validate(raw, "the test")
    folder = trainer.train(config)
    data = open_data(config)
    bundle, model = checkpoints.load_model(checkpoints.locate(folder))
    validation = data.splits["val"]
    batch = bundle.preprocess.batch(validation.batch(np.arange(len(validation))), None)
    told = model.auxiliary(model(batch.observation).features[:, -1])
    assert float((told.argmax(axis=-1) == batch.auxiliary).mean()) > 0.9
    assert not config.model.window().state
    refused = config_file.validate({**raw, "model": {**MODEL, "auxiliary": "mana"}}, "the test")
    with pytest.raises(UserError, match=r"no attribute 'mana', only hp, hint"):
        trainer.train(refused)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"chunk": 21}, r"model.chunk: 21 ticks .*episode_3 has only 20"),
        (
            {"name": "temporal_lstm", "ticks": 30, "stride": 2},
            r"spans 59 ticks, but the longest .* has 50; lower model.ticks",
        ),
        ({"name": "vla"}, r"the model reads an instruction, but this episode has none"),
        ({"name": "vla", "heads": 5}, r"width \(192\) can't be split among 5 heads"),
    ],
)
def test_a_window_that_the_dataset_can_not_fill_is_refused(made, tmp_path, model, message):
    base = {} if "name" in model else MODEL
    raw = {
        "dataset": {"path": str(made.path), "cache_dir": str(tmp_path / "cache")},
        "model": {**base, **model},
        "training": {"checkpoint_dir": str(tmp_path / "run")},
    }
    with pytest.raises(UserError, match=message):
        trainer.train(config_file.validate(raw, "the test"))
    assert not (tmp_path / "run").exists()


def test_an_instruction_over_the_limit_names_its_episode(made, tmp_path):
    raw = {
        "dataset": {
            "path": str(made.path), "cache_dir": str(tmp_path / "cache"),
            "instruction": "a b c d e f g h i j",
        },
        "model": {"name": "vla", "instruction_length": 4},
        "training": {"checkpoint_dir": str(tmp_path / "run")},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"episode_\d: the instruction 'a b c.*reads 4"):
        trainer.train(config_file.validate(raw, "the test"))
