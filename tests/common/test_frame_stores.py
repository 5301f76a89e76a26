"""Where frames live: the cache on disk, bounded streaming, and what `auto` takes."""

import shutil
import subprocess
import sys
import weakref
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from BC_training.common.config import DatasetConfig
from BC_training.common.episodes import Episodes
from BC_training.common.frames import cached, device, open
from BC_training.common.frames.streamed import StreamedFrames
from BC_training.common.order import StreamPlan
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.made_data import make_dataset
from tests.support.refusing import refuse_to_open

ROOT = Path(__file__).parents[2]


def in_cache(made, folder):
    episodes = Episodes(made.path)
    frames, problems = cached.load(episodes, folder, threads=2)
    return episodes.without(problems), frames


def everything(episodes, frames):
    return frames.read(np.arange(episodes.ticks))


def truth(made, numbers=range(5)):
    return np.concatenate([np.moveaxis(made.frames[number], 1, -1) for number in numbers])


def opened(made, folder, validate=True, names=None, **settings):
    settings = DatasetConfig(path=str(made.path), cache_dir=folder and str(folder), **settings)
    episodes = Episodes(made.path, validate=validate)
    plan = StreamPlan.of(
        episodes.chunk_length, episodes.frame_bytes,
        span=1, shuffle_buffer=settings.shuffle_buffer, in_flight=0,
    )  # fmt: skip
    return open.open_frames(episodes, settings, plan, threads=2, names=names)


def cut_off(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-9])


def test_the_cache_holds_the_frames_is_shared_and_follows_the_data(made, tmp_path):
    folder = tmp_path / "cache"
    assert np.array_equal(everything(*in_cache(made, folder)), truth(made))
    (kept,) = folder.iterdir()
    written = (kept / "frames.u8").stat().st_mtime_ns
    in_cache(made, folder)
    assert (kept / "frames.u8").stat().st_mtime_ns == written
    chunk = made.path / "episode_0" / "frames" / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes())
    in_cache(made, folder)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("kind", ["cache", "device"])
def test_an_episode_with_a_frame_that_cannot_be_decoded_is_dropped_by_name(made, tmp_path, kind):
    cut_off(made.path / "episode_2" / "frames" / "7.0.0.0")
    frames, episodes, _, _ = opened(made, tmp_path, residency=kind)
    (problem,) = episodes.skipped
    assert (problem.episode, problem.ticks) == ("episode_2", (7, 8))
    assert "cut off" in problem.what
    assert np.array_equal(everything(episodes, frames), truth(made, (0, 1, 3, 4)))
    if kind == "cache":
        again, cached = in_cache(made, tmp_path)
        assert again.skipped == episodes.skipped
        assert np.array_equal(everything(again, cached), truth(made, (0, 1, 3, 4)))
    with pytest.raises(UserError, match=r"episode_2, tick 7.*\n.*validate_episodes"):
        opened(made, tmp_path, validate=False, residency=kind)


KILLED = """
import os, sys
from pathlib import Path
from BC_training.common.episodes import Episodes
from BC_training.common.frames import cached, decode
decode.FRAMES_AT_ONCE = 8
episodes, done = Episodes(sys.argv[1]), 0
read = episodes.read_frames
def dying(number, ticks, out):
    if number == 2 and ticks.start >= 16:
        os.kill(os.getpid(), 9)
    return read(number, ticks, out)
episodes.read_frames = dying
cached.load(episodes, Path(sys.argv[2]), threads=1)
"""


def test_a_killed_run_leaves_no_cache_and_the_next_one_goes_on(made, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(made.path), str(folder)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert not list(folder.rglob("done.jsonl"))
    (journal,) = folder.rglob("doing.jsonl")
    before = len(journal.read_text().splitlines())
    assert before >= 1
    decoded = []
    read = Episodes.read_frames
    monkeypatch.setattr(
        Episodes,
        "read_frames",
        lambda self, number, *others: (decoded.append(number), read(self, number, *others))[1],
    )
    assert np.array_equal(everything(*in_cache(made, folder)), truth(made))
    assert set(decoded) == set(range(before, 5))


def test_frames_that_were_removed_to_make_room_are_decoded_again(made, tmp_path):
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(made.path), str(folder)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    (file,) = folder.rglob("frames.u8")
    file.unlink()
    assert np.array_equal(everything(*in_cache(made, folder)), truth(made))


def test_an_episode_that_cannot_be_had_now_is_not_dropped_for_good(made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_to_open(patch, "episode_3/frames/2.0.0.0")
        with pytest.raises(UserError, match=r"tick 2: .*Try again.* decoded so far is kept"):
            in_cache(made, tmp_path)
        with pytest.raises(UserError, match=r"tick 2: .*Try again"):
            opened(made, tmp_path, residency="device")
    assert np.array_equal(everything(*in_cache(made, tmp_path)), truth(made))


def test_a_dataset_of_which_nothing_can_be_decoded_says_so_each_time(tmp_path):
    made = make_dataset(tmp_path / "made.zarr", lengths=(9,))
    cut_off(made.path / "episode_0" / "frames" / "7.0.0.0")
    for _ in range(2):
        with pytest.raises(UserError, match="none of its episodes can be used"):
            in_cache(made, tmp_path / "cache")


def flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.unlink(),
        lambda file: (file.parent / "done.jsonl").write_text('{"episode": "episode_0", "crc32c"'),
    ],
    ids=["a flipped bit", "cut off", "no frames", "no journal"],
)
def test_a_damaged_cache_is_found_out_and_decoded_again(made, tmp_path, damage, capsys):
    in_cache(made, tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("frames.u8")
    damage(file)
    assert np.array_equal(everything(*in_cache(made, tmp_path / "cache")), truth(made))
    assert "damaged; decoding again" in capsys.readouterr().out


def test_two_runs_at_once_decode_once(made, tmp_path):
    held = "while not Path(sys.argv[3]).exists(): __import__('time').sleep(0.05)"
    code = KILLED.replace("os.kill(os.getpid(), 9)", f"\n        {held}")
    command = [sys.executable, "-uc", code, str(made.path), str(tmp_path / "cache")]
    command.append(str(tmp_path / "go on"))
    first = subprocess.Popen(command, cwd=ROOT)
    while not list(tmp_path.rglob("doing.jsonl")) and first.poll() is None:
        pass
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert "another run is decoding this dataset; waiting" in second.stdout.readline()
        (tmp_path / "go on").touch()
        assert "Decoding" not in second.stdout.read()
    assert (first.wait(), second.returncode) == (0, 0)


@pytest.mark.parametrize("where", ["a file", "read-only"])
def test_a_cache_folder_that_cannot_be_written_says_what_to_do(made, tmp_path, where, monkeypatch):
    folder = tmp_path / "file"
    if where == "a file":
        folder.write_text("")
    else:

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"dataset\.cache_dir.*dataset\.residency to stream"):
        in_cache(made, folder / "cache")


@pytest.mark.parametrize("home", ["none", "a file", "given"])
def test_without_a_home_to_write_in_frames_are_streamed_and_that_is_said(
    made, tmp_path, monkeypatch, home
):
    def no_entry(_):
        raise KeyError("getpwuid(): uid not found: 12345")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAME", "scratch")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home == "none":
        monkeypatch.setattr("pwd.getpwuid", no_entry)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / ("file" if home == "a file" else "")))
    frames = opened(made, "~/$NAME/cache" if home == "given" else None)
    says = {
        "none": ("stream", "there is no home folder to keep that in"),
        "a file": ("stream", f"nothing can be written in {tmp_path}/file/.cache/project_ranni"),
        "given": ("cache", f"GiB free in {tmp_path}/scratch/cache"),
    }
    assert frames.residency == says[home][0]
    assert says[home][1] in frames.reason
    if home == "none":
        with pytest.raises(UserError, match="this user has no home folder"):
            opened(made, None, residency="cache")


def test_a_disk_that_is_or_becomes_full_says_what_to_do(made, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
        with pytest.raises(UserError, match=r"need 0\.0 GiB and 0\.0 are free; make room"):
            in_cache(made, tmp_path / "cache")
    code = KILLED.replace(
        "os.kill(os.getpid(), 9)",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (200000, -1))",
    )
    code = f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{code}"
    command = [sys.executable, "-c", code, str(made.path), str(tmp_path / "cache")]
    full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "can't keep decoded frames there: File too large" in full.stderr
    assert "UserError" in full.stderr
    assert not list(tmp_path.rglob("done.jsonl"))
    assert np.array_equal(everything(*in_cache(made, tmp_path / "cache")), truth(made))


def test_auto_takes_the_fastest_that_fits_and_says_why(made, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    size = 175 * 24 * 32 * 3
    disk = {"free": size - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, disk["free"]))
    full = opened(made, tmp_path)
    assert full.residency == "stream"
    assert "only 0.0 GiB free" in full.reason
    disk["free"] = size
    assert opened(made, tmp_path).residency == "cache"
    (folder,) = tmp_path.glob("made.zarr-*")
    (folder / "done.jsonl").rename(folder / "doing.jsonl")
    disk["free"] = 0
    assert opened(made, tmp_path).residency == "cache", "begun, and the rest needs no more room"
    kept = opened(made, tmp_path)
    assert (kept.residency, "already decoded" in kept.reason) == ("cache", True)
    monkeypatch.setattr(device, "free_memory", lambda: int(size / 0.6) + 1)
    on_device = opened(made, tmp_path)
    assert on_device.residency == "device"
    assert on_device.frames.resident is not None
    monkeypatch.setattr(device, "free_memory", lambda: int(size / 0.6) - 1)
    assert opened(made, tmp_path).residency == "cache"


def test_streaming_decodes_each_chunk_once_a_group_and_forgets_it(tmp_path, monkeypatch):
    made = make_dataset(tmp_path / "made.zarr", lengths=(64, 64), chunk=16)
    episodes = Episodes(made.path)
    frames = StreamedFrames(episodes, StreamPlan(16), 3 * 16 * episodes.frame_bytes, threads=1)
    decoded = []
    read = episodes.read_frames
    monkeypatch.setattr(
        episodes,
        "read_frames",
        lambda n, t, out: (decoded.append((n, t.start)), read(n, t, out))[1],
    )
    rows = np.array([3, 9, 3, 15])
    expected = truth(made, (0, 1))
    assert np.array_equal(frames.read(rows), expected[rows])
    assert decoded == [(0, 0)]
    frames.prepare(60, 70)
    frames.read(np.array([60, 64]))
    assert decoded == [(0, 0), (0, 48), (1, 0)]
    assert np.array_equal(frames.read(np.array([65, 63])), expected[[65, 63]])
    assert len(decoded) == 3
    frames.read(np.array([30]))
    frames.read(np.array([0]))
    assert decoded[3:] == [(0, 16), (0, 0)]


def test_a_stream_holds_few_blocks_wherever_the_rows_lie(tmp_path, monkeypatch):
    made = make_dataset(tmp_path / "made.zarr", lengths=(64, 64), chunk=4)
    episodes = Episodes(made.path)
    frames = StreamedFrames(episodes, StreamPlan(4), 12 * episodes.frame_bytes, threads=2)
    read, alive, most = episodes.read_frames, weakref.WeakSet(), [0]

    def watched(*arguments):
        block = read(*arguments)
        alive.add(block.base)
        most[0] = max(most[0], len(alive))
        return block

    monkeypatch.setattr(episodes, "read_frames", watched)
    rows = np.arange(128)[::-1]
    assert np.array_equal(frames.read(rows), truth(made, (0, 1))[rows])
    assert most[0] <= 3 + 3


def test_a_stream_that_cannot_fit_says_what_to_change(made, tmp_path):
    with pytest.raises(UserError, match=r"stream_memory_gib is 0\.00, but.*training\.batch_size"):
        StreamedFrames(Episodes(made.path), StreamPlan(in_flight=10**6), 1000, threads=1)
    chunked = make_dataset(tmp_path / "chunked.zarr", chunk=16)
    with pytest.raises(UserError, match=r"dataset\.shuffle_buffer"):
        opened(chunked, tmp_path, residency="stream", stream_memory_gib=1e-3)
