"""The recorder: what it writes, how it continues, what it refuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
import zarr

from gameplay_pipeline import record as recorder
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record
from tests.support import toy_env
from tests.support.commands import Done, run

ROOT = Path(__file__).parents[2]


def _record(out: Path, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "env": "tests.support.toy_env:Toy-v0",
        "policy": "expert",
        "episodes": 3,
        "resolution": "40x30",
        "workers": 1,
    }
    record(RecordConfig(out=out, **{**arguments, **changes}))


def _command(out: Path, *extra: str) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "gameplay_pipeline.record",
        "--env",
        "tests.support.toy_env:Toy-v0",
    ]
    return [*command, "--resolution", "40x30", "--out", str(out), *extra]


def _run(out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(out, *extra), cwd=ROOT, capture_output=True, text=True)


def _run_here(out: Path, *extra: str) -> Done:
    return run(recorder.main, *_command(out, *extra)[3:])


def _content(path: Path) -> dict[str, Any]:
    """Every array and attribute of a dataset."""
    root = zarr.open_group(path, mode="r")
    found: dict[str, Any] = {"attributes": dict(root.attrs)}
    for name, group in root.groups():
        arrays = {key: np.asarray(array[:]).tolist() for key, array in group.arrays()}
        found[name] = {"attributes": dict(group.attrs), **arrays}
    return found


def _play(
    env_id: str, seed: int, expert: bool = True, **style: str
) -> tuple[list, list, list, dict]:
    """Frames, actions, observations and last info of an episode, played by hand."""
    env = gymnasium.make(env_id, disable_env_checker=True)
    derived = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    observation, info = env.reset(seed=seed)
    env.action_space.seed(derived)
    player = env.unwrapped.make_expert(derived, **style) if expert else None
    if player is not None:
        player.reset()
    frames, actions, states, over = [], [], [], False
    while not over:
        image = observation["frame"] if isinstance(observation, dict) else observation
        frames.append(image.copy())
        states.append(observation)
        actions.append(player.act(observation) if player is not None else env.action_space.sample())
        observation, _, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated
    return frames, actions, states, info


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_written_is_what_was_played(tmp_path, zarr_format):
    out = tmp_path / "toy.zarr"
    _record(out, seed=7, zarr_format=zarr_format)
    root = zarr.open_group(out, mode="r", zarr_format=zarr_format)
    assert dict(root.attrs) == {
        "keys": ["left", "right", "hit"],
        "attributes": ["hp", "animation", "tick"],
        "fps": 17.0,
        "color_order": "RGB",
        "resize": "none",
        "resolution": [30, 40],
        "source": {"env": "tests.support.toy_env:Toy-v0", "policy": "expert", "seed": 7},
        "version": 1,
    }
    assert sorted(root.group_keys()) == ["episode_0", "episode_1", "episode_2"]
    for number in range(3):
        frames, actions, states, info = _play("tests.support.toy_env:Toy-v0", 7 + number)
        group: Any = root[f"episode_{number}"]
        expected = np.moveaxis(np.stack(frames), -1, 1)
        np.testing.assert_array_equal(group["frames"][:], expected)
        np.testing.assert_array_equal(group["actions"][:], np.stack(actions).astype(bool))
        state = [[s["hp"], s["animation"], s["tick"]] for s in states]
        np.testing.assert_array_equal(group["state"][:], np.array(state).astype(np.float32))
        types = [group[name].dtype for name in ("frames", "actions", "state")]
        assert types == [np.uint8, np.bool_, np.float32]
        assert dict(group.attrs) == {
            "outcome": info["outcome"],
            "boss_health_removed": 0.5,
            "seed": 7 + number,
            "policy": "expert",
            "fps": 17.0,
            "frame_count": len(frames),
        }
        assert group["frames"].chunks == (1, 3, 30, 40)
        assert group["frames"].shards == (None if zarr_format == 2 else (512, 3, 30, 40))
    # Readers take a missing chunk for damage, so even a black frame must be stored.
    if zarr_format == 2:
        assert (out / "episode_0/frames/0.0.0.0").is_file()
    assert not (tmp_path / "toy.zarr.partial").exists()


def test_an_episode_longer_than_a_shard(tmp_path):
    out = tmp_path / "long.zarr"
    _record(out, env="tests.support.toy_env:Long-v0", episodes=1)
    frames = _play("tests.support.toy_env:Long-v0", 0)[0]
    group: Any = zarr.open_group(out, mode="r")["episode_0"]
    np.testing.assert_array_equal(group["frames"][:], np.moveaxis(np.stack(frames), -1, 1))
    assert len(group["actions"][:]) == len(frames) == 515


def test_a_plain_image_is_resized_and_its_buttons_are_named(tmp_path):
    out = tmp_path / "plain.zarr"
    _record(
        out, env="tests.support.toy_env:Plain-v0", policy="random", episodes=2, resolution="20x10"
    )
    root: Any = zarr.open_group(out, mode="r")
    assert root.attrs["resize"] == "area"
    assert root.attrs["keys"] == ["button_0", "button_1"]
    assert "attributes" not in root.attrs
    assert "fps" not in root.attrs
    for number in range(2):
        frames, actions, *_ = _play("tests.support.toy_env:Plain-v0", number, expert=False)
        small = [cv2.resize(frame, (20, 10), interpolation=cv2.INTER_AREA) for frame in frames]
        group = root[f"episode_{number}"]
        assert set(group.array_keys()) == {"frames", "actions"}
        np.testing.assert_array_equal(group["frames"][:], np.moveaxis(np.stack(small), -1, 1))
        np.testing.assert_array_equal(group["actions"][:], np.stack(actions).astype(bool))


STYLED = "tests.support.toy_env:Styled-v0"


def _asked(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Style and instruction of the episodes, in order."""
    attributes = [content[f"episode_{i}"]["attributes"] for i in range(len(content) - 1)]
    return [(each["style"], each["instruction"]) for each in attributes]


def test_styles_take_turns_and_episodes_hold_an_instruction(tmp_path):
    _record(tmp_path / "mixed.zarr", env=STYLED, style="mixed", episodes=12, seed=4)
    content = _content(tmp_path / "mixed.zarr")
    assert content["attributes"]["source"] == {
        "env": STYLED,
        "policy": "expert",
        "seed": 4,
        "style": "mixed",
    }
    asked = _asked(content)
    # Episode i has the seed 4 + i.
    assert [style for style, _ in asked] == ["wild", "idle", "calm"] * 4
    for number, (style, instruction) in enumerate(asked):
        assert instruction in toy_env.Styled.styles[style]
        actions = _play(STYLED, 4 + number, style=style)[1]
        assert content[f"episode_{number}"]["actions"] == np.stack(actions).astype(bool).tolist()
    assert len({instruction for style, instruction in asked if style == "calm"}) > 1


def test_one_style_for_all_episodes(tmp_path):
    _record(tmp_path / "wild.zarr", env=STYLED, style="wild", episodes=6)
    asked = _asked(_content(tmp_path / "wild.zarr"))
    assert {style for style, _ in asked} == {"wild"}
    assert {instruction for _, instruction in asked} == {"go wild", "hit everything"}
    # The same seeds say the same, whatever else is asked for.
    _record(tmp_path / "mixed.zarr", env=STYLED, style="mixed", episodes=6)
    mixed = _asked(_content(tmp_path / "mixed.zarr"))
    assert [each for each in mixed if each[0] == "wild"] == [asked[1], asked[4]]


def test_without_a_style_there_is_neither_style_nor_instruction(tmp_path):
    _record(tmp_path / "styled.zarr", env=STYLED)
    _record(tmp_path / "toy.zarr")
    styled, toy = _content(tmp_path / "styled.zarr"), _content(tmp_path / "toy.zarr")
    assert styled["attributes"].pop("source") == {"env": STYLED, "policy": "expert", "seed": 0}
    toy["attributes"].pop("source")
    assert styled == toy
    assert not {"style", "instruction"} & styled["episode_0"]["attributes"].keys()


def test_workers_and_continuing_change_no_style(tmp_path):
    _record(tmp_path / "one.zarr", env=STYLED, style="mixed", episodes=7)
    _record(tmp_path / "two.zarr", env=STYLED, style="mixed", episodes=2)
    _record(tmp_path / "two.zarr", env=STYLED, style="mixed", episodes=7, workers=2)
    assert _content(tmp_path / "one.zarr") == _content(tmp_path / "two.zarr")


@pytest.mark.parametrize(
    ("first", "then", "difference"),
    [
        ("mixed", "wild", "written with mixed, asked for wild"),
        (None, "mixed", "written with none, asked for mixed"),
        ("wild", None, "written with wild, asked for none"),
    ],
)
def test_another_style_is_refused(tmp_path, first, then, difference):
    out = tmp_path / "toy.zarr"
    _record(out, env=STYLED, style=first, episodes=1)
    before = _content(out)
    with pytest.raises(UserError, match=f"source.style: {difference}"):
        _record(out, env=STYLED, style=then)
    assert _content(out) == before


def test_workers_and_continuing_change_nothing(tmp_path, capsys):
    _record(tmp_path / "one.zarr", episodes=5)
    _record(tmp_path / "two.zarr", episodes=2, workers=2)
    capsys.readouterr()
    _record(tmp_path / "two.zarr", episodes=5, workers=2)
    assert "2 of 5 episodes are recorded already, 3 left" in capsys.readouterr().out
    assert _content(tmp_path / "one.zarr") == _content(tmp_path / "two.zarr")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "two.zarr").rglob("*")}
    _record(tmp_path / "two.zarr", episodes=5)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "two.zarr").rglob("*")}
    assert before == after


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_continues_as_if_it_had_not(tmp_path, end):
    _record(tmp_path / "whole.zarr", episodes=6)
    out = tmp_path / "stopped.zarr"
    command = _command(out, "--episodes", "6", "--workers", "2")
    slow = {**os.environ, "TOY_SECONDS_A_TICK": "0.03"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("episode_*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(end)
    error = process.communicate(timeout=30)[1]
    left = list(out.glob("episode_*"))
    assert 0 < len(left) < 6
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command to continue" in error
        assert len(error.splitlines()) == 1
    whole = _content(tmp_path / "whole.zarr")
    stopped = _content(out)
    assert all(stopped[episode.name] == whole[episode.name] for episode in left)
    continued = _run_here(out, "--episodes", "6", "--workers", "1")
    assert continued.status == 0, continued.err
    assert f"{len(left)} of 6 episodes are recorded already" in continued.out
    assert _content(out) == whole
    assert not (tmp_path / "stopped.zarr.partial").exists()


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    out = tmp_path / "toy.zarr"
    stuck = {**os.environ, "TOY_SECONDS_A_TICK": "600"}
    process = subprocess.Popen(
        _command(out, "--workers", "2"), cwd=ROOT, env=stuck, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    begun = tmp_path / "toy.zarr.partial"
    while len(list(begun.glob("episode_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    # The workers hold the other end of the pipe for as long as they live.
    process.communicate(timeout=30)
    assert begun.exists()
    _record(out, episodes=1)
    assert not begun.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crashing_episode_is_named_and_not_written(tmp_path, workers):
    out = tmp_path / "crash.zarr"
    lengths = [len(_play("tests.support.toy_env:Toy-v0", seed)[0]) for seed in range(6)]
    bad = [number for number, length in enumerate(lengths) if length % 3 == 0]
    assert 0 < len(bad) < 6
    with pytest.raises(UserError) as error:
        _record(out, env="tests.support.toy_env:Crashing-v0", episodes=6, workers=workers)
    message = str(error.value)
    assert f"failed in {len(bad)} of 6 episodes" in message
    assert message.count("ZeroDivisionError: the boss fell through the floor") == len(bad)
    assert message.count("toy_env.py:") == len(bad)
    for number in range(6):
        assert (f"episode_{number}:" in message) == (number in bad)
        assert (out / f"episode_{number}").exists() == (number not in bad)


def test_a_worker_that_dies_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"a worker process died \(exit code 9\)"):
        _record(tmp_path / "out.zarr", env="tests.support.toy_env:Killed-v0", workers=2)
    assert not list((tmp_path / "out.zarr").glob("episode_*"))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"env": "tests.support.toy_env:Long-v0"},
            "source.env: written with tests.support.toy_env:Toy-v0",
        ),
        ({"policy": "random"}, "source.policy: written with expert, asked for random"),
        ({"seed": 1}, "source.seed: written with 0, asked for 1"),
        ({"resolution": "20x10"}, "resolution: written with [30, 40], asked for [10, 20]"),
        ({"zarr_format": 2}, "zarr_format: written with 3, asked for 2"),
    ],
)
def test_other_settings_are_refused(tmp_path, changes, difference):
    out = tmp_path / "toy.zarr"
    _record(out, episodes=1)
    before = _content(out)
    with pytest.raises(UserError) as error:
        _record(out, **{"episodes": 2, **changes})
    assert difference in str(error.value)
    assert str(error.value).count("written with") == 2  # the heading and this one difference
    assert _content(out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "tests.support.toy_env:Joystick-v0", "policy": "random"}, "only MultiBinary"),
        ({"env": "tests.support.toy_env:Blind-v0", "policy": "random"}, "only an image"),
        ({"env": "tests.support.toy_env:Plain-v0"}, "--policy random"),
        (
            {"env": "tests.support.toy_env:Misnamed-v0"},
            "has 3 buttons, but its action_names are left, ri",
        ),
        ({"env": "tests.support.toy_env:Unmakeable-v0"}, "the game is not installed"),
        ({"env": "tests.support.toy_env:Nothing-v0"}, "Nothing"),
        ({"env": "no_such_module:Toy-v0"}, "no_such_module"),
        ({"policy": "best"}, "policy: Input should be 'expert', 'random' or 'human', not 'best'"),
        ({"episodes": 0}, "episodes: Input should be greater than or equal to 1, not 0"),
        ({"workers": 0}, "workers: Input should be greater than or equal to 1, not 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, not -1"),
        ({"zarr_format": 1}, "zarr_format: Input should be 2 or 3, not 1"),
        ({"resolution": "512x"}, "WIDTHxHEIGHT"),
        ({"resolution": "0x0"}, "WIDTHxHEIGHT"),
        ({"out": Path()}, "must name the dataset"),
        ({"style": "mixed"}, "its expert has no styles of play (styles); record it without --st"),
        ({"style": "mixed", "policy": "random"}, "only the policy expert has styles"),
        (
            {"style": "wlid", "env": STYLED},
            "has no style 'wlid'; it has calm, wild, idle, and mixed for all",
        ),
        (
            {"style": "calm", "env": "tests.support.toy_env:Unspoken-v0"},
            "instructions of its style 'wild' are 'go wild', but must be one or more texts",
        ),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, message):
    with pytest.raises((UserError, ValueError)) as error:
        _record(**{"out": tmp_path / "out.zarr", **changes})
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_holds_something_else_is_refused(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "todo.txt").write_text("mine")
    for out in (notes, notes / "todo.txt"):
        with pytest.raises(UserError, match="no zarr dataset"):
            _record(out)
    with pytest.raises(UserError, match="can't be written: Not a directory"):
        _record(notes / "todo.txt" / "out.zarr")
    assert [file.read_text() for file in tmp_path.rglob("*.txt")] == ["mine"]


def test_a_full_disk_keeps_what_is_complete(tmp_path):
    out = tmp_path / "toy.zarr"
    _record(out, episodes=1)
    # A limit on the size of files fails in write() as a full disk does.
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000, 20_000)); "
    module = "import runpy; runpy.run_module('gameplay_pipeline.record', run_name='__main__')"
    arguments = _command(out, "--episodes", "3", "--workers", "1")[3:]
    failed = subprocess.run(
        [sys.executable, "-c", limited + module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert "episode_1 can't be written: File too large" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert [path.name for path in out.glob("episode_*")] == ["episode_0"]
    _record(out)
    _record(tmp_path / "whole.zarr")
    assert _content(out) == _content(tmp_path / "whole.zarr")


def test_the_command(tmp_path):
    out = tmp_path / "new" / "toy.zarr"
    done = _run(out, "--policy", "expert", "--episodes", "2", "--seed", "3", "--zarr-format", "2")
    assert done.returncode == 0, done.stderr
    _record(tmp_path / "called.zarr", episodes=2, seed=3, zarr_format=2)
    content = _content(out)
    assert content == _content(tmp_path / "called.zarr")
    episodes = [content[f"episode_{number}"]["attributes"] for number in range(2)]
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if "│" in line}
    assert f" {sum(episode['frame_count'] for episode in episodes)} " in rows["frames"]
    won = sum(episode["outcome"] == "won" for episode in episodes)
    assert f" {won} " in rows["won"]
    for arguments, message in (
        (("--resolution", "512x"), "WIDTHxHEIGHT"),
        (("--policy", "best"), "best"),
        (("--policy", "random", "--style", "mixed"), "style: "),
    ):
        refused = _run_here(tmp_path / "no.zarr", *arguments)
        assert refused.status == 2
        assert message in refused.err + refused.out
    failed = _run_here(out, "--seed", "4")
    assert failed.status == 1
    assert failed.err.startswith("error: ")
    assert "source.seed" in failed.err


def test_what_is_recorded_is_a_dataset_to_the_trainer(tmp_path):
    from BC_training.common.episodes import Episodes

    for zarr_format in (2, 3):
        out = tmp_path / f"toy{zarr_format}.zarr"
        _record(out, zarr_format=zarr_format)
        episodes = Episodes(out, validate=False)
        assert episodes.actions == toy_env.ACTIONS
        assert episodes.state_names == toy_env.STATE
        frames = _play("tests.support.toy_env:Toy-v0", 1)[0]
        np.testing.assert_array_equal(episodes.read_frames(1, slice(None)), np.stack(frames))


def test_a_disturbed_player_is_recorded_with_what_it_chose(tmp_path):
    shares = []
    for disturb in (0.0, 0.3):
        out = tmp_path / f"{disturb}.zarr"
        _record(out, env="tests.support.toy_env:Long-v0", episodes=2, disturb=disturb)
        root: Any = zarr.open_group(out, mode="r")
        assert root.attrs["source"].get("disturb") == (disturb or None)
        for number in range(2):
            group = root[f"episode_{number}"]
            frames = np.moveaxis(group["frames"][:], 1, -1)
            expert = toy_env.Expert(int(np.random.SeedSequence([number, 1]).generate_state(1)[0]))
            expert.reset()
            chosen = np.array([expert.act({"frame": frame}) for frame in frames], bool)
            np.testing.assert_array_equal(group["actions"][:], chosen)
            done = frames[1:, 0, 0] > 128  # the toy shows what was pressed a tick before
            shares.append((done != chosen[:-1]).any(axis=1).mean())
    assert shares[:2] == [0, 0]
    assert all(0.12 < share < 0.35 for share in shares[2:])
    assert shares[2] != shares[3]
    with pytest.raises(UserError, match=r"source.disturb: written with 0.3, asked for none"):
        _record(out, env="tests.support.toy_env:Long-v0", episodes=3)
    with pytest.raises(ValueError, match="disturb: Input should be less than 1, not 1"):
        _record(tmp_path / "new.zarr", disturb=1)
