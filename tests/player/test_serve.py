"""A served policy plays as it does at home; whoever is killed, the other goes on or says so."""

import json
import os
import signal

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the group: uv run --group export pytest")

from BC_training.play.policy import Policy
from BC_training.serve import serve
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player import __main__ as command
from ranni_player import manifest
from ranni_player.remote import TOKEN, RemotePlayer
from tests.support.commands import run, start
from tests.support.exported import ARENA, CHECKPOINT, EXPORTED, FIGHT, serving

OBSERVATION = {"HeroHp": 600, "HeroMaxHp": 900, "HeroAnimId": 180032304, "NpcAnimId": 3000}
FRAMES = np.random.default_rng(3).integers(0, 256, (12, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def served():
    """The server's process, and its address; it wants a token."""
    with serving(CHECKPOINT, **{TOKEN: "secret"}) as (process, url):
        yield process, url


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")


def test_a_served_policy_is_the_same_tick_by_tick(served):
    _, url = served
    policy = Policy.load(CHECKPOINT)
    with RemotePlayer(url, "secret") as player:
        with pytest.raises(UserError, match="takes no instruction"):
            player.reset("win")
        player.reset(seed=3)
        policy.reset(seed=3)
        for frame in FRAMES:
            observation = {"frame": frame, **OBSERVATION}
            ours, theirs = player.act(observation), policy.act(observation)
            assert np.array_equal(ours.pressed, theirs.pressed)
            np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_one_client_at_a_time_is_served_and_only_with_the_token(served):
    _, url = served
    with pytest.raises(UserError, match="refused: wrong or no token"), RemotePlayer(url, "guess"):
        pass
    with (
        RemotePlayer(url, "secret"),
        pytest.raises(UserError, match="refused: another player is connected"),
        RemotePlayer(url, "secret"),
    ):
        pass


def test_a_fight_over_the_network_is_the_one_at_home(served, tmp_path):
    _, url = served
    near, far = tmp_path / "near.json", tmp_path / "far.json"
    assert run(command.main, "--policy", EXPORTED, *ARENA, "--json", near).status == 0
    done = run(command.main, "--policy", url, *ARENA, "--json", far)
    assert done.status == 0, done.err
    assert "of that on the other machine: p50" in done.out
    here, there = (json.loads(file.read_text())[0] for file in (near, far))
    assert {key: there[key] for key in FIGHT} == {key: here[key] for key in FIGHT}


def test_what_does_not_suit_a_served_policy_is_refused(served):
    _, url = served
    done = run(command.main, "--policy", url, *ARENA[:3], ARENA[3].replace("BGR", "RGB"))
    assert "does not fit the policy: color_order RGB, trained on BGR" in done.err
    done = run(command.main, "--policy", url, "--check")
    assert "--check: a policy on another machine has no golden frames here" in done.err
    assert done.status == 1


def test_a_server_of_another_version_is_refused(served, monkeypatch):
    _, url = served
    monkeypatch.setattr(manifest, "FORMAT", 2)
    done = run(command.main, "--policy", url, *ARENA)
    assert done.status == 1
    assert f"{url}: its format is 1, this player reads 2" in done.err


def test_after_a_killed_player_the_next_one_is_served(served):
    _, url = served
    player = start(("-m", "ranni_player", "--policy", url, *ARENA, "--episodes", "99"))
    player.stdout.readline()  # the first fight is over
    os.kill(player.pid, signal.SIGKILL)
    player.communicate()
    with RemotePlayer(url, "secret") as next_player:
        next_player.reset()
        assert next_player.act({"frame": FRAMES[0], **OBSERVATION}).pressed.shape == (3,)


def test_an_interrupted_server_ends_the_fight_with_a_message(served):
    process, url = served
    with RemotePlayer(url, "secret") as player:
        player.reset()
        for frame in FRAMES:
            player.act({"frame": frame, **OBSERVATION})
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        with pytest.raises(UserError, match="the connection was lost at tick 12"):
            player.act({"frame": FRAMES[0], **OBSERVATION})
    with pytest.raises(UserError, match="the connection was lost at tick 0"), \
            RemotePlayer(url, "secret"):  # fmt: skip
        pass


def test_a_policy_is_not_offered_to_others_without_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN)
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0: others could connect; set"):
        serve(tmp_path, host="0.0.0.0")
