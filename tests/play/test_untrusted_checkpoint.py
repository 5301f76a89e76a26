"""A checkpoint from a stranger decides what is computed, not what is imported, written or asked."""

import warnings
from pathlib import Path

import pytest

from BC_training import evaluate, rollout
from tests.support import toy_env
from tests.support.commands import run
from tests.support.made_data import make_dataset
from tests.support.made_policy import made_bundle, save_policy

GOLDEN = Path(__file__).parents[1] / "golden" / "pure_cnn"
"""Its configuration says `cache_dir: cache`."""


@pytest.fixture
def policy_for(tmp_path):
    """Saves a policy whose configuration has this section `environment`."""

    def save(**settings):
        bundle = made_bundle(toy_env.ACTIONS, width=40, height=30)
        environment = bundle.config.environment.model_copy(update=settings)
        config = bundle.config.model_copy(update={"environment": environment})
        return save_policy(tmp_path / "run", bundle.model_copy(update={"config": config}))

    return save


def test_the_module_that_it_names_is_not_imported(policy_for, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("open('EXECUTED', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run(rollout.main, "--checkpoint", policy_for(id="evil_module:X-v0"))
    assert not (tmp_path / "EXECUTED").exists()
    assert done.status == 1
    assert "imported only if you say so: --env evil_module:X-v0" in done.err


def test_the_arguments_that_it_names_are_followed_only_when_given(policy_for):
    """They may name a machine to connect to."""
    buffers = "tests.support.toy_env:Buffers-v0"
    checkpoint = policy_for(
        id=buffers, frame="screen", color_order="RGB", arguments={"frame_skip": 7}, fps=17.0,
        actions={name: f"button_{i}" for i, name in enumerate(toy_env.ACTIONS)},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = run(rollout.main, "--checkpoint", checkpoint, "--env", buffers)
    assert "the checkpoint's environment.arguments are not followed" in done.err
    assert '"frame_skip": 7' in done.err
    # The rest of its settings is: without them there is no image, and no button has its name.
    assert "does not fit the policy: resize area, trained on none" in done.err


def test_one_of_the_projects_own_environments_is_followed(policy_for):
    checkpoint = policy_for(id="boss_arena:BossArena-v0")
    done = run(rollout.main, "--checkpoint", checkpoint)
    assert "boss_arena:BossArena-v0 can't be made: frames are at least 64x36" in done.err


def test_its_folders_are_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    made = make_dataset(tmp_path / "made.zarr", (40, 30, 35, 30, 40))
    arguments = ("--checkpoint", GOLDEN, "--dataset", made.path)
    done = run(evaluate.main, *arguments)
    assert done.status == 0, done.err
    assert not (tmp_path / "cache").exists()
    done = run(evaluate.main, *arguments, "--cache_dir", tmp_path / "mine")
    assert done.status == 0, done.err
    assert list((tmp_path / "mine").iterdir())


def test_its_dataset_on_the_network_is_not_asked_for(tmp_path):
    bundle = made_bundle(toy_env.ACTIONS)
    dataset = bundle.config.dataset.model_copy(update={"path": "http://127.0.0.1:9/x.zarr"})
    config = bundle.config.model_copy(update={"dataset": dataset})
    checkpoint = save_policy(tmp_path / "run", bundle.model_copy(update={"config": config}))
    done = run(evaluate.main, "--checkpoint", checkpoint)
    assert done.status == 1
    assert "trained on http://127.0.0.1:9/x.zarr, which is only asked for if you say so" in done.err
