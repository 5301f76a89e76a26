"""An exported policy plays as the checkpoint does; whatever is wrong with it is refused."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip("jax2onnx", reason="needs the group: uv run --group export pytest")

if jax.__version_info__ >= (0, 11):
    pytest.skip("jax2onnx can't read what this JAX traces", allow_module_level=True)

from BC_training import export
from BC_training.play.policy import Policy
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player import __main__ as player_command
from ranni_player import check
from ranni_player.manifest import GOLDEN, MANIFEST, NETWORK
from ranni_player.player import Player
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy

ARENA = "boss_arena:BossArena-v0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("run"), made_bundle())


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "exported"
    assert export.export(checkpoint, folder) == 0
    return folder


def test_an_exported_policy_is_the_checkpoint_tick_by_tick(checkpoint, exported):
    policy, player = Policy.load(checkpoint), Player.load(exported)
    rng = np.random.default_rng(7)
    for _ in range(20):
        observation = {"frame": rng.integers(0, 256, (36, 64, 3), np.uint8)}
        theirs, ours = policy.act(observation), player.act(observation)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
        assert np.array_equal(ours.pressed, theirs.pressed)


def test_a_replay_notices_another_policy(exported):
    player = Player.load(exported)
    golden = check.read_golden(player)
    check.replay(player, golden).require_same("float32")
    other = golden._replace(probabilities=golden.probabilities + 2e-5)
    with pytest.raises(UserError, match="is not the original"):
        check.replay(player, other).require_same("float32")


def test_an_exported_policy_fights_as_the_checkpoint_does(checkpoint, exported, tmp_path):
    from BC_training import rollout

    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    done = run(player_command.main, "--policy", exported, "--env", ARENA, "--episodes", "2",
               "--check", "--json", ours)  # fmt: skip
    assert done.status == 0, done.err
    assert "64 golden ticks" in done.out
    done = run(rollout.main, "--checkpoint", checkpoint, "--env", ARENA, "--episodes", "2",
               "--no_baselines", "--workers", "1", "--json", theirs)  # fmt: skip
    assert done.status == 0, done.err
    expected = json.loads(theirs.read_text())["fights"]
    keys = ("seed", "won", "boss_health_removed", "seconds", "reward", "presses", "counts")
    for fight, other in zip(json.loads(ours.read_text()), expected, strict=True):
        assert [fight[key] for key in keys] == [other[key] for key in keys]


def edited(folder, tmp_path, **changes):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (MANIFEST, NETWORK, GOLDEN):
        (copy / name).write_bytes((folder / name).read_bytes())
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**raw, **changes}))
    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"format": 2}, "its format is 2, this player reads 1"),
     ({"thresholds": [0.0] * 7}, "changed after the export"),
     ({"path": "/etc/passwd"}, "changed after the export")],
)  # fmt: skip
def test_a_manifest_that_was_changed_is_refused(exported, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        Player.load(edited(exported, tmp_path, **changes))


@pytest.mark.parametrize("name", [NETWORK, GOLDEN])
def test_a_file_that_was_changed_is_refused(exported, tmp_path, name):
    copy = edited(exported, tmp_path)
    (copy / name).write_bytes((copy / name).read_bytes() + b"x")
    with pytest.raises(UserError, match=f"{name}: it is not the file that was exported"):
        Player.load(copy)


def test_a_provider_that_is_not_installed_is_refused(exported):
    with pytest.raises(UserError, match=r"--provider Quantum: not installed here; there is .*CPU"):
        Player.load(exported, "Quantum")


def test_nothing_is_written_where_the_proof_fails(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(check.TOLERANCE, "float32", -1.0)
    with pytest.raises(UserError, match="is not the original"):
        export.export(checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())
