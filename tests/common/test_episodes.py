"""Opening, validating and splitting, against zarr-python and by hand."""

import itertools
import json
import shutil

import numpy as np
import pytest
import zarr

from BC_training.common.episodes import Episodes, split
from gameplay_pipeline.plumbing.errors import DataError, UserError
from tests.support.made_data import ACTIONS, make_dataset
from tests.support.refusing import refuse_to_open


def zipped(path, top: bool):
    root, base = (path.parent, path.name) if top else (path, ".")
    return shutil.make_archive(str(path), "zip", root, base)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", ["directory", "zip", "zip with a top folder"])
def test_reads_what_zarr_python_wrote(tmp_path, zarr_format, layout):
    made = make_dataset(tmp_path / "made.zarr", zarr_format=zarr_format)
    path = made.path
    if layout != "directory":
        path = zipped(made.path, top=layout.endswith("folder"))
        shutil.rmtree(made.path)
    episodes = Episodes(path)
    assert episodes.actions == ACTIONS
    assert episodes.spec().frame.fps == 17
    for number, frames in enumerate(made.frames):
        assert np.array_equal(episodes.episodes[number].actions, made.actions[number])
        assert np.array_equal(episodes.episodes[number].state, made.state[number])
        picked = np.array([3, 0, 3, 11])
        read = episodes.read_frames(number, picked)
        assert np.array_equal(read, np.moveaxis(frames[picked], 1, -1))


def test_episodes_sort_naturally_and_may_have_gaps(tmp_path):
    names = ("episode_10", "episode_2", "episode_0", "episode_33", "notes")
    make_dataset(tmp_path / "made.zarr", names=names)
    found = [episode.name for episode in Episodes(tmp_path / "made.zarr").episodes]
    assert found == ["episode_0", "episode_2", "episode_10", "episode_33"]


def test_two_episodes_of_one_number_are_refused(tmp_path):
    names = ("episode_0", "episode_1", "episode_01", "episode_2", "episode_3")
    made = make_dataset(tmp_path / "made.zarr", names=names)
    with pytest.raises(
        UserError, match=r"made\.zarr: episode_01 and episode_1 have the same number"
    ):
        Episodes(made.path)
    shutil.rmtree(made.path / "episode_1")
    assert len(Episodes(made.path)) == 4


def test_fps_falls_back_to_the_episodes_and_then_to_none(tmp_path):
    make_dataset(tmp_path / "made.zarr")
    root = zarr.open_group(tmp_path / "made.zarr")
    del root.attrs["fps"]
    assert Episodes(tmp_path / "made.zarr").fps() is None
    root["episode_1"].attrs["fps"] = 20.0
    assert Episodes(tmp_path / "made.zarr").fps() == 20


def replace(group, name, array):
    del group[name]
    group.create_array(name, data=array)


BREAKS = {
    "frames are float32": lambda g: replace(g, "frames", g["frames"][:].astype(np.float32)),
    "holds 2, not only 0 and 1": lambda g: replace(g, "actions", g["actions"][:] * np.uint8(2)),
    "state is int64": lambda g: replace(g, "state", g["state"][:].astype(np.int64)),
    "29 actions": lambda g: replace(g, "actions", g["actions"][:29]),
    "29 states": lambda g: replace(g, "state", g["state"][:29]),
    "names 3 actions": lambda g: replace(g, "actions", g["actions"][:, :2]),
    "names 2 columns": lambda g: replace(g, "state", g["state"][:, :1]),
    "most are (3, 24, 32)": lambda g: replace(g, "frames", g["frames"][:, :, :10]),
    "not (N, 3, H, W)": lambda g: replace(g, "frames", np.repeat(g["frames"][:], 2, axis=1)),
    "(30, 3, 0, 32), not (N, 3, H, W)": lambda g: replace(g, "frames", g["frames"][:, :, :0]),
    "no array 'frames'": lambda g: g.__delitem__("frames"),
    "no array 'actions'": lambda g: g.__delitem__("actions"),
    "actions: it is a single value": lambda g: replace(g, "actions", np.array(True)),
    "timestamps: its type": lambda g: g.create_array("timestamps", data=np.full(30, b"12:00:01")),
    "intervention are int64 (30,), not bool": lambda g: g.create_array(
        "intervention", data=np.arange(30)
    ),
    "policy_actions are bool (30, 2), not bool (30, 3)": lambda g: g.create_array(
        "policy_actions", data=g["actions"][:, :2]
    ),
    "it is empty": lambda g: [replace(g, n, g[n][:0]) for n in ("frames", "actions", "state")],
}


@pytest.mark.parametrize("reason", BREAKS)
def test_a_broken_episode_is_skipped_with_its_reason_or_refused(made, reason):
    BREAKS[reason](zarr.open_group(made.path)["episode_1"])
    episodes = Episodes(made.path)
    assert [episode.name for episode in episodes.episodes] == [f"episode_{i}" for i in (0, 2, 3, 4)]
    assert {problem.episode for problem in episodes.skipped} == {"episode_1"}
    assert any(reason in problem.what for problem in episodes.skipped)
    with pytest.raises(UserError, match=r"episode_1.*\n.*validate_episodes"):
        Episodes(made.path, validate=False)


def test_zeros_left_out_beside_other_columns_are_no_guess(made):
    group = zarr.open_group(made.path)["episode_1"]
    state = made.state[1].copy()
    state[10:20, 1] = 0
    del group["state"]
    group.create_array("state", shape=state.shape, chunks=(10, 1), dtype="float32")[:] = state
    (problem,) = Episodes(made.path).skipped
    assert problem.episode == "episode_1"
    assert "is missing" in problem.what


def test_layouts_that_cannot_be_misunderstood_are_taken_and_said(made):
    group = zarr.open_group(made.path)["episode_1"]
    replace(group, "actions", group["actions"][:].astype(np.uint8))
    replace(group, "frames", np.moveaxis(group["frames"][:], 1, -1))
    state = made.state[1].copy()
    state[10:20] = 0
    del group["state"]
    group.create_array("state", shape=state.shape, chunks=(10, 2), dtype="float32")[:] = state
    group = zarr.open_group(made.path)["episode_2"]
    group.create_array("timestamps", data=np.arange(50.0))
    episodes = Episodes(made.path)
    assert not episodes.skipped
    notes = [str(note) for note in episodes.notes]
    assert len(notes) == 3
    assert "episode_1: its frames are stored as (30, 24, 32, 3)" in notes[0]
    assert "episode_1: its actions are stored as uint8: 1 is taken for pressed" in notes[1]
    assert "episode_1, ticks 10 to 19: its state are not there: taken for zeros" in notes[2]
    assert np.array_equal(episodes.episodes[1].actions, made.actions[1])
    assert np.array_equal(episodes.episodes[1].state, state)
    read = episodes.read_frames(1, np.array([7, 0]))
    assert np.array_equal(read, np.moveaxis(made.frames[1][[7, 0]], 1, -1))
    (made.path / "episode_2" / "actions" / "0.0").unlink()  # all of it: that is no choice of zarr's
    (skipped,) = Episodes(made.path).skipped
    assert "is missing" in skipped.what


def test_metadata_that_cannot_be_read_costs_its_episode_only(made):
    (made.path / "episode_1" / "frames" / ".zarray").write_text('{"shape": [30')
    (skipped,) = Episodes(made.path).skipped
    assert skipped.episode == "episode_1"
    assert "metadata can't be read" in skipped.what


def test_pictures_without_pixels_are_no_dataset(made):
    for file in made.path.glob("episode_*/frames/.zarray"):
        metadata = json.loads(file.read_text())
        metadata["shape"][2], metadata["chunks"][2] = 0, 1
        file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"episode_0: frames have shape \(40, 3, 0, 32\)"):
        Episodes(made.path)


def test_what_cannot_be_had_now_is_not_taken_for_broken(made, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_to_open(patch, "episode_1/actions/0.0")
        with pytest.raises(UserError, match=r"episode_1 can't be read: .*error\. Try again"):
            Episodes(made.path)
    assert len(Episodes(made.path)) == 5


@pytest.mark.parametrize("attributes", ["[1, 2]", '"keys"'])
def test_attributes_that_are_no_mapping_are_refused(made, attributes):
    (made.path / ".zattrs").write_text(attributes)
    with pytest.raises(UserError, match="not a mapping"):
        Episodes(made.path)


def test_the_fingerprint_sees_what_links_lead_to(made, tmp_path):
    merged = tmp_path / "merged.zarr"
    merged.mkdir()
    for file in (".zgroup", ".zattrs"):
        shutil.copyfile(made.path / file, merged / file)
    (merged / "episode_0").symlink_to(made.path / "episode_1")
    (merged / "itself").symlink_to(merged)
    before = Episodes(merged).fingerprint()
    chunk = made.path / "episode_1" / "frames" / "3.0.0.0"
    chunk.write_bytes(chunk.read_bytes())
    assert Episodes(merged).fingerprint() != before


def test_the_commonest_frame_shape_counts_not_the_first(made):
    BREAKS["most are (3, 24, 32)"](zarr.open_group(made.path)["episode_0"])
    episodes = Episodes(made.path)
    assert episodes.frame_shape == (3, 24, 32)
    assert [skipped.episode for skipped in episodes.skipped] == ["episode_0"]


@pytest.mark.parametrize("fps", ["fast", 0, None])
def test_a_rate_that_is_none_is_refused(made, fps):
    zarr.open_group(made.path).attrs["fps"] = fps
    with pytest.raises(UserError, match="fps is"):
        Episodes(made.path).spec()


def test_actions_named_twice_are_refused(made):
    zarr.open_group(made.path).attrs["keys"] = ["left", "left", "hit"]
    with pytest.raises(UserError, match="names left more than once"):
        Episodes(made.path)


@pytest.mark.parametrize(("count", "ratios"), [(15, (0.7, 0.3)), (5, (0.5, 0.5))])
def test_shares_that_make_a_whole_leave_no_episode_out(tmp_path, count, ratios):
    make_dataset(tmp_path / "made.zarr", lengths=(4,) * count)
    train, validation, test = split(Episodes(tmp_path / "made.zarr"), *ratios, seed=0)
    assert len(train) + len(validation) == count
    assert test == []


@pytest.mark.parametrize(("zarr_format", "chunk", "ticks"), [(2, 1, (7, 8)), (3, 16, (16, 32))])
def test_a_chunk_that_is_missing_on_disk_is_an_error_not_black_frames(
    tmp_path, zarr_format, chunk, ticks
):
    made = make_dataset(tmp_path / "made.zarr", zarr_format=zarr_format, chunk=chunk)
    frames = made.path / "episode_2" / "frames"
    number = ticks[0] // chunk
    file = frames / (f"{number}.0.0.0" if zarr_format == 2 else f"c/{number}/0/0/0")
    opened_before = Episodes(made.path)
    file.unlink()
    if zarr_format == 3:
        (frames / f"c/{number}/0/0").rmdir(), (frames / f"c/{number}/0").rmdir()
        (frames / f"c/{number}").rmdir()
    (problem,) = Episodes(made.path).skipped
    assert (problem.episode, problem.ticks) == ("episode_2", ticks)
    assert "missing" in problem.what
    opened_before.read_frames(2, np.array([ticks[0] - 1]))
    with pytest.raises(DataError, match=r"episode_2/frames: tick.* is missing") as caught:
        opened_before.read_frames(2, slice(5, 20))
    assert caught.value.ticks == ticks


def test_paths_that_are_no_dataset_say_why(tmp_path, made):
    with pytest.raises(UserError, match="no such dataset"):
        Episodes(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a zarr dataset"):
        Episodes(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UserError, match="not a zarr dataset"):
        Episodes(text)
    zarr.open_group(tmp_path / "empty.zarr", mode="w").attrs["keys"] = ["a"]
    with pytest.raises(UserError, match="no episodes"):
        Episodes(tmp_path / "empty.zarr")
    root = zarr.open_group(made.path)
    del root.attrs["keys"]
    with pytest.raises(UserError, match=r"'keys' is missing.*fps"):
        Episodes(made.path)


def test_the_split_is_a_seeded_partition(made):
    episodes = Episodes(made.path)
    parts = split(episodes, 0.6, 0.2, seed=1)
    assert sorted(itertools.chain(*parts)) == [0, 1, 2, 3, 4]
    assert [len(part) for part in parts] == [3, 1, 1]
    assert parts == split(episodes, 0.6, 0.2, seed=1)
    assert any(parts != split(episodes, 0.6, 0.2, seed=seed) for seed in range(2, 6))
    assert [len(part) for part in split(episodes, 1.0, 0.05, seed=1)] == [4, 1, 0]
    with pytest.raises(UserError, match="no episode is left to train on"):
        split(episodes, 0.0, 0.5, seed=1)


def test_the_fingerprint_changes_with_the_data(made):
    before = Episodes(made.path).fingerprint()
    assert before == Episodes(made.path).fingerprint()
    chunk = made.path / "episode_0" / "frames" / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes())
    assert before != Episodes(made.path).fingerprint()
