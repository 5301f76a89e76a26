"""ViZDoom's games: what they show, their experts, and the way from recording to fights."""

import json

import gymnasium
import numpy as np
import pytest
import zarr

from BC_training import rollout
from gameplay_pipeline.environments.adapter import Adapter, Wanted, make
from gameplay_pipeline.record import RecordConfig, record
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy

pytest.importorskip("vizdoom", reason="needs the dependency group: uv run --group vizdoom pytest")

GAMES = {
    "vizdoom_games:TakeCover-v0": ("move_left", "move_right"),
    "vizdoom_games:DefendTheCenter-v0": ("turn_left", "turn_right", "attack"),
}


def play(env, act, seed):
    """The return and the observations of a game."""
    observation, _ = env.reset(seed=seed)
    seen, reward, over = [observation], 0.0, False
    while not over:
        observation, gained, terminated, truncated, info = env.step(act(observation))
        seen.append(observation)
        reward += gained
        over = terminated or truncated
    assert terminated != truncated
    assert info["seconds"] == pytest.approx((len(seen) - 1) * 2 / 35)
    return reward, seen


class Script:
    """Presses what is written, whatever it sees."""

    def __init__(self, actions):
        self._next = iter(actions)

    def __call__(self, observation):
        return next(self._next)


def returns(env, player, seeds):
    found = []
    for seed in seeds:
        env.action_space.seed(seed)
        expert = env.make_expert(seed)
        expert.reset()
        act = expert.act if player == "expert" else lambda _: env.action_space.sample()
        found.append(play(env, act, seed)[0])
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at_least", "at_most"),
    [("vizdoom_games:TakeCover-v0", 1000, 400), ("vizdoom_games:DefendTheCenter-v0", 17, 2)],
)
def test_the_expert_plays_well_and_random_buttons_do_not(name, at_least, at_most):
    env = make(name, Adapter(), Wanted(96, 72))
    assert returns(env, "expert", range(3)).mean() > at_least
    assert returns(env, "random", range(8)).mean() < at_most
    env.close()


@pytest.mark.parametrize("name", GAMES)
def test_a_seed_gives_one_game_and_no_black_picture_at_its_end(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, other = (make(name, Adapter(), Wanted(320, 240)) for _ in range(2))
    assert env.action_names == GAMES[name]
    assert env.fps == 17.5
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(3000)]
    other.reset(seed=9)  # what was played before must not matter
    other.step(actions[0])
    first, second = (play(each, Script(actions), seed=4) for each in (env, other))
    assert first[0] == second[0]
    assert len(first[1]) == len(second[1]) > 30
    for one, two in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(one["frame"], two["frame"])
        assert env.observation_space.contains(one)
        assert one["frame"].any()
    assert first[1][0]["HEALTH"] == 100
    env.close()
    other.close()
    # An empty folder of this name is the engine's own, and can't be had elsewhere.
    assert {each.name for each in tmp_path.iterdir()} <= {"_vizdoom"}


def test_the_buttons_do_what_they_are_called():
    env = gymnasium.make("vizdoom_games:TakeCover-v0").unwrapped
    ends = []
    for action in ([1, 0], [0, 0], [0, 1]):
        env.reset(seed=1)
        for _ in range(12):
            env.step(np.array(action, np.int8))
        ends.append(env.view().y)
    assert ends[0] > ends[1] + 50 > ends[2] + 100  # y grows to the left
    env.close()


def test_recorded_played_and_scored(tmp_path):
    name = "vizdoom_games:DefendTheCenter-v0"
    record(
        RecordConfig(
            out=tmp_path / "centre.zarr",
            env=name,
            policy="random",
            episodes=2,
            resolution="96x72",
            workers=2,
        )
    )
    root = zarr.open_group(tmp_path / "centre.zarr", mode="r")
    assert root.attrs["keys"] == list(GAMES[name])
    assert root.attrs["attributes"] == ["AMMO2", "HEALTH"]
    assert (root.attrs["fps"], root.attrs["resize"]) == (17.5, "area")
    for number in range(2):
        group = root[f"episode_{number}"]
        assert group["frames"][:].any(axis=(1, 2, 3)).all()
        assert group["state"][-1, 1] > 0
    contract = {"width": 96, "height": 72, "resize": "area", "fps": 17.5}
    folder = save_policy(tmp_path / "run", made_bundle(GAMES[name], **contract))
    done = run(rollout.main, "--checkpoint", folder, "--env", name, "--episodes", "2",
               "--video", tmp_path / "centre.mp4", "--workers", "1")  # fmt: skip
    assert done.status == 0, done.err
    summary = json.loads((folder / "fights.json").read_text())["summary"]
    assert summary["expert"]["reward"]["mean"] > 10 > summary["random"]["reward"]["mean"] + 5
    assert summary["pure_cnn"]["won"] is None


def test_vizdooms_own_environments_need_only_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the engine leaves its settings behind
    adapter = Adapter(
        frame="screen",
        actions={"left": "button_0", "right": "button_1", "shoot": "button_2"},
        fps=35.0,
    )
    wanted = Wanted(80, 60, ("shoot", "left", "right"))
    env = make("vizdoom.gymnasium_wrapper:VizdoomBasic-MultiBinary-v1", adapter, wanted)
    observation, _ = env.reset(seed=0)
    assert observation["frame"].shape == (60, 80, 3)
    assert observation["frame"].any()
    env.step(np.array([0, 1, 0], np.int8))
    env.close()
