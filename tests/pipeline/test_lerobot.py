"""LeRobot datasets: pyarrow and PyAV read what is written, lerobot itself opens it (slow)."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from BC_training.common.episodes import Episodes
from gameplay_pipeline.convert.from_lerobot import FromLeRobot, from_lerobot
from gameplay_pipeline.convert.to_lerobot import ToLeRobot, to_lerobot
from gameplay_pipeline.convert.video import frame_times, read_frames
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.video import LOSSLESS, VideoWriter
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, open_dataset, sole_writer
from tests.support.made_data import as_objects, make_dataset

ROOT = Path(__file__).parents[2]

SCREEN = "observation.images.screen"

LEROBOT = "lerobot==0.4.4"

UV = shutil.which("uv")
# Asked for before tests get caches of their own: lerobot weighs gigabytes.
UV_CACHE = (
    UV and subprocess.run([UV, "cache", "dir"], capture_output=True, text=True).stdout.strip()
)


@pytest.fixture
def dataset(tmp_path):
    """A dataset of three episodes that says that its frames are RGB."""
    return make_dataset(tmp_path / "made.zarr", (40, 30, 20), attributes={"color_order": "RGB"})


@pytest.fixture
def exported(dataset, tmp_path):
    assert export(dataset.path, tmp_path / "robot", lossless=True) == 0
    return tmp_path / "robot"


def export(source, out, **options) -> int:
    return to_lerobot(ToLeRobot(str(source), out, workers=1, **options))


def read(path, number):
    group = zarr.open_group(path, mode="r")[f"episode_{number}"]
    return {name: array[:] for name, array in group.arrays()}, dict(group.attrs)


def load(source, out, **options) -> int:
    return from_lerobot(FromLeRobot(source, out, **{"workers": 1, **options}))


def change_info(folder, **changes):
    path = folder / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_column(path, name, change):
    table = pq.read_table(path)
    values = change(np.array(table[name].to_pylist()))
    column = pa.array(values.tolist(), table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), path)


@pytest.mark.parametrize("workers", [1, 2])
def test_there_and_back_nothing_changes(dataset, exported, tmp_path, workers):
    assert load(exported, tmp_path / "back.zarr", workers=workers) == 0
    root = zarr.open_group(tmp_path / "back.zarr", mode="r")
    assert root.attrs["keys"] == ["left", "right", "hit"]
    assert root.attrs["attributes"] == ["hp", "hint"]
    assert (root.attrs["fps"], root.attrs["color_order"]) == (17.0, "RGB")
    for number in range(3):
        found, attributes = read(tmp_path / "back.zarr", number)
        assert np.array_equal(found["frames"], dataset.frames[number])
        assert np.array_equal(found["actions"], dataset.actions[number])
        assert np.array_equal(found["state"], dataset.state[number])
        assert np.allclose(found["timestamps"], np.arange(len(found["actions"])) / 17, atol=1e-6)
        assert attributes["tasks"] == ["Defeat the boss."]


def test_the_layout_is_that_of_version_3(dataset, exported):
    info = json.loads((exported / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 90, 17)
    assert info["features"]["action"]["names"] == ["left", "right", "hit"]
    data = pq.read_table(exported / "data/chunk-000/file-000.parquet")
    assert data["index"].to_pylist() == list(range(90))
    assert data["frame_index"].to_pylist() == [*range(40), *range(30), *range(20)]
    assert data["episode_index"].to_pylist() == [0] * 40 + [1] * 30 + [2] * 20
    assert np.array_equal(data["action"].to_pylist(), np.concatenate(dataset.actions))
    assert data.schema.field("action").type == pa.list_(pa.float32(), 3)
    assert data.schema.field("timestamp").type == pa.float32()
    rows = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 40, 70]
    assert [row["length"] for row in rows] == [40, 30, 20]
    for number, row in enumerate(rows):
        place = {k: row[f"videos/observation.images.screen/{k}"]
                 for k in ("chunk_index", "file_index")}  # fmt: skip
        video = exported / info["video_path"].format(video_key="observation.images.screen", **place)
        assert np.array_equal(
            np.moveaxis(np.stack([frame.image for frame in read_frames(video)]), -1, 1),
            dataset.frames[number],
        )
        assert np.allclose(frame_times(video) / 1e6, np.arange(row["length"]) / 17, atol=2e-6)


def test_the_statistics_are_those_of_the_data(dataset, exported):
    found = json.loads((exported / "meta/stats.json").read_text())
    state = np.concatenate(dataset.state).astype(np.float64)
    assert np.allclose(found["observation.state"]["mean"], state.mean(axis=0))
    assert np.allclose(found["observation.state"]["std"], state.std(axis=0))
    assert np.allclose(found["observation.state"]["min"], state.min(axis=0))
    assert np.allclose(found["observation.state"]["max"], state.max(axis=0))
    assert found["index"]["count"] == [90]
    pixels = np.concatenate(dataset.frames) / 255  # so short that every frame is looked at
    screen = found["observation.images.screen"]
    assert np.allclose(np.array(screen["mean"])[:, 0, 0], pixels.mean(axis=(0, 2, 3)), atol=0.01)
    assert np.allclose(np.array(screen["max"])[:, 0, 0], pixels.max(axis=(0, 2, 3)))
    assert np.array(screen["std"]).shape == (3, 1, 1)
    rows = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert np.allclose(rows[1]["stats/action/mean"], dataset.actions[1].mean(axis=0))


def test_lossy_frames_are_close_and_named(tmp_path, capsys):
    y, x = np.mgrid[:32, :48]
    frames = [np.stack([x * 4, y * 6, (x + y + t) * 2], -1).astype(np.uint8) for t in range(20)]
    info = DatasetInfo(("a",), ("hp",), 32, 48, 17.2, "BGR", "none", {"env": "x"})
    open_dataset(tmp_path / "in.zarr", info, 3)
    with EpisodeWriter(tmp_path / "in.zarr", 0, info, 3) as writer:
        for tick, frame in enumerate(frames):
            writer.append(frame, np.array([tick % 3 == 0]), np.array([tick], np.float32))
        writer.finish({"outcome": "won"}, timestamps=np.arange(20) / 17)
    assert export(tmp_path / "in.zarr", tmp_path / "robot") == 0
    text = capsys.readouterr().out
    for what in (
        "frames: the video is lossy",
        "timestamps: ",
        "the episodes: outcome",
        "source",
        "quantiles",
    ):
        assert what in text
    assert load(tmp_path / "robot", tmp_path / "back.zarr", resolution="24x16") == 0
    assert zarr.open_group(tmp_path / "back.zarr").attrs["resize"] == "area"
    assert zarr.open_group(tmp_path / "back.zarr").attrs["fps"] == 17.2
    shutil.rmtree(tmp_path / "back.zarr")
    assert load(tmp_path / "robot", tmp_path / "back.zarr") == 0
    found, _ = read(tmp_path / "back.zarr", 0)
    # What was BGR is RGB now.
    error = np.moveaxis(found["frames"], 1, -1)[..., ::-1].astype(float) - frames
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 30
    assert found["actions"][:, 0].tolist() == [tick % 3 == 0 for tick in range(20)]
    assert found["state"][:, 0].tolist() == list(range(20))


def test_several_episodes_in_a_video_are_told_apart(dataset, exported, tmp_path):
    """As lerobot itself writes them."""
    videos = exported / "videos/observation.images.screen/chunk-000"
    shutil.rmtree(videos)
    videos.mkdir()
    with VideoWriter(videos / "file-000.mp4", (32, 24), 17, LOSSLESS) as writer:
        for tick, frame in enumerate(np.concatenate(dataset.frames)):
            writer.append(np.moveaxis(frame, 0, -1), round(tick * 1e6 / 17))
    path = exported / "meta/episodes/chunk-000/file-000.parquet"
    screen = "videos/observation.images.screen"
    change_column(path, f"{screen}/file_index", lambda values: values * 0)
    change_column(path, f"{screen}/from_timestamp", lambda _: np.array([0, 40, 70]) / 17)
    assert load(exported, tmp_path / "back.zarr") == 0
    for number in range(3):
        found, _ = read(tmp_path / "back.zarr", number)
        assert np.array_equal(found["frames"], dataset.frames[number])


def show_at(exported, number, times, images):
    """Replaces an episode's video."""
    (video,) = exported.glob(f"videos/*/*/file-00{number}.mp4")
    with VideoWriter(video, (32, 24), 17, LOSSLESS) as writer:
        for time, image in zip(times, images, strict=True):
            writer.append(np.moveaxis(image, 0, -1), round(time * 1e6))


def test_frames_that_are_missing_take_their_rows_with_them(dataset, exported, tmp_path, capsys):
    kept = [tick for tick in range(40) if tick not in (5, 6, 7, 20)]
    show_at(exported, 0, np.array(kept) / 17, dataset.frames[0][kept])
    assert load(exported, tmp_path / "back.zarr") == 0
    found, _ = read(tmp_path / "back.zarr", 0)
    assert np.array_equal(found["frames"], dataset.frames[0][kept])
    assert np.array_equal(found["actions"], dataset.actions[0][kept])
    assert np.array_equal(found["state"], dataset.state[0][kept])
    assert np.allclose(found["timestamps"], np.array(kept) / 17)
    said = "0: rows without a frame within half a tick were left out: 5-7, 20"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4])
def test_a_video_of_another_rate_is_paired_by_time(dataset, exported, tmp_path, capsys, shift):
    """Frames at twice the rate, and rows up to half a tick from theirs."""
    times = (np.arange(60) / 2 + max(shift, 0)) / 17
    between = np.zeros_like(dataset.frames[1])
    images = np.stack([dataset.frames[1], between], 1).reshape(60, *between.shape[1:])
    show_at(exported, 1, times, images)
    if shift < 0:
        path = exported / "data/chunk-000/file-000.parquet"
        change_column(path, "timestamp", lambda old: old + 0.02)
    assert load(exported, tmp_path / "back.zarr") == 0
    found, _ = read(tmp_path / "back.zarr", 1)
    assert np.array_equal(found["actions"], dataset.actions[1])
    if shift == 0:
        assert np.array_equal(found["frames"], dataset.frames[1])
    assert re.search(r"1: (28|29|30) frames of its video belong to no row", capsys.readouterr().out)


def test_rows_at_one_time_leave_the_episode_out(exported, tmp_path, capsys):
    def twice(values):
        values[41] = values[40]
        return values

    change_column(exported / "data/chunk-000/file-000.parquet", "timestamp", twice)
    assert load(exported, tmp_path / "back.zarr") == 1
    reason = "data/chunk-000/file-000.parquet: the timestamp of its row 1 does not rise"
    assert f"left out: 1: {reason}" in capsys.readouterr().out
    assert len(Episodes(tmp_path / "back.zarr", validate=False)) == 2


@pytest.mark.parametrize(
    ("shape", "names"),
    [([24, 32, 3], None), ([3, 24, 32], None), ([3, 24, 32], ["channels", "height", "width"]),
     ([24, 32, 3], ["a", "b", "c"])],
)  # fmt: skip
def test_axes_of_a_camera_are_told_by_their_names_or_the_shape(exported, tmp_path, shape, names):
    features = json.loads((exported / "meta/info.json").read_text())["features"]
    features["observation.images.screen"] |= {"shape": shape, "names": names}
    change_info(exported, features=features)
    assert load(exported, tmp_path / "back.zarr") == 0
    assert read(tmp_path / "back.zarr", 0)[0]["frames"].shape == (40, 3, 24, 32)


@pytest.mark.parametrize("key", ["data_path", "video_path"])
def test_paths_that_lead_out_of_the_dataset_are_refused(exported, tmp_path, key):
    for template in (
        "../{chunk_index}/x.mp4", "/etc/{chunk_index}", "a/../../b", "C:\\x", "\\\\server\\x", "",
        "{chunk_index:9999999d}", "{chunk_index.__class__}", "{nothing}", 3, None,
    ):  # fmt: skip
        change_info(exported, **{key: template})
        with pytest.raises(UserError, match=f"its {key} is .* does not name a file inside"):
            load(exported, tmp_path / "back.zarr")


BAD_INFO = {
    "a list": lambda _: [],
    "no shape": lambda info: info["features"]["action"].pop("shape"),
    "a shape of text": lambda info: info["features"]["action"].update(shape="3"),
    "a feature of text": lambda info: info["features"].update(action="x"),
    "no features": lambda info: info.update(features=None),
    "an action of two axes": lambda info: info["features"]["action"].update(shape=[3, 1]),
    "an infinite rate": lambda info: info.update(fps=float("inf")),
    "a camera of one axis": lambda info: info["features"][SCREEN].update(shape=[3]),
    "columns without end": lambda info: info["features"]["action"].update(shape=[2**31]),
    "frames without end": lambda info: info["features"][SCREEN].update(shape=[2**31, 64, 3]),
    "more actions": lambda info: info["features"]["action"].update(shape=[4], names=None),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_INFO)
def test_info_that_makes_no_sense_is_refused(exported, tmp_path, wrong):
    info = json.loads((exported / "meta/info.json").read_text())
    changed = BAD_INFO[wrong](info)
    (exported / "meta/info.json").write_text(json.dumps(changed if changed == [] else info))
    with pytest.raises(UserError):
        load(exported, tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr").exists()


def test_actions_that_are_no_buttons_are_refused(exported, tmp_path):
    def push(values):
        values[50, 1] = 0.25
        return values

    change_column(exported / "data/chunk-000/file-000.parquet", "action", push)
    with pytest.raises(UserError, match=r"action right is 0\.25 in row 50"):
        load(exported, tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr").exists()


def test_ids_that_float32_rounds_are_named(exported, tmp_path, capsys):
    path = exported / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = np.array(table["observation.state"].to_pylist())
    values[:, 0] = 180_032_301
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2)
    place = table.schema.get_field_index("observation.state")
    pq.write_table(table.set_column(place, "observation.state", column), path)
    assert load(exported, tmp_path / "back.zarr") == 0
    assert "0, 1, 2: hp is rounded: float32" in capsys.readouterr().out


def test_cameras_and_features_that_stay_behind_are_named(exported, tmp_path, capsys):
    features = json.loads((exported / "meta/info.json").read_text())["features"]
    features["observation.images.wrist"] = features["observation.images.screen"]
    features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    change_info(exported, features=features)
    with pytest.raises(UserError, match=r"--camera is None; .*screen, observation\.images\.wrist"):
        load(exported, tmp_path / "back.zarr")
    assert load(exported, tmp_path / "back.zarr", camera="observation.images.screen") == 0
    expected = "not carried over: next.reward, observation.images.wrist"
    assert expected in capsys.readouterr().out


def test_an_episode_that_cannot_be_read_is_left_out(exported, tmp_path, capsys):
    videos = exported / "videos/observation.images.screen/chunk-000"
    (videos / "file-001.mp4").write_bytes((videos / "file-001.mp4").read_bytes()[:3000])
    shutil.copy(videos / "file-002.mp4", videos / "file-000.mp4")
    assert load(exported, tmp_path / "back.zarr") == 1 + 1
    text = capsys.readouterr().out
    assert (
        "left out: 0: videos/observation.images.screen/chunk-000/file-000.mp4: only 20 of its"
        in text
    )
    assert "left out: 1: file-001.mp4: frame 0 can't be decoded" in text
    assert list(zarr.open_group(tmp_path / "back.zarr").group_keys()) == ["episode_2"]


def test_bad_sources_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="no such folder of a LeRobot dataset"):
        load(tmp_path / "nowhere", tmp_path / "back.zarr")
    change_info(exported, codebase_version="v2.1")
    with pytest.raises(UserError, match=r"is v2\.1, but only v3"):
        load(exported, tmp_path / "back.zarr")
    change_info(exported, codebase_version="v3.0", fps="fast")
    with pytest.raises(UserError, match="its fps is 'fast'"):
        load(exported, tmp_path / "back.zarr")
    change_info(exported, fps=17)
    (exported / "meta/episodes/chunk-000/file-000.parquet").write_text("x")
    with pytest.raises(UserError, match=r"file-000\.parquet can't be read"):
        load(exported, tmp_path / "back.zarr")
    shutil.rmtree(exported / "meta/episodes")
    with pytest.raises(UserError, match="nothing in meta/episodes"):
        load(exported, tmp_path / "back.zarr")
    (exported / "meta/info.json").write_text("{")
    with pytest.raises(UserError, match=r"info\.json can't be read"):
        load(exported, tmp_path / "back.zarr")


def test_broken_episodes_of_ours_are_left_out(dataset, tmp_path, capsys):
    shutil.rmtree(dataset.path / "episode_1/actions")
    for chunk in (dataset.path / "episode_2/frames").glob("3.*"):
        chunk.unlink()
    assert export(dataset.path, tmp_path / "robot", lossless=True) == 2
    text = capsys.readouterr().out
    assert "left out: episode_1: it has no frames or no actions" in text
    assert "left out: episode_2: episode_2/frames: tick 3" in text
    assert json.loads((tmp_path / "robot/meta/info.json").read_text())["total_frames"] == 40
    assert not (tmp_path / "robot.partial").exists()
    assert not list((tmp_path / "robot").glob("*.mp4"))  # of the episode left out half-way
    assert load(tmp_path / "robot", tmp_path / "back.zarr") == 0


def test_what_is_no_picture_or_no_button_is_left_out(dataset, tmp_path, capsys):
    root = zarr.open_group(dataset.path)
    replace(root["episode_0"], "frames", dataset.frames[0].astype(np.float32))
    replace(root["episode_2"], "actions", dataset.actions[2] * 0.3)
    assert export(dataset.path, tmp_path / "robot", lossless=True) == 2
    text = capsys.readouterr().out
    assert "left out: episode_0: its frames are float32, not uint8; repack it first" in text
    assert "left out: episode_2: its actions are not all 0 or 1" in text


def replace(group, name, array):
    del group[name]
    group.create_array(name, data=array, config={"write_empty_chunks": True})


def test_two_exports_to_one_place_do_not_mix(dataset, tmp_path):
    with sole_writer(tmp_path / "robot"), pytest.raises(UserError, match="another process"):
        export(dataset.path, tmp_path / "robot")


def test_state_that_claims_to_be_objects_is_named(dataset, tmp_path, capsys):
    as_objects(dataset.path / "episode_1" / "state")
    assert export(dataset.path, tmp_path / "robot") == 1
    assert re.search(r"left out: episode_1: .*(object|\|O)", capsys.readouterr().out)


def test_pictures_without_pixels_are_named(dataset, tmp_path, capsys):
    file = dataset.path / "episode_1" / "frames" / ".zarray"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "shape": [30, 3, 24, 0]}))
    assert export(dataset.path, tmp_path / "robot") == 1
    assert "episode_1: its frames have shape (30, 3, 24, 0)" in capsys.readouterr().out


def test_datasets_of_ours_that_cannot_be_carried_over_are_refused(tmp_path, exported):
    with pytest.raises(UserError, match="no such dataset"):
        export(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "made.zarr", exported)
    unknown = make_dataset(tmp_path / "unknown.zarr", (5,)).path
    with pytest.raises(UserError, match="--workers is 0"):
        to_lerobot(ToLeRobot(str(unknown), tmp_path / "out", workers=0))
    with pytest.raises(UserError, match="give --assume-color-order"):
        export(unknown, tmp_path / "out")
    with pytest.raises(UserError, match="OUT must not be inside"):
        export(unknown, unknown / "out")
    zarr.open_group(unknown).attrs["fps"] = None
    with pytest.raises(UserError, match="give --fps"):
        export(unknown, tmp_path / "out", assume_color_order="RGB")
    with pytest.raises(UserError, match="--fps is 0, not a number of ticks per second"):
        export(unknown, tmp_path / "out", assume_color_order="RGB", fps=0.0)
    assert export(unknown, tmp_path / "out", assume_color_order="RGB", fps=17.0) == 0
    info = DatasetInfo(("a",), (), 15, 21, 17.0, "RGB", "none", {})
    open_dataset(tmp_path / "odd.zarr", info, 3)
    with EpisodeWriter(tmp_path / "odd.zarr", 0, info, 3) as writer:
        for _ in range(3):
            writer.append(
                np.zeros((15, 21, 3), np.uint8), np.ones(1, bool), np.zeros(0, np.float32)
            )
        writer.finish({})
    with pytest.raises(UserError, match="needs even sizes"):
        export(tmp_path / "odd.zarr", tmp_path / "out2")
    assert export(tmp_path / "odd.zarr", tmp_path / "out2", lossless=True) == 0
    assert load(tmp_path / "out2", tmp_path / "back.zarr") == 0  # one action, no state
    assert read(tmp_path / "back.zarr", 0)[0]["actions"].tolist() == [[True]] * 3


def test_a_full_disk_is_told(tmp_path):
    make_dataset(tmp_path / "made.zarr", (300,), attributes={"color_order": "RGB"})
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (100_000, 100_000)); "
    run = "import runpy; runpy.run_module('gameplay_pipeline.lerobot', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", limited + run, "to", tmp_path / "made.zarr", tmp_path / "robot"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "can't be written: File too large. Make room and start again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("robot*"))


OPENS = """
import sys, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/ours", root=sys.argv[1], video_backend="pyav")
assert data.num_episodes == 3 and len(data) == 90, (data.num_episodes, len(data))
items = [data[index] for index in range(len(data))]
assert {item["task"] for item in items} == {"Defeat the boss."}
frames = np.stack([(item["observation.images.screen"].numpy() * 255).round() for item in items])
np.savez(sys.argv[2], frames=frames.astype(np.uint8), fps=data.fps,
         actions=np.stack([item["action"].numpy() for item in items]),
         state=np.stack([item["observation.state"].numpy() for item in items]),
         mean=data.meta.stats["observation.state"]["mean"])
"""

MAKES = """
import sys, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
truth = np.load(sys.argv[1])
names = {"names": ["left", "right", "hit"]}
data = LeRobotDataset.create("local/theirs", 17, {
    "observation.images.top": {"dtype": "video", "shape": (48, 64, 3),
                               "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["hp", "x"]},
    "action": {"dtype": "float32", "shape": (3,), "names": ["left", "right", "hit"]},
}, root=sys.argv[2], use_videos=True, vcodec="h264")
for episode in range(2):
    for tick in range(25):
        data.add_frame({"observation.images.top": truth["frames"][episode, tick],
                        "observation.state": truth["state"][episode, tick],
                        "action": truth["actions"][episode, tick], "task": "win"})
    data.save_episode()
data.finalize()
"""


def needs_lerobot(test):
    """lerobot brings torch: gigabytes that nobody shall download unasked."""
    asked = UV is not None and os.environ.get("WITH_LEROBOT") == "1"
    skip = pytest.mark.skipif(not asked, reason="set WITH_LEROBOT=1; uv then downloads 4 GB")
    return pytest.mark.slow(skip(test))


def with_lerobot(code, *arguments):
    command = ["uv", "run", "--isolated", "--no-project", "--python", "3.11", "--with", LEROBOT]
    own = {"HF_HUB_OFFLINE": "1", "UV_CACHE_DIR": str(UV_CACHE)}
    done = subprocess.run(
        [*command, "python", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **own},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@needs_lerobot
@pytest.mark.parametrize("lossless", [True, False])
def test_lerobot_opens_what_is_written(tmp_path, lossless):
    made = make_dataset(tmp_path / "in.zarr", (40, 30, 20), attributes={"color_order": "RGB"})
    if not lossless:
        zarr.open_group(made.path).attrs["fps"] = 17.2
    assert export(made.path, tmp_path / "robot", lossless=lossless) == 0
    with_lerobot(OPENS, tmp_path / "robot", tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert np.array_equal(found["actions"], np.concatenate(made.actions))
    assert np.array_equal(found["state"], np.concatenate(made.state))
    assert np.allclose(found["mean"], np.concatenate(made.state).mean(axis=0), rtol=1e-4)
    error = found["frames"].astype(float) - np.concatenate(made.frames)
    if lossless:
        assert found["fps"] == 17
        assert np.abs(error).max() <= 1  # whatever decoder it takes
    else:
        assert found["fps"] == 17.2
        videos = sorted((tmp_path / "robot").rglob("*.mp4"))
        own = [frame.image for video in videos for frame in read_frames(video)]
        ours = np.moveaxis(np.stack(own), -1, 1)
        assert np.abs(found["frames"].astype(float) - ours).mean() < 3


@needs_lerobot
def test_what_lerobot_writes_is_read(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    frames = np.stack(
        [[np.stack([x * 3, y * 4, x * 0 + (50 * e + 5 * t)], -1) for t in range(25)]
         for e in range(2)]
    ).astype(np.uint8)  # fmt: skip
    actions = (rng.random((2, 25, 3)) < 0.5).astype(np.float32)
    state = rng.normal(size=(2, 25, 2)).astype(np.float32)
    np.savez(tmp_path / "truth.npz", frames=frames, actions=actions, state=state)
    with_lerobot(MAKES, tmp_path / "truth.npz", tmp_path / "robot")
    assert load(tmp_path / "robot", tmp_path / "out.zarr") == 0
    for episode in range(2):
        found, attributes = read(tmp_path / "out.zarr", episode)
        assert np.array_equal(found["actions"], actions[episode] == 1)
        assert np.array_equal(found["state"], state[episode])
        error = np.moveaxis(found["frames"], 1, -1).astype(float) - frames[episode]
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 28
        assert attributes["tasks"] == ["win"]
