"""Fights: intervals against SciPy, the environment's contract, and the main job end to end."""

import json
import shutil
import signal
import time

import av
import cv2
import gymnasium
import numpy as np
import pytest
import zarr
from scipy import stats

from BC_training import __main__, rollout
from BC_training.common.episodes import Episodes
from BC_training.play import fights
from BC_training.play.fights import make_env
from BC_training.play.summary import Interval, bootstrap, wilson
from gameplay_pipeline.environments.adapter import Adapter
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record
from tests.support import toy_env
from tests.support.commands import is_alive, run, start
from tests.support.made_policy import ACTIONS, made_bundle, save_policy

ARENA = "boss_arena:BossArena-v0"


@pytest.mark.parametrize(("won", "fights"), [(0, 20), (1, 20), (19, 20), (20, 20), (37, 100)])
def test_wilson_is_scipys(won, fights):
    ours = wilson(won, fights)
    theirs = stats.binomtest(won, fights).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert ours.mean == won / fights


def test_bootstrap_is_about_scipys():
    values = np.random.default_rng(3).gamma(2.0, 10.0, size=40)
    ours = bootstrap(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)
    assert bootstrap([2.0]) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("env", "offered", "message"),
    [
        ("nowhere:Nothing-v0", {}, "can't be made: No module named 'nowhere'"),
        (
            ARENA,
            {"actions": ("jump", *ACTIONS[1:])},
            "buttons are not the wanted ones, it has no jump and has move_left besides",
        ),
        (ARENA, {"fps": 30.0}, "fps 17.0, trained on 30.0"),
        (ARENA, {"color_order": "BGR"}, "color_order RGB, trained on BGR"),
        (ARENA, {"resize": "area"}, "resize none, trained on area"),
        (
            "tests.support.toy_env:Plain-v0",
            {"actions": ("button_0", "button_1")},
            "resize area, trained",
        ),
    ],
)
def test_an_environment_that_breaks_the_contract_is_refused(env, offered, message):
    with pytest.raises(UserError, match=message):
        make_env(env, made_bundle(**offered))


def test_an_environment_that_keeps_it_is_made_at_the_policys_size_with_its_buttons():
    turned = (*ACTIONS[3:], *ACTIONS[:3])
    env = make_env(ARENA, made_bundle(turned, color_order="unknown", fps=None))
    observation, _ = env.reset(seed=0)
    assert observation["frame"].shape == (36, 64, 3)
    assert env.action_names == turned
    # What the policy was trained on by area, drawn larger and resized alike.
    adapter = Adapter(arguments={"width": 128, "height": 72})
    env = make_env(ARENA, made_bundle(resize="area"), adapter)
    small = env.reset(seed=0)[0]["frame"]
    large = gymnasium.make(ARENA, width=128, height=72).reset(seed=0)[0]["frame"]
    np.testing.assert_array_equal(small, cv2.resize(large, (64, 36), interpolation=cv2.INTER_AREA))


@pytest.mark.slow
def test_the_main_job_records_trains_and_fights(tmp_path, monkeypatch):
    # Fights in other processes are those of test_interrupted_fights_are_kept.
    monkeypatch.setattr(fights, "usable_cores", lambda: 1)
    data, folder = tmp_path / "arena.zarr", tmp_path / "run"
    arguments = (
        *("--config", "configs/demo.yaml", "--dataset.path", data),
        *("--record.episodes", "3", "--record.resolution", "64x36"),
        *("--record.style", "mixed"),
        *("--dataset.train_ratio", "0.6", "--dataset.val_ratio", "0.4"),
        *("--training.checkpoint_dir", folder, "--training.num_epochs", "1"),
        *("--evaluation.rollout_episodes", "1"),
    )
    # A recording that was interrupted is gone on with, not taken for the dataset.
    record(
        RecordConfig(
            out=tmp_path / "arena.zarr.recording",
            env=ARENA,
            episodes=1,
            resolution="64x36",
            style="mixed",
            disturb=0.15,
        )
    )
    done = run(__main__.main, *arguments)
    assert done.status == 0, done.err
    assert len(Episodes(data)) == 3
    styles = [group.attrs["style"] for _, group in sorted(zarr.open_group(data, mode="r").groups())]
    assert styles == ["balanced", "aggressive", "defensive"]
    assert max(len(line) for line in done.out.splitlines() if str(tmp_path) not in line) <= 100
    fought = read(folder / "fights.json")
    players = ["state_vision", "expert", "random", "nothing", "previous"]
    assert list(fought["summary"]) == players
    assert [fight["seed"] for fight in fought["fights"]] == [1_000_000] * 5
    assert fought["summary"]["expert"]["boss_health_removed"]["mean"] > 0.5
    assert fought["summary"]["nothing"]["boss_health_removed"]["mean"] == 0
    assert fought["summary"]["nothing"]["presses"]["mean"] == 0
    # Buttons that are held went down once.
    assert fought["summary"]["previous"]["presses"]["mean"] < 1
    assert fought["summary"]["random"]["presses"]["mean"] > 20
    assert fought["summary"]["state_vision"]["latency_ms"]["p50"] > 0

    film = tmp_path / "fight.mp4"
    again = run(rollout.main, "--checkpoint", folder, "--episodes", "1", "--workers", "1",
                "--no_baselines", "--json", tmp_path / "again.json", "--video", film)  # fmt: skip
    assert again.status == 0, again.err
    assert without_times(read(tmp_path / "again.json")) == without_times(fought)[:1]
    with av.open(str(film)) as container:
        frames = container.decode(video=0)
        picture = next(frames).to_ndarray(format="rgb24")
        count = 1 + sum(1 for _ in frames)
        assert container.streams.video[0].codec.name == "h264"
    assert count == round(17 * fought["fights"][0]["seconds"])
    # The frame is enlarged tenfold, the panel is beside it.
    assert picture.shape == (360, 640 + 320, 3)
    first = make_env(ARENA, made_bundle()).reset(seed=1_000_000)[0]["frame"]
    drawn = cv2.resize(picture[:, :640], (64, 36), interpolation=cv2.INTER_AREA)
    assert np.abs(drawn.astype(int) - first).mean() < 6


def read(file):
    return json.loads(file.read_text())


def without_times(fights):
    """What must not depend on the machine."""
    return [
        {key: value for key, value in fight.items() if key not in ("latencies_ms", "late")}
        for fight in fights["fights"]
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    bundle = made_bundle(toy_env.ACTIONS, width=40, height=30)
    return save_policy(tmp_path_factory.mktemp("saved"), bundle)


@pytest.fixture
def toy_policy(saved, tmp_path):
    """An untrained policy for the toy environments, in a folder of its own."""
    return shutil.copytree(saved, tmp_path / "run" / "1")


def test_interrupted_fights_are_kept_and_their_games_end(toy_policy, tmp_path, monkeypatch):
    games, file = tmp_path / "games", tmp_path / "kept.json"
    games.mkdir()
    arguments = ("--checkpoint", str(toy_policy), "--env", "tests.support.toy_env:Accompanied-v0")
    monkeypatch.setenv("TOY_GAMES", str(games))
    whole = run(rollout.main, *arguments, "--episodes", "3", "--workers", "1")
    assert whole.status == 0, whole.err
    assert not any(is_alive(int(game.name)) for game in games.iterdir())
    process = start(
        ("-m", "BC_training.rollout", *arguments, "--workers", "2", "--episodes", "500",
         "--json", str(file)),
        TOY_SECONDS_A_TICK="0.01",
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (file.exists() and len(read(file)["fights"]) >= 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "pure_cnn" in out
    assert err.splitlines()[-1] == "interrupted"
    assert len([*games.iterdir()]) >= 3  # of the whole run, of the check before, and of a worker
    deadline = time.monotonic() + 10
    while (left := [g for g in games.iterdir() if is_alive(int(g.name))]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not left
    kept = without_times(read(file))
    assert 4 <= len(kept) < 500
    whole = {
        (fight["player"], fight["seed"]): fight
        for fight in without_times(read(toy_policy / "fights.json"))
    }
    # One process may still be in its first fight while the other has had many.
    both = [(fight["player"], fight["seed"]) in whole for fight in kept]
    assert any(both)
    assert all(
        fight == whole[fight["player"], fight["seed"]]
        for fight, is_in_both in zip(kept, both, strict=True)
        if is_in_both
    )


def test_a_checkpoint_decides_as_it_is_told(toy_policy):
    presses = {}
    for play in ("{}", '{"rule": "sample"}'):
        done = run(rollout.main, "--checkpoint", toy_policy,
                   "--env", "tests.support.toy_env:Toy-v0", "--episodes", "4",
                   "--no_baselines", "--workers", "1", "--play", play)  # fmt: skip
        assert done.status == 0, done.err
        fights = read(toy_policy / "fights.json")["fights"]
        presses[play] = [round(fight["presses"] * fight["seconds"]) for fight in fights]
    as_saved, drawn = presses.values()
    assert sum(drawn) > sum(as_saved)
    retired = run(rollout.main, "--checkpoint", toy_policy, "--play", '{"min_hold": 3}',
                  "--env", "tests.support.toy_env:Toy-v0")  # fmt: skip
    assert retired.status == 1
    assert "play.min_hold: retired: it won no more fights" in retired.err


def test_what_an_earlier_rollout_left_is_not_shown_as_this_ones(toy_policy, monkeypatch):
    arguments = ("--checkpoint", toy_policy, "--env", "tests.support.toy_env:Toy-v0",
                 "--episodes", "1", "--no_baselines", "--workers", "1")  # fmt: skip
    assert "every fight" in run(rollout.main, *arguments).out
    monkeypatch.setattr(rollout, "share_fights", interrupted)
    done = run(rollout.main, *arguments)
    assert done.status == 130
    assert "every fight" not in done.out
    assert read(toy_policy / "fights.json")["fights"]


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fight_that_fails_is_named_and_the_others_are_kept(toy_policy, workers):
    done = run(rollout.main, "--checkpoint", toy_policy,
               "--env", "tests.support.toy_env:Crashing-v0", "--episodes", "6",
               "--workers", workers, "--no_baselines")  # fmt: skip
    assert done.status == 1
    found = read(toy_policy / "fights.json")
    assert 0 < len(found["failures"]) < 6
    assert len(found["fights"]) + len(found["failures"]) == 6
    assert found["summary"]["pure_cnn"]["fights"] == len(found["fights"])
    for failure in found["failures"]:
        assert f"pure_cnn, seed {failure['seed']}: ZeroDivisionError" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--env", "tests.support.toy_env:Only-v0", "--workers", "2"),
            "tests.support.toy_env:Only-v0 can run only one instance at a time",
        ),
        ((), "--env: missing; the checkpoint's configuration names no environment"),
        (("--episodes", "0"), "--episodes: 0 is not at least 1"),
        (("--workers", "0"), "--workers: 0 is not at least 1"),
        (
            ("--env", "tests.support.toy_env:Toy-v0", "--instruction", "attack"),
            "--instruction: pure_cnn takes no instruction",
        ),
        (
            ("--env", "tests.support.toy_env:Toy-v0", "--play", "{rule}"),
            "--play: '{rule}' is not JSON",
        ),
        (
            ("--env", "tests.support.toy_env:Toy-v0", "--play", "[1]"),
            "--play: '[1]' is no JSON object",
        ),
        (
            ("--env", "tests.support.toy_env:Toy-v0", "--play", '{"rools": "sample"}'),
            "play.rools: unknown key; the nearest known one is play.rule",
        ),
        (("--env", ARENA, "--video", "fight.avi"), "--video: fight.avi does not end in .mp4"),
        (("--env", ARENA, "--json", "nowhere/fights.json"), "--json: no folder nowhere"),
        (("--env", ARENA, "--video", "nowhere/fight.mp4"), "--video: no folder nowhere"),
        (
            ("--env", "tests.support.toy_env:Toy-v0", "--adapter", '{"fps": 30}'),
            "fps 30.0, trained on 17.0",
        ),
    ],
)
def test_bad_input_is_named(toy_policy, arguments, message):
    done = run(rollout.main, "--checkpoint", toy_policy, *arguments)
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_style_that_the_expert_lacks_is_named_before_anything_is_recorded(tmp_path):
    done = run(__main__.main, "--config", "configs/demo.yaml", "--record.style", "wild",
               "--dataset.path", tmp_path / "arena.zarr")  # fmt: skip
    assert done.status == 1
    assert "error: boss_arena:BossArena-v0: its expert has no style 'wild'" in done.err
    assert not list(tmp_path.glob("*arena*"))
