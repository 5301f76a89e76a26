"""A served policy plays as it does at home; a lost connection ends the fight with a message."""

import os
import re
import signal

import numpy as np
import pytest

from BC_training.play.policy import Policy
from BC_training.serve import serve
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.remote import TOKEN, RemotePlayer
from tests.support.commands import start
from tests.support.made_policy import made_bundle, save_policy

FRAMES = np.random.default_rng(3).integers(0, 256, (12, 36, 64, 3), np.uint8)


@pytest.fixture
def served(tmp_path):
    """A checkpoint, the server's process and its address."""
    checkpoint = save_policy(tmp_path / "run", made_bundle())
    process = start(
        ("-m", "BC_training.serve", "--checkpoint", str(checkpoint), "--port", "0"),
        **{TOKEN: "secret"},
    )
    assert process.stdout is not None
    address = re.search(r"ws://\S+", process.stdout.readline())
    assert address is not None
    yield checkpoint, process, address[0]
    process.kill()
    process.wait()


def test_a_served_policy_is_the_same_and_its_end_is_noticed(served):
    checkpoint, process, url = served
    with pytest.raises(UserError, match="refused: wrong or no token"), RemotePlayer(url, "guess"):
        pass
    policy = Policy.load(checkpoint)
    with RemotePlayer(url, "secret") as player:
        with (
            pytest.raises(UserError, match="refused: another player is connected"),
            RemotePlayer(url, "secret"),
        ):
            pass
        with pytest.raises(UserError, match="takes no instruction"):
            player.reset("win")
        player.reset(seed=3)
        policy.reset(seed=3)
        for frame in FRAMES:
            ours, theirs = player.act({"frame": frame}), policy.act({"frame": frame})
            assert np.array_equal(ours.pressed, theirs.pressed)
            np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="the connection was lost at tick 12"):
            player.act({"frame": FRAMES[0]})


def test_a_policy_is_not_offered_to_others_without_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0: others could connect; set"):
        serve(tmp_path, host="0.0.0.0")
