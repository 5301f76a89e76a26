"""An exported or served policy plays the live game, and lets go of every key however it ends."""

import json
import os
import signal
import threading

import pytest

pytest.importorskip("onnxruntime", reason="needs the group: uv run --group export pytest")
pytest.importorskip("eldengym", reason="needs the group: uv run --group eldengym pytest")

from ranni_player import __main__ as command
from tests.support.commands import run, start
from tests.support.exported import ADAPTER, CHECKPOINT, serving, variant
from tests.support.fake_siphon import impatient_game, recorded_fight

MARGIT = "gameplay_pipeline.environments.live:Margit-v0"
HELD = {"left": "A", "hit": "P"}
"""The buttons that the policy of these tests holds all along, and their keys."""
FIGHT = recorded_fight()


@pytest.fixture
def server(monkeypatch):
    with impatient_game(monkeypatch, FIGHT, begin_s=3.0, release_s=2.0) as fake:
        yield fake


@pytest.fixture
def policy(tmp_path):
    """An exported policy that holds two of its three buttons whatever it sees."""
    return variant(tmp_path / "exported", thresholds=[0.0, 1.0, 0.0])


def arguments(policy, server, seconds=1.0, *more):
    game = {"host": server.host, "actions": list(ADAPTER["actions"].values())}
    adapter = {"actions": ADAPTER["actions"], "arguments": {**game, "max_seconds": seconds}}
    return ("--policy", str(policy), "--env", MARGIT, "--adapter", json.dumps(adapter), *more)


def test_the_right_keys_are_held_in_each_fight_and_released_after_it(policy, server, tmp_path):
    file = tmp_path / "fights.json"
    done = run(command.main, *arguments(policy, server, 1.0, "--episodes", "2", "--json", file))
    assert done.status == 0, done.err
    fights = json.loads(file.read_text())
    assert [fight["won"] for fight in fights] == [False, False]
    assert [key for _, key, down in server.keys if down] == sorted(HELD.values()) * 2
    assert not server.down


def test_frames_that_are_missing_in_mid_fight_are_repeated_and_counted(policy, server, tmp_path):
    file = tmp_path / "fights.json"

    def go_silent():
        server.wait_for(lambda: server.down)
        server.silent = True
        threading.Event().wait(0.25)  # less than counts as lost
        server.silent = False

    breaker = threading.Thread(target=go_silent)
    breaker.start()
    done = run(command.main, *arguments(policy, server, 1.5, "--json", file))
    breaker.join()
    assert done.status == 0, done.err
    (fight,) = json.loads(file.read_text())
    assert fight["counts"]["repeated_frames"] >= 2
    assert not server.down


@pytest.mark.parametrize(
    ("lever", "value", "message"),
    [
        ("overrides", {"HeroHp": float("nan")}, "HeroHp is not a finite number"),
        ("silent", True, "sent no frame for 0.5 s"),
        (None, None, "sent no frame for 0.5 s"),
    ],
)
def test_a_fight_that_goes_wrong_ends_with_a_message(policy, server, lever, value, message):
    def go_wrong():
        server.wait_for(lambda: server.down == set(HELD.values()))
        server.stop() if lever is None else setattr(server, lever, value)

    breaker = threading.Thread(target=go_wrong)
    breaker.start()
    done = run(command.main, *arguments(policy, server, 60.0))
    breaker.join()
    assert done.status == 1
    assert message in done.out + done.err
    assert "Traceback" not in done.err
    if lever is None:
        assert "these keys may still be down on its machine: A, P" in done.err
    else:
        assert not server.down


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_releases_the_keys(policy, server, end):
    process = start(
        ("-m", "tests.support.fake_siphon", "ranni_player.__main__",
         *arguments(policy, server, 100.0))
    )  # fmt: skip
    server.wait_for(lambda: server.down == set(HELD.values()), seconds=120)
    process.send_signal(end)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not server.down
    assert "Traceback" not in err


def test_keys_are_released_when_the_policys_machine_is_killed(server):
    with serving(CHECKPOINT) as (process, url):

        def kill():
            server.wait_for(lambda: server.down)
            os.kill(process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        done = run(command.main, *arguments(url, server, 60.0))
        killer.join()
    assert done.status == 1
    assert f"error: {url}: the connection was lost at tick" in done.err
    assert "Traceback" not in done.err
    assert not server.down
