"""Fights: intervals against SciPy, the environment's contract, and the main job end to end."""

import json

import numpy as np
import pytest
import zarr
from scipy import stats

from BC_training import __main__, rollout
from BC_training.common import checkpoint as checkpoints
from BC_training.common.checkpoint import Bundle
from BC_training.common.episodes import Episodes
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, FrameContract, UserError
from gameplay_pipeline.record import record
from tests.test_commands import run

ACTIONS = (
    *("move_left", "lock_on", "dodge_roll/dash", "move_right"),
    *("attack", "move_back", "move_forward"),
)
ARENA = "boss_arena:BossArena-v0"


def bundle(actions=ACTIONS, **frame):
    contract = {"height": 36, "width": 64, "channels": 3, "color_order": "RGB", "fps": 17.0}
    contract |= {"resize": "none"} | frame
    return Bundle(
        format=checkpoints.FORMAT,
        config={"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}},
        spec=DataSpec(actions=actions, state=(), frame=FrameContract(**contract)),
        preprocess=Preprocess(frame_mean=(0.0,) * 3, frame_std=(1.0,) * 3),
        thresholds=(0.5,) * len(actions),
        step=1,
        epoch=1,
        metrics=None,
        versions={},
    )


@pytest.mark.parametrize(("won", "fights"), [(0, 20), (1, 20), (19, 20), (20, 20), (37, 100)])
def test_wilson_is_scipys(won, fights):
    ours = rollout.wilson(won, fights)
    theirs = stats.binomtest(won, fights).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert ours.mean == won / fights


def test_bootstrap_is_about_scipys():
    values = np.random.default_rng(3).gamma(2.0, 10.0, size=40)
    ours = rollout.bootstrap(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)
    assert rollout.bootstrap([2.0]) == rollout.Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("env", "offered", "message"),
    [
        ("nowhere:Nothing-v0", {}, "can't make this environment"),
        (
            ARENA,
            {"actions": ("jump", *ACTIONS)},
            "actions move_left, .*, trained on jump, move_left",
        ),
        (ARENA, {"fps": 30.0}, "fps 17.0, trained on 30.0"),
        (ARENA, {"color_order": "BGR"}, "color_order RGB, trained on BGR"),
        (ARENA, {"resize": "area"}, "resize none, trained on area"),
    ],
)
def test_an_environment_that_breaks_the_contract_is_refused(env, offered, message):
    with pytest.raises(UserError, match=message):
        rollout.make_env(env, bundle(**offered))


def test_an_environment_that_keeps_it_is_made_at_the_policys_size():
    env = rollout.make_env(ARENA, bundle(color_order="unknown", fps=None))
    observation, _ = env.reset(seed=0)
    assert observation["frame"].shape == (36, 64, 3)


def test_the_main_job_records_trains_and_fights(tmp_path):
    data, folder = tmp_path / "arena.zarr", tmp_path / "run"
    arguments = (
        *("--config", "configs/demo.yaml", "--dataset.path", data),
        *("--dataset.record_episodes", "3", "--dataset.record_resolution", "64x36"),
        *("--dataset.record_style", "mixed"),
        *("--dataset.train_ratio", "0.6", "--dataset.val_ratio", "0.4"),
        *("--training.checkpoint_dir", folder, "--training.num_epochs", "1"),
        *("--model.conv_features", "[4, 8]", "--model.dense_features", "[8]"),
        *("--evaluation.rollout_episodes", "2"),
    )
    # A recording that was interrupted is gone on with, not taken for the dataset.
    record(ARENA, "expert", 1, "64x36", tmp_path / "arena.zarr.recording", style="mixed")
    done = run(__main__.main, *arguments)
    assert done.status == 0, done.err
    assert len(Episodes(data)) == 3
    styles = [group.attrs["style"] for _, group in sorted(zarr.open_group(data, mode="r").groups())]
    assert styles == ["balanced", "aggressive", "defensive"]
    assert max(len(line) for line in done.out.splitlines() if str(tmp_path) not in line) <= 100
    fights = json.loads((folder / "fights.json").read_text())
    assert list(fights["summary"]) == ["pure_cnn", "expert", "random", "nothing"]
    assert [fight["seed"] for fight in fights["fights"]][:2] == [1_000_000, 1_000_001]
    assert fights["summary"]["expert"]["boss_health_removed"]["mean"] > 0.5
    assert fights["summary"]["nothing"]["boss_health_removed"]["mean"] == 0

    again = run(rollout.main, "--checkpoint", folder, "--env", ARENA, "--episodes", "2",
                "--json", tmp_path / "again.json")  # fmt: skip
    assert again.status == 0, again.err
    assert json.loads((tmp_path / "again.json").read_text()) == fights
    none = run(rollout.main, "--checkpoint", folder, "--env", ARENA, "--episodes", "0")
    assert (none.status, none.err) == (1, "error: --episodes: 0 is not at least 1\n")


def test_a_style_that_the_expert_lacks_is_named_before_anything_is_recorded(tmp_path):
    done = run(__main__.main, "--config", "configs/demo.yaml", "--dataset.record_style", "wild",
               "--dataset.path", tmp_path / "arena.zarr")  # fmt: skip
    assert done.status == 1
    assert "error: boss_arena:BossArena-v0: its expert has no style 'wild'" in done.err
    assert not list(tmp_path.glob("*arena*"))
