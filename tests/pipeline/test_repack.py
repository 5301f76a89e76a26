"""Rewriting datasets: zarr-python reads what came out, a slow reference says what should have."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr

from BC_training.common.episodes import Episodes
from gameplay_pipeline import repack
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.repack import Repacking
from gameplay_pipeline.store import writer
from tests.support.made_data import as_objects, make_dataset, zipped

ROOT = Path(__file__).parents[2]

LAYOUTS = {
    "v2": {},
    "v2, 64 a chunk": {"chunk": 64},
    "v3, sharded": {"zarr_format": 3, "shard": 16},
}


def run(source, out, **options) -> int:
    return repack.repack(Repacking(str(source), out, **{"workers": 1, **options}))


def read(path, number):
    group = zarr.open_group(path, mode="r")[f"episode_{number}"]
    return {name: array[:] for name, array in group.arrays()}


def test_two_processes_never_write_one_dataset(made, tmp_path):
    out = tmp_path / "out.zarr"
    with (
        writer.sole_writer(out),
        pytest.raises(UserError, match=r"out\.zarr: another process is writing it"),
    ):
        run(made.path, out)
    assert run(made.path, out) == 0
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_nothing_changes_but_the_layout(tmp_path, layout, packed, zarr_format, capsys):
    made = make_dataset(tmp_path / "made.zarr", **LAYOUTS[layout])
    zarr.open_group(made.path)["episode_1"].attrs.update({"outcome": "won", "fps": 17.0})
    zarr.open_group(made.path)["episode_1"].create_array("timestamps", data=np.arange(30) / 17)
    zarr.open_group(made.path)["episode_1"].create_array("notes", data=np.arange(30))
    source = zipped(made.path) if packed else made.path
    assert run(source, tmp_path / "out.zarr", zarr_format=zarr_format) == 0
    root = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert root.attrs["keys"] == ["left", "right", "hit"]
    assert (root.attrs["fps"], root.attrs["resolution"]) == (17.0, [24, 32])
    assert root.attrs["source"]["repacked_from"] == str(source)
    assert dict(root["episode_1"].attrs) == {"outcome": "won", "fps": 17.0, "frame_count": 30}
    for number in range(5):
        found = read(tmp_path / "out.zarr", number)
        assert np.array_equal(found["frames"], made.frames[number])
        assert np.array_equal(found["actions"], made.actions[number])
        assert np.array_equal(found["state"], made.state[number])
        assert ("timestamps" in found) == (number == 1)
    out = capsys.readouterr().out
    assert "frames read back, all equal: 175" in out
    assert "not carried over: the array 'notes'" in out


def test_what_a_person_corrected_stays(made, tmp_path, capsys):
    rng = np.random.default_rng(1)
    pressed, drove = rng.random((30, 3)) < 0.3, rng.random(30) < 0.2
    group = zarr.open_group(made.path)["episode_1"]
    group.create_array("policy_actions", data=pressed)
    group.create_array("intervention", data=drove)
    zarr.open_group(made.path)["episode_2"].create_array("intervention", data=np.arange(50))
    assert run(made.path, tmp_path / "out.zarr", every=2) == 1
    found = read(tmp_path / "out.zarr", 1)
    assert np.array_equal(found["policy_actions"], pressed[::2] | pressed[1::2])
    assert np.array_equal(found["intervention"], drove[::2] | drove[1::2])
    assert "intervention" not in read(tmp_path / "out.zarr", 0)
    out = capsys.readouterr().out
    assert "not carried over" not in out
    assert "episode_2: its intervention are int64 (50,), not bool (50,)" in out


def grey(frames):
    """What all three channels show where a picture has but one."""
    return frames.mean(axis=1, keepdims=True).astype(np.uint8)


STORED = {
    "channels last": (lambda f: np.moveaxis(f, 1, -1), None, "uint8 [N, 24, 32, 3]: taken for RGB"),
    "alpha last": (
        lambda f: np.moveaxis(np.concatenate([f, f[:, :1] // 2], 1), 1, -1), None, "an alpha",
    ),
    "alpha first": (lambda f: np.concatenate([f, f[:, :1] // 2], 1), None, "an alpha channel"),
    "grey": (lambda f: grey(f)[:, 0], grey, "uint8 [N, 24, 32]: taken for grey"),
    "grey first": (grey, grey, "uint8 [N, 1, 24, 32]: taken for grey"),
    "grey last": (lambda f: np.moveaxis(grey(f), 1, -1), grey, "[N, 24, 32, 1]: taken for grey"),
    "floats": (lambda f: np.moveaxis(f, 1, -1).astype("f4"), None, "float32 [N, 24, 32, 3]"),
}  # fmt: skip
"""How frames may be stored: what is made of [N, 3, H, W], what comes out, what is said."""


def store(group, name, array, chunk=8):
    group.create_array(
        name, shape=array.shape, dtype=array.dtype, chunks=(chunk, *array.shape[1:]),
        config={"write_empty_chunks": True},
    )[:] = array  # fmt: skip


@pytest.mark.parametrize("how", STORED)
def test_frames_of_other_axes_and_channels_are_converted(made, tmp_path, how, capsys):
    stored, expected, said = STORED[how]
    root = zarr.open_group(made.path)
    for number, (frames, actions) in enumerate(zip(made.frames, made.actions, strict=True)):
        group = root[f"episode_{number}"]
        del group["frames"], group["actions"]
        store(group, "frames", stored(frames))
        store(group, "actions", actions.astype("u1"))
    assert run(made.path, tmp_path / "out.zarr") == 0
    for number, frames in enumerate(made.frames):
        found = read(tmp_path / "out.zarr", number)
        wanted = np.broadcast_to(expected(frames), frames.shape) if expected else frames
        assert np.array_equal(found["frames"], wanted)
        assert np.array_equal(found["actions"], made.actions[number])
    text = capsys.readouterr().out
    assert said in text
    assert "its actions were stored as uint8, all of them 0 or 1" in text


def replay_buffer(path, made, zarr_format, **others):
    """Writes the episodes as diffusion_policy does."""
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    data = root.create_group("data")
    store(data, "img", np.concatenate([np.moveaxis(f, 1, -1) for f in made.frames]), chunk=33)
    store(data, "action", np.concatenate(made.actions).astype("f4"), chunk=33)
    store(data, "state", np.concatenate(made.state), chunk=33)
    for name, array in others.items():
        store(data, name, array)
    store(root.create_group("meta"), "episode_ends", np.cumsum([len(f) for f in made.frames]))
    return root


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_a_replay_buffer_is_cut_into_its_episodes(made, tmp_path, zarr_format, packed, capsys):
    path = tmp_path / "replay.zarr"
    replay_buffer(path, made, zarr_format, keypoint=np.zeros((175, 9, 2)))
    source = zipped(path) if packed else path
    with pytest.raises(UserError, match="does not name the buttons; give --keys"):
        run(source, tmp_path / "out.zarr")
    workers = 2 if packed and zarr_format == 3 else 1
    assert run(source, tmp_path / "out.zarr", keys="left, right,hit", workers=workers) == 0
    root = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root.attrs["keys"] == ["left", "right", "hit"]
    assert root.attrs["attributes"] == ["state_0", "state_1"]
    for number in range(5):
        found = read(tmp_path / "out.zarr", number)
        assert np.array_equal(found["frames"], made.frames[number])
        assert np.array_equal(found["actions"], made.actions[number])
        assert np.array_equal(found["state"], made.state[number])
    text = capsys.readouterr().out
    assert "not carried over: the array 'data/keypoint'" in text
    assert "its actions were stored as float32" in text


def test_zeros_that_zarr_left_out_are_written(made, tmp_path, capsys):
    root = zarr.open_group(made.path)
    for name, array in root["episode_1"].arrays():
        if name in ("actions", "state"):
            values = array[:]
            values[8:24] = 0
            del root["episode_1"][name]
            root["episode_1"].create_array(name, data=values, chunks=(8, values.shape[1]))
    assert run(made.path, tmp_path / "out.zarr") == 0
    found = read(tmp_path / "out.zarr", 1)
    assert not found["actions"][8:24].any()
    assert np.array_equal(found["actions"][24:], made.actions[1][24:])
    assert np.array_equal(found["state"][:8], made.state[1][:8])
    assert "its actions are not there: taken for zeros, which zarr leaves out (ticks 8 to 23)" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_replay_buffers_that_make_no_sense_are_refused_or_named(made, tmp_path, capsys):
    root = replay_buffer(tmp_path / "replay.zarr", made, 2)
    root["data/action"][45, 1] = 0.5
    root["data/state"].resize((170, 2))
    assert run(tmp_path / "replay.zarr", tmp_path / "out.zarr", keys="a,b,c") == 2
    text = capsys.readouterr().out
    assert "left out: episode_1: its action b is 0.5 at tick 5; only buttons" in text
    assert "left out: episode_4: it ends at 175, but data/state at 170" in text
    assert run(tmp_path / "replay.zarr", tmp_path / "one.zarr", keys="a") == 5
    assert "actions have shape (175, 3), but 1 columns are named" in capsys.readouterr().out
    root["meta/episode_ends"][1] = 3
    with pytest.raises(UserError, match=r"meta/episode_ends are not whole numbers that rise"):
        run(tmp_path / "replay.zarr", tmp_path / "other.zarr", keys="a,b,c")
    root["meta/episode_ends"][1] = 70
    root["meta/episode_ends"][4] = 2**60
    assert run(tmp_path / "replay.zarr", tmp_path / "far.zarr", keys="a,b,c") == 2
    assert f"episode_4: it ends at {2**60}, but data/" in capsys.readouterr().out
    del root["data/img"]
    with pytest.raises(UserError, match="no frames or img or image in data"):
        run(tmp_path / "replay.zarr", tmp_path / "other.zarr", keys="a,b,c")


def test_what_is_no_picture_or_no_number_is_named(made, tmp_path, capsys):
    root = zarr.open_group(made.path)
    for number, frames in ((0, np.full((40, 24, 32, 3), 0.5)), (1, np.zeros((30, 24, 32, 7, 3)))):
        del root[f"episode_{number}/frames"]
        store(root[f"episode_{number}"], "frames", frames)
    as_objects(made.path / "episode_2" / "state")
    assert run(made.path, tmp_path / "out.zarr") == 3
    text = capsys.readouterr().out
    assert "left out: episode_0: its frames are float64 and not whole numbers" in text
    assert "left out: episode_1: its frames have shape (30, 24, 32, 7, 3)" in text
    assert re.search(r"left out: episode_2: .*(object|\|O)", text)


def test_frames_are_resized_by_area_and_channels_swapped(made, tmp_path):
    with pytest.raises(UserError, match="give --assume-color-order"):
        run(made.path, tmp_path / "out.zarr", color_order="RGB")
    options = {"color_order": "RGB", "assume_color_order": "BGR", "resolution": "16x12"}
    assert run(made.path, tmp_path / "out.zarr", **options) == 0
    attributes = zarr.open_group(tmp_path / "out.zarr").attrs
    assert attributes["color_order"] == "RGB"
    assert (attributes["resize"], attributes["resolution"]) == ("area", [12, 16])
    for number, frames in enumerate(made.frames):
        expected = [
            cv2.resize(np.moveaxis(f, 0, -1), (16, 12), interpolation=cv2.INTER_AREA)[..., ::-1]
            for f in frames
        ]
        found = np.moveaxis(read(tmp_path / "out.zarr", number)["frames"], 1, -1)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("every", [2, 3, 7])
def test_no_press_is_lost_when_ticks_are_dropped(made, tmp_path, every):
    actions = zarr.open_group(made.path)["episode_3/actions"]
    short = np.zeros((20, 3), bool)
    short[every * 2 - 1, 1] = short[19, 2] = True
    actions[:] = short
    made.actions[3][:] = short
    assert run(made.path, tmp_path / "out.zarr", every=every) == 0
    root = zarr.open_group(tmp_path / "out.zarr")
    assert root.attrs["fps"] == pytest.approx(17 / every)
    for number, pressed in enumerate(made.actions):
        found = read(tmp_path / "out.zarr", number)
        expected = []
        for first in range(0, len(pressed), every):
            row = [False] * 3
            for tick in range(first, min(first + every, len(pressed))):
                row = [a or b for a, b in zip(row, pressed[tick], strict=True)]
            expected.append(row)
        assert np.array_equal(found["actions"], expected)
        assert np.array_equal(found["frames"], made.frames[number][::every])
        assert np.array_equal(found["state"], made.state[number][::every])
    assert read(tmp_path / "out.zarr", 3)["actions"].sum() == 2


def test_an_order_of_colours_that_is_unknown_can_be_assumed_once(made, tmp_path):
    zarr.open_group(made.path).attrs["color_order"] = "unknown"
    options = {"color_order": "RGB", "assume_color_order": "BGR"}
    assert run(made.path, tmp_path / "out.zarr", episodes="0", **options) == 0
    found = read(tmp_path / "out.zarr", 0)["frames"]
    assert np.array_equal(found, made.frames[0][:, ::-1])
    shutil.rmtree(tmp_path / "out.zarr")
    assert run(made.path, tmp_path / "out.zarr", episodes="0", **options) == 0
    with pytest.raises(UserError, match=r"source\.read_as: written with BGR, asked for RGB"):
        run(made.path, tmp_path / "out.zarr", color_order="RGB", assume_color_order="RGB")


def test_a_source_where_unfinished_episodes_would_go_is_refused(tmp_path):
    made = make_dataset(tmp_path / "out.zarr.partial")
    with pytest.raises(
        UserError, match=r"must not be inside .*out\.zarr\.partial, where the new dataset"
    ):
        run(made.path, tmp_path / "out.zarr")
    assert np.array_equal(read(made.path, 0)["frames"], made.frames[0])


@pytest.mark.parametrize("value", [True, [1], "hp"])
def test_names_that_are_none_are_refused(made, tmp_path, value):
    zarr.open_group(made.path).attrs["attributes"] = value
    with pytest.raises(UserError, match="the root attribute 'attributes' must be a list of names"):
        run(made.path, tmp_path / "out.zarr")


def test_names_that_are_there_twice_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="has several actions named left"):
        run(made.path, tmp_path / "out.zarr", keys="left,left,hit")
    assert not (tmp_path / "out.zarr").exists()


def test_a_rate_that_is_none_is_refused(made, tmp_path):
    zarr.open_group(made.path).attrs["fps"] = "17"
    with pytest.raises(UserError, match="fps is '17'"):
        run(made.path, tmp_path / "out.zarr")


def test_episodes_are_chosen_by_number_and_keep_it(tmp_path):
    names = ("episode_0", "episode_2", "episode_3", "episode_10", "episode_11")
    make_dataset(tmp_path / "made.zarr", names=names)
    run(tmp_path / "made.zarr", tmp_path / "out.zarr", episodes="2-3, 11")
    found = sorted(zarr.open_group(tmp_path / "out.zarr").group_keys())
    assert found == ["episode_11", "episode_2", "episode_3"]
    with pytest.raises(UserError, match="has no episode 4, 5"):
        run(tmp_path / "made.zarr", tmp_path / "other.zarr", episodes="3-5")
    with pytest.raises(UserError, match="must be numbers such as"):
        run(tmp_path / "made.zarr", tmp_path / "other.zarr", episodes="3-")
    assert not (tmp_path / "other.zarr").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_whole_episodes_and_goes_on(tmp_path, number, capsys):
    made = make_dataset(tmp_path / "made.zarr", lengths=(300,) * 6)
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "gameplay_pipeline.repack", str(made.path), str(out)]
    process = subprocess.Popen(
        [*command, "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out / "episode_1").exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in err
    before = {folder.name for folder in out.glob("episode_*")}
    assert 2 <= len(before) < 6
    assert run(made.path, out) == 0
    assert f"{len(before)} of 6 episodes are there already" in capsys.readouterr().out
    assert not out.with_name("out.zarr.partial").exists()
    for at in range(6):
        assert np.array_equal(read(out, at)["frames"], made.frames[at])


def test_another_source_or_other_settings_are_refused_by_name(made, tmp_path):
    out = tmp_path / "out.zarr"
    run(made.path, out)
    with pytest.raises(UserError, match=r"source\.every: written with 1, asked for 2"):
        run(made.path, out, every=2)
    chunk = made.path / "episode_0" / "frames" / "0.0.0.0"
    os.utime(chunk, (1, 1))
    with pytest.raises(UserError, match=r"source\.fingerprint"):
        run(made.path, out)


def test_broken_episodes_are_named_and_left_out(made, tmp_path, capsys):
    (made.path / "episode_1" / "frames" / "7.0.0.0").unlink()
    (made.path / "episode_2" / "frames" / "3.0.0.0").write_bytes(b"cut")
    group = zarr.open_group(made.path)["episode_3"]
    short = group["actions"][:5]
    del group["actions"]
    group.create_array("actions", data=short)
    (made.path / "episode_4" / "frames" / ".zarray").write_text("{")
    assert run(made.path, tmp_path / "out.zarr") == 4
    out = capsys.readouterr().out
    for line in (
        "episode_1: episode_1/frames: tick 7: chunk 7.0.0.0 is missing",
        "episode_2: episode_2/frames: tick 3: chunk 3.0.0.0 can't be decoded",
        "episode_3: 20 frames but 5 actions",
        "episode_4: its metadata can't be read",
    ):
        assert f"left out: {line}" in out
    assert list(zarr.open_group(tmp_path / "out.zarr").group_keys()) == ["episode_0"]


def test_nothing_is_written_that_the_trainer_would_leave_out(made, tmp_path, capsys):
    root = zarr.open_group(made.path)
    root["episode_1/state"][7, 1] = np.nan
    root["episode_2"].create_array("timestamps", data=np.arange(50) // 2 / 17)
    assert run(made.path, tmp_path / "out.zarr") == 2
    text = capsys.readouterr().out
    assert "left out: episode_1: its state hint is nan (tick 7)" in text
    assert "left out: episode_2: its timestamps do not rise (ticks 0 to 1), and 24 more" in text
    assert not Episodes(tmp_path / "out.zarr", validate=False).skipped


def test_what_was_written_wrongly_is_found_out_by_tick(made, tmp_path, monkeypatch):
    flush = writer.EpisodeWriter._flush

    def flip(self, count):
        self._buffer[9, 0, 0, 0] ^= 1
        flush(self, count)

    monkeypatch.setattr(writer.EpisodeWriter, "_flush", flip)
    with pytest.raises(UserError, match=r"episode_\d, tick 9: the frame read back is not"):
        run(made.path, tmp_path / "out.zarr")
    assert list(zarr.open_group(tmp_path / "out.zarr").group_keys()) == []


def test_a_disk_that_fills_keeps_what_is_done(made, tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000));"
        "from gameplay_pipeline import repack; sys.exit(repack.main())"
    )
    out = tmp_path / "out.zarr"
    full = subprocess.run(
        [sys.executable, "-c", code, str(made.path), str(out), "--workers", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 1
    assert "can't be written: File too large. Complete episodes are kept: make room" in full.stderr
    assert "Traceback" not in full.stderr
    assert run(made.path, out) == 0
    assert np.array_equal(read(out, 2)["frames"], made.frames[2])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("made.zarr", "OUT must not be inside"),
        ("made.zarr/inner", "OUT must not be inside"),
        ("a.zip", "OUT must name a folder"),
        ("file", "exists and is no zarr dataset"),
        ("folder", "exists and is no zarr dataset"),
        ("other.zarr", "was written with other settings"),
    ],
)
def test_an_out_that_is_something_else_is_refused_untouched(made, tmp_path, out, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    shutil.copytree(made.path, tmp_path / "other.zarr")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        run(made.path, tmp_path / out)
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.zarr", "o.zarr"), "nowhere.zarr: there is no such dataset"),
        (("README.md", "o.zarr"), r"README\.md: neither a folder nor a whole \.zip"),
        (("http://127.0.0.1:9/x.zip", "o.zarr"), "http://127.0.0.1:9/x.zip: "),
        (("tests", "o.zarr", "--resolution", "big"), "must be WIDTHxHEIGHT"),
        (("tests", "o.zarr", "--every", "0"), "--every is 0"),
    ],
)
def test_mistakes_get_one_message(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["repack", *arguments])
    assert repack.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not Path("o.zarr").exists()


@pytest.mark.slow
def test_memory_stays_bounded_however_long_an_episode_is(tmp_path):
    root = zarr.open_group(tmp_path / "long.zarr", mode="w", zarr_format=2)
    root.attrs.update({"keys": ["a"], "fps": 17.0})
    group = root.create_group("episode_0")
    length, shape = 6000, (3, 144, 256)
    frames = group.create_array("frames", shape=(length, *shape), chunks=(64, *shape), dtype="u1")
    for first in range(0, length, 64):
        frames[first : first + 64] = first % 251 + 1
    group.create_array("actions", data=np.ones((length, 1), bool))
    code = (
        "import sys; from gameplay_pipeline import repack; status = repack.main();"
        # Not getrusage: its peak is that of the process before exec, too.
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "long.zarr"), str(tmp_path / "out.zarr")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    whole = length * int(np.prod(shape)) / 2**10
    assert int(done.stdout.split()[-1]) < 0.9 * whole
