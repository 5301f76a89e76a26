"""The live game's client against a server without a game: frames, keys, and everything that fails.

The client is the real one; only its waits for menus are shortened.
"""

import json
import signal
import threading
import time

import cv2
import numpy as np
import pytest

for _module in ("eldengym", "pysiphon"):
    pytest.importorskip(
        _module, reason="needs the dependency group: uv run --group eldengym pytest"
    )

from BC_training import rollout
from BC_training.play.fights import make_env
from gameplay_pipeline.environments.adapter import Adapter, Wanted, make
from gameplay_pipeline.environments.live import GameLost, LiveGame
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import run, start
from tests.support.fake_siphon import FakeSiphon, impatient_game, recorded_fight
from tests.support.in_play import same_in_play_and_training
from tests.support.made_policy import ACTIONS, made_bundle, save_policy

MARGIT = "gameplay_pipeline.environments.live:Margit-v0"
KEYS = dict(
    zip(ACTIONS, ("A", "B", "LEFT_SHIFT", "D", "P", "S", "W"), strict=True)
)  # of the client's own file of bindings
FIGHT = recorded_fight()
CONTRACT = {"color_order": "BGR", "resize": "unknown", "fps": 50.0}


@pytest.fixture
def server(monkeypatch):
    with impatient_game(monkeypatch, FIGHT, begin_s=1.5, release_s=3.0) as fake:
        yield fake


@pytest.fixture
def game(server):
    made = LiveGame("Margit-v0", server.host, 64, 36, ACTIONS, ("HeroHp", "HeroAnimId"), 50.0)
    yield made
    made.close()
    assert not server.down


def begin(game, server):
    """Goes to the boss; forgets what was done on the way."""
    observation, _ = game.reset()
    server.keys.clear()
    return observation


def buttons(*names):
    return np.array([name in names for name in ACTIONS], np.int8)


def go_on(game):
    for _ in range(200):
        game.step(buttons("move_forward", "attack"))


def shown():
    """What a policy may see: the served frames, decoded and resized as in training."""
    found = []
    for frame in FIGHT[0]:
        decoded = cv2.imdecode(cv2.imencode(".jpg", frame)[1], cv2.IMREAD_COLOR)
        found.append(cv2.resize(decoded, (64, 36), interpolation=cv2.INTER_AREA))
    return found


def test_the_right_keys_go_down_at_the_right_ticks(game, server):
    begin(game, server)
    first = server.tick
    plan = [("move_forward",), ("move_forward", "attack"), ("attack",), (), ("lock_on",), ()]
    for pressed in plan:
        game.step(buttons(*pressed))
    expected = [(0, "W", True), (1, "P", True), (2, "W", False), (3, "P", False),
                (4, "B", True), (5, "B", False)]  # fmt: skip
    assert [(tick - first, key, down) for tick, key, down in server.keys] == expected
    assert ("W", "E") in server.taps  # through the fog to the boss
    assert game.action_names == ACTIONS


def test_frames_and_attributes_are_the_games(game, server):
    observation = begin(game, server)
    images, served = shown(), FIGHT[1]
    for _ in range(10):
        assert any(np.array_equal(observation["frame"], image) for image in images)
        assert game.observation_space.contains(observation)
        assert observation["HeroAnimId"] in [row["HeroAnimId"] for row in served]
        assert observation["HeroAnimId"].dtype.kind == "i"
        observation, _, _, _, info = game.step(buttons())
    # Each tick reads once: the attributes are those of this very tick.
    assert observation["HeroHp"] == served[min(server.tick, 39)]["HeroHp"]
    assert set(observation) == {"frame", "HeroHp", "HeroAnimId"}
    assert info["outcome"] == ""
    assert info["counts"]["failed_reads"] == 0


def test_ticks_keep_the_rate(game, server):
    begin(game, server)
    for _ in range(25):
        *_, info = game.step(buttons())
    assert info["seconds"] >= 25 / 50
    if info["counts"]["late_ticks"] == 0:  # on a machine that is not too busy
        assert info["seconds"] < 25 / 50 + 0.2
    server.read_seconds = 0.03
    for _ in range(5):
        *_, slow = game.step(buttons())
    assert slow["counts"]["late_ticks"] >= info["counts"]["late_ticks"] + 4


def test_where_no_frame_comes_the_last_one_is_repeated_and_counted(game, server):
    begin(game, server)
    before, *_ = game.step(buttons())
    for lever, counted in (("silent", 0), ("garbage", 1)):
        setattr(server, lever, True)
        game.step(buttons())  # may still find one that was under way
        last, *_, was = game.step(buttons())
        for _ in range(5):
            observation, *_, info = game.step(buttons("attack"))
            assert observation["frame"] is last["frame"]
            assert observation["frame"].any()
        counts = {key: info["counts"][key] - was["counts"][key] for key in info["counts"]}
        assert counts["repeated_frames"] == 5
        assert (counts["broken_frames"] > 0) == bool(counted)
        setattr(server, lever, False)
        server.wait_for(lambda: game._game._stream_handle.has_new_frame)
        observation, *_ = game.step(buttons())
        assert observation["frame"] is not last["frame"]
    assert before["frame"].shape == (36, 64, 3)


def test_an_attribute_that_fails_is_repeated_and_counted(game, server):
    begin(game, server)
    known, *_ = game.step(buttons())
    server.unreadable = {"HeroAnimId", "NpcHp"}
    for _ in range(4):
        observation, _, terminated, _, info = game.step(buttons())
        assert observation["HeroAnimId"] == known["HeroAnimId"]
        assert not terminated
    assert info["counts"]["failed_reads"] == 8


@pytest.mark.parametrize(
    ("levers", "message"),
    [
        ({"unreadable": {"HeroAnimId"}}, "HeroAnimId can't be read"),
        ({"silent": True}, "the fight does not begin: no frame came"),
        ({"garbage": True}, r"no frame came; \d+ frames were broken"),
        ({"overrides": {"NpcMaxHp": 0, "NpcHp": 0}}, "NpcHp is 0; NpcMaxHp is 0"),
        ({"unreadable": {"HeroLocalPosX"}}, "the hero's position can't be read"),
    ],
)
def test_a_fight_that_does_not_begin_is_explained(game, server, levers, message):
    for lever, value in levers.items():
        setattr(server, lever, value)
    time.sleep(0.1)  # for what was under way
    with pytest.raises(GameLost, match=message):
        game.reset()


@pytest.mark.parametrize(
    ("lever", "value", "message"),
    [
        ("silent", True, "sent no frame for 0.5 s"),
        ("garbage", True, r"of \d+ broken ones"),
        ("keys_refused", True, "does not take the key P: no window"),
        ("read_seconds", 5.0, "nothing can be read any more, such as HeroHp"),
    ],
)
def test_a_game_that_does_not_go_on_is_explained_and_the_keys_released(
    game, server, lever, value, message
):
    begin(game, server)
    game.step(buttons("move_forward"))
    assert server.down == {"W"}
    setattr(server, lever, value)
    with pytest.raises(GameLost, match=message):
        go_on(game)
    if lever == "keys_refused":
        server.keys_refused = False
        game.release()
    assert not server.down


def test_a_stream_that_ends_is_taken_up_again(game, server):
    begin(game, server)
    server.cut_stream()
    streams = server.streams
    for _ in range(15):
        observation, *_, info = game.step(buttons())
        assert observation["frame"].any()
    assert info["counts"]["stream_restarts"] >= 1
    assert server.streams > streams
    server.wait_for(lambda: game._game._stream_handle.has_new_frame)


def test_a_server_that_dies_in_mid_fight(game, server, capsys):
    begin(game, server)
    game.step(buttons("move_forward"))
    server.stop()
    with pytest.raises(GameLost, match="does not take the key P"):
        game.step(buttons("move_forward", "attack"))
    assert "these keys may still be down on its machine: P, W" in capsys.readouterr().err
    # It comes back: what may be down is let go of.
    again = FakeSiphon(*FIGHT, port=server.port)
    try:
        again.down = {"W"}
        game.release()
        assert again.down == set()
        assert [key for _, key, down in again.keys if not down] == ["P", "W"]
    finally:
        again.stop()
    server.down.clear()


@pytest.mark.parametrize(
    ("overrides", "outcome"),
    [
        ({"NpcHp": 0}, "won"),
        ({"HeroHp": 0}, "lost"),
        ({"HeroHp": 0, "NpcHp": 0}, "lost"),
        ({}, "timeout"),
    ],
)
def test_how_a_fight_ends(server, overrides, outcome):
    game = LiveGame("Margit-v0", server.host, 64, 36, ACTIONS, fps=50.0, max_seconds=0.4)
    begin(game, server)
    game.step(buttons("attack"))
    server.overrides = overrides
    over = False
    while not over:
        *_, reward, terminated, truncated, info = game.step(buttons("attack"))
        over = terminated or truncated
        assert (info["outcome"] == outcome) == over
    assert terminated == (outcome != "timeout")
    assert not server.down
    if outcome == "won":
        assert info["boss_health_removed"] == 1
        assert reward == pytest.approx(2, abs=0.1)
    game.close()


def test_a_server_that_is_down_or_has_no_game_is_named(server):
    wanted = Wanted(64, 36, ACTIONS)
    nowhere = Adapter(arguments={"host": "127.0.0.1:1"})
    with pytest.raises(UserError, match=r"no Siphon server answers at 127\.0\.0\.1:1"):
        make(MARGIT, nowhere, wanted)
    server.memory_missing = True
    here = Adapter(arguments={"host": server.host})
    with pytest.raises(UserError, match=r"no process eldenring\.exe"):
        make(MARGIT, here, wanted)
    server.memory_missing = False
    with pytest.raises(UserError, match=r"Unknown actions.*teleport"):
        make(MARGIT, here, Wanted(64, 36, ("teleport",)))


def test_it_is_made_as_a_policy_needs_it(server):
    bundle = made_bundle(**CONTRACT)
    adapter = Adapter(arguments={"host": server.host})
    env = make_env(MARGIT, bundle, adapter)
    assert (env.action_names, env.fps, env.attribute_names) == (ACTIONS, 50.0, ())
    assert not env.parallel
    env.close()
    with pytest.raises(UserError, match="color_order BGR, trained on RGB; resize area, trained on"):
        make_env(MARGIT, made_bundle(), adapter)


def saved_policy(tmp_path, server):
    """A policy that always holds move_forward and attack, and its arguments."""
    held = tuple(0.0 if name in ("move_forward", "attack") else 1.0 for name in ACTIONS)
    bundle = made_bundle(**CONTRACT).model_copy(update={"thresholds": held})
    folder = save_policy(tmp_path / "run", bundle)
    adapter = json.dumps({"arguments": {"host": server.host, "max_seconds": 1.0}})
    return folder, ("--checkpoint", str(folder), "--env", MARGIT, "--adapter", adapter)


def test_fights_of_a_checkpoint(tmp_path, server):
    folder, arguments = saved_policy(tmp_path, server)
    done = run(rollout.main, *arguments, "--episodes", "2", "--no_baselines",
               "--video", tmp_path / "margit.mp4")  # fmt: skip
    assert done.status == 0, done.err
    found = json.loads((folder / "fights.json").read_text())
    assert [fight["won"] for fight in found["fights"]] == [False, False]
    assert "repeated_frames" in found["summary"]["pure_cnn"]["counts"]
    went_down = [key for _, key, down in server.keys if down]
    assert sorted(went_down) == ["P", "P", "W", "W"]
    assert not server.down
    assert (tmp_path / "margit.mp4").stat().st_size > 1000
    refused = run(rollout.main, *arguments, "--workers", "2")
    assert f"--workers 2: {MARGIT} can run only one instance at a time" in refused.err


def test_results_so_far_are_kept_when_the_server_dies(tmp_path, server):
    folder, arguments = saved_policy(tmp_path, server)

    def kill():
        file = folder / "fights.json"
        server.wait_for(lambda: file.exists() and json.loads(file.read_text())["fights"])
        server.wait_for(lambda: server.down)
        server.stop()

    killer = threading.Thread(target=kill)
    killer.start()
    done = run(rollout.main, *arguments, "--episodes", "4", "--no_baselines")
    killer.join()
    assert done.status == 1
    assert "GameLost" in done.err
    assert "no Siphon server answers" in done.err
    assert "these keys may still be down" in done.err
    assert "Traceback" not in done.err
    found = json.loads((folder / "fights.json").read_text())
    assert len(found["fights"]) == 1
    assert len(found["failures"]) == 1
    assert found["summary"]["pure_cnn"]["fights"] == 1


def test_a_terminal_that_hangs_up_releases_the_keys(tmp_path, server):
    arguments = saved_policy(tmp_path, server)[1]
    long = json.loads(arguments[-1])
    long["arguments"]["max_seconds"] = 100
    command = ("-m", "tests.support.fake_siphon", "BC_training.rollout")
    process = start((*command, *arguments[:-1], json.dumps(long)))
    server.wait_for(lambda: server.down == {"P", "W"}, seconds=120)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not server.down
    assert "Traceback" not in err


@pytest.mark.parametrize("end", ["an error", "SIGTERM", "SIGQUIT"])
def test_keys_are_released_when_nobody_closes_the_game(server, end):
    script = (
        "import numpy as np, time; from tests.support.fake_siphon import quicken; quicken()\n"
        "from gameplay_pipeline.environments.live import LiveGame\n"
        f"game = LiveGame('Margit-v0', {server.host!r}, 64, 36, ['attack', 'jump'])\n"
        "game.reset(); game.step(np.array([1, 1])); print('both are down', flush=True)\n"
        + ("raise ZeroDivisionError" if end == "an error" else "time.sleep(100)")
    )
    process = start(("-c", script))
    if end != "an error":
        assert process.stdout is not None
        assert "both are down\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.Signals[end])
    _, err = process.communicate(timeout=60)
    assert process.returncode == {"an error": 1, "SIGTERM": 143, "SIGQUIT": 131}[end], err
    assert ("ZeroDivisionError" in err) == (end == "an error")
    assert [key for _, key, down in server.keys if down] == ["P", "SPACE"]
    assert not server.down


def test_keys_that_a_killed_run_left_down_are_released_by_the_next(server):
    server.down = {"W", "P", "LEFT_SHIFT"}
    LiveGame("Margit-v0", server.host, 64, 36, ACTIONS).close()
    assert not server.down


def test_the_live_game_shows_in_play_what_was_recorded(tmp_path, server):
    server.jpegs, server.attributes = server.jpegs * 4, server.attributes * 4
    arguments = {"host": server.host, "attributes": ("HeroHp", "HeroAnimId", "NpcAnimId")}
    env = make(MARGIT, Adapter(arguments=arguments), Wanted(64, 36, ACTIONS))
    same_in_play_and_training(env, tmp_path)
    env.close()
