"""An exported policy plays as its checkpoint does, and whatever is wrong with it is refused."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the group: uv run --group export pytest")

from BC_training import rollout
from BC_training.play.policy import Policy
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player import __main__ as command
from ranni_player import check
from ranni_player.manifest import GOLDEN, MANIFEST, NETWORK
from ranni_player.player import Player
from tests.support.commands import run
from tests.support.exported import ARENA, CHECKPOINT, EXPORTED, FIGHT, variant


def observations(ticks):
    rng = np.random.default_rng(7)
    for tick in range(ticks):
        yield {
            "frame": rng.integers(0, 256, (24, 32, 3), np.uint8),
            "HeroHp": 900 - 7 * tick,
            "HeroMaxHp": 900,
            "HeroAnimId": (180032304, 27100, 5)[tick // 3 % 3],
            "NpcAnimId": (3000, 3011)[tick // 6 % 2],
        }


def test_an_exported_policy_is_the_checkpoint_tick_by_tick():
    policy, player = Policy.load(CHECKPOINT), Player.load(EXPORTED)
    for fight in range(2):  # the second begins as the first, whatever came before
        policy.reset()
        player.reset()
        for observation in observations(20):
            theirs, ours = policy.act(observation), player.act(observation)
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
            assert np.array_equal(ours.pressed, theirs.pressed), fight


def test_it_fights_as_the_checkpoint_does(tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    done = run(command.main, "--policy", EXPORTED, *ARENA, "--episodes", "2", "--check",
               "--json", ours)  # fmt: skip
    assert done.status == 0, done.err
    assert "64 golden ticks" in done.out
    done = run(rollout.main, "--checkpoint", CHECKPOINT, *ARENA, "--episodes", "2",
               "--no_baselines", "--workers", "1", "--json", theirs)  # fmt: skip
    assert done.status == 0, done.err
    expected = json.loads(theirs.read_text())["fights"]
    assert expected[0]["presses"] > 0
    for fight, other in zip(json.loads(ours.read_text()), expected, strict=True):
        assert {key: fight[key] for key in FIGHT} == {key: other[key] for key in FIGHT}


def test_what_was_pressed_instead_is_remembered():
    first, second = Player.load(EXPORTED), Player.load(EXPORTED)
    everything = np.ones(3, bool)
    for observation in observations(4):
        first.act(observation)
        last = second.act(observation, previous=everything)
    assert not np.allclose(first.act(observation).probabilities, last.probabilities)


def test_a_replay_notices_another_policy():
    player = Player.load(EXPORTED)
    golden = check.read_golden(player)
    check.replay(player, golden).require_same("float32")
    other = golden._replace(probabilities=golden.probabilities + 2e-5)
    with pytest.raises(UserError, match="is not the original"):
        check.replay(player, other).require_same("float32")


def test_a_slow_machine_is_told_what_would_help():
    player = Player.load(EXPORTED)
    slow = check.Check(2, 0.0, 0, np.array([20.0, 70.0]))
    text = check.report(player, slow)
    assert "1 of 2 ticks took longer than the 58.8 ms" in text
    assert "BC_training.serve" in text


def edited(tmp_path, **changes):
    """The folder with a manifest that somebody edited by hand."""
    folder = variant(tmp_path / "edited")
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**raw, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"format": 2}, "its format is 2, this player reads 1; export the checkpoint again"),
     ({"format": None}, "its format is None"),
     ({"thresholds": [0.0] * 3}, "changed after the export"),
     ({"network": "/etc/passwd"}, "changed after the export")],
)  # fmt: skip
def test_a_manifest_that_was_edited_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        Player.load(edited(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{", '"policy"'])
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    folder = variant(tmp_path / "edited")
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: "):
        Player.load(folder)


@pytest.mark.parametrize("name", [NETWORK, GOLDEN])
def test_a_file_that_was_changed_or_is_missing_is_refused(tmp_path, name):
    folder = variant(tmp_path / "changed")
    with (folder / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=f"{name}: it is not the file that was exported"):
        Player.load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: can't be read"):
        Player.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": {"features": [[1, 5, 16], "float32"]}}, "but the manifest says"),
        ({"attributes": ["HeroHp"]}, "the network can't compute what the manifest describes"),
        ({"actions": ["left", "hit"]}, "there are 2 actions, 3 thresholds and 3 probabilities"),
        ({"thresholds": [0.5]}, "there are 3 actions, 1 thresholds"),
        ({"network": b"no network"}, "can't be loaded by CPUExecutionProvider"),
    ],
)
def test_a_network_that_the_manifest_does_not_describe_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        Player.load(variant(tmp_path / "other", **changes))


@pytest.mark.parametrize("place", ["secret.bin", "../secret.bin", "{here}/secret.bin"])
def test_a_network_reads_no_other_file(tmp_path, monkeypatch, place):
    onnx = pytest.importorskip("onnx", reason="needs the group: uv run --group export pytest")
    network = onnx.load(EXPORTED / NETWORK)
    array = next(array for array in network.graph.initializer if len(array.raw_data) > 200)
    secret = array.raw_data
    onnx.external_data_helper.set_external_data(array, place.format(here=tmp_path))
    array.ClearField("raw_data")
    folder = variant(tmp_path / "other", network=network.SerializeToString())
    for file in (tmp_path / "secret.bin", folder / "secret.bin"):
        file.write_bytes(secret)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="can't be loaded by CPUExecutionProvider"):
        Player.load(folder)


def test_a_provider_that_is_not_installed_is_refused():
    done = run(command.main, "--policy", EXPORTED, *ARENA, "--provider", "Quantum")
    assert done.status == 1
    assert "--provider Quantum: not installed here; there is " in done.err
    assert "CPU" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "boss_arena:BossArena-v0", "--adapter", '{"arguments": {"width": 64}}'),
         "its buttons are not the wanted ones, it has no left, right, hit"),
        ((*ARENA[:3], ARENA[3].replace("BGR", "RGB")),
         "does not fit the policy: color_order RGB, trained on BGR"),
        (("--env", "tests.support.toy_env:Toy-v0"),
         "its observations lack the attributes HeroHp, HeroMaxHp, HeroAnimId, NpcAnimId"),
        (("--env", "nowhere:Game-v0"), "nowhere:Game-v0 can't be made"),
        ((*ARENA, "--instruction", "win"), "--instruction: this policy takes no instruction"),
        ((*ARENA, "--episodes", "0"), "--episodes: 0 is not at least 1"),
        ((), "--env: missing"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_policy_is_refused_before_the_first_tick(arguments, message):
    done = run(command.main, "--policy", EXPORTED, *arguments)
    assert done.status == 1
    assert message in done.err
    assert "seed" not in done.out


def test_only_the_instructions_of_the_export_are_taken():
    player = Player.load(EXPORTED)
    known = {"attack": [3, 1], "keep away": [4, 5]}
    player.manifest = dataclasses.replace(player.manifest, instructions=known)
    player.reset("keep away")
    assert player._feed["instruction"].tolist() == [[4, 5]]
    player.reset()
    assert player._feed["instruction"].tolist() == [[3, 1]]
    with pytest.raises(UserError, match="only what was known at its export: attack; keep away"):
        player.reset("dance")
