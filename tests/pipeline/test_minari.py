"""Minari datasets: minari itself records what is read and opens what is written."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import zarr
from gymnasium import spaces

from gameplay_pipeline.convert.from_minari import FromMinari, from_minari
from gameplay_pipeline.convert.to_minari import ToMinari, to_minari
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, open_dataset
from tests.support.made_data import as_objects, make_dataset

ROOT = Path(__file__).parents[2]

IMAGE = spaces.Box(0, 255, (40, 48, 3), np.uint8)
ANIMATION = 180_032_301


class Noise(gymnasium.Env[Any, Any]):
    """Shows noise for some ticks; remembers what it showed and what was pressed."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space
        self.seen: list[list[Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.seen.append([])
        return self._observe(), {}

    def step(self, action: Any):
        return self._observe(), 1.0, len(self.seen[-1]) == 12, False, {}

    def _observe(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        sample: Any = self.observation_space.sample()
        if isinstance(sample, dict):
            sample = {name: np.asarray(value) for name, value in sample.items()}
        self.seen[-1].append(sample)
        return self.seen[-1][-1]


def make(tmp_path, monkeypatch, observations, actions, jpeg=False):
    """Records three episodes; returns the dataset's folder, what was seen and what was done."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = Noise(observations, actions)
    collector = minari.DataCollector(env, data_format="hdf5", jpeg_encoding=jpeg)
    actions.seed(0)
    done: list[list[Any]] = []
    for seed in range(3):
        collector.reset(seed=seed)
        done.append([])
        over = False
        while not over:
            done[-1].append(actions.sample())
            _, _, over, _, _ = collector.step(done[-1][-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of minari, about what the data are called and its folders
        collector.create_dataset(dataset_id="noise/test-v0")
        del collector
    return tmp_path / "minari" / "noise" / "test-v0", env.seen, done


def run(source, out, **options) -> int:
    return from_minari(FromMinari(source, out, **{"workers": 1, **options}))


def read(path, number):
    group = zarr.open_group(path, mode="r")[f"episode_{number}"]
    return {name: array[:] for name, array in group.arrays()}


@pytest.mark.parametrize("workers", [1, 2])
def test_images_and_buttons_come_out(tmp_path, monkeypatch, capsys, workers):
    source, seen, done = make(tmp_path, monkeypatch, IMAGE, spaces.MultiBinary(3))
    out = tmp_path / "out.zarr"
    assert run(source, out, keys="left, right,hit", fps=17.0, workers=workers) == 0
    attributes = zarr.open_group(out).attrs
    assert attributes["keys"] == ["left", "right", "hit"]
    assert (attributes["fps"], attributes["color_order"]) == (17.0, "RGB")
    assert "attributes" not in attributes
    for number in range(3):
        found = read(out, number)
        assert np.array_equal(np.moveaxis(found["frames"], 1, -1), seen[number][:-1])
        assert np.array_equal(found["actions"], np.array(done[number]) == 1)
        assert "state" not in found
    text = capsys.readouterr().out
    assert "not carried over: rewards" in text
    assert "lossy" not in text


def test_a_dictionary_gives_state_and_names_what_stays_behind(tmp_path, monkeypatch, capsys):
    entries = {
        "screen": IMAGE,
        "animation": spaces.Box(ANIMATION, ANIMATION, (), np.int64),
        "position": spaces.Box(-1, 1, (2,), np.float32),
        "map": spaces.Box(0, 1, (4, 4), np.float32),
    }
    source, seen, done = make(
        tmp_path, monkeypatch, spaces.Dict(entries), spaces.Discrete(4), jpeg=True
    )
    out = tmp_path / "out.zarr"
    assert run(source, out, resolution="24x20") == 0
    attributes = zarr.open_group(out).attrs
    assert attributes["attributes"] == ["animation", "position_0", "position_1"]
    assert attributes["keys"] == ["button_0", "button_1", "button_2", "button_3"]
    assert attributes["resize"] == "area"
    for number in range(3):
        found = read(out, number)
        assert found["frames"].shape[1:] == (3, 20, 24)
        expected = [[ANIMATION, *each["position"]] for each in seen[number][:-1]]
        assert np.array_equal(found["state"], np.array(expected, np.float32))
        assert found["actions"].sum(axis=1).tolist() == [1] * len(done[number])
        assert found["actions"].argmax(axis=1).tolist() == [int(a) for a in done[number]]
    text = capsys.readouterr().out
    assert "not carried over: observations: map" in text
    assert "JPEG" in text
    assert "0, 1, 2: animation is rounded: float32" in text


def test_several_cameras_need_a_choice(tmp_path, monkeypatch, capsys):
    both = spaces.Dict({"left": IMAGE, "right": IMAGE})
    source, seen, _ = make(tmp_path, monkeypatch, both, spaces.MultiDiscrete([2, 2]))
    with pytest.raises(UserError, match="left, right is an RGB image"):
        run(source, tmp_path / "out.zarr")
    assert run(source, tmp_path / "out.zarr", camera="right") == 0
    found = np.moveaxis(read(tmp_path / "out.zarr", 1)["frames"], 1, -1)
    assert np.array_equal(found, [each["right"] for each in seen[1][:-1]])
    assert "not carried over: observations: left" in capsys.readouterr().out


@pytest.mark.parametrize(
    "actions", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.Discrete(3, start=1)]
)
def test_actions_that_are_no_buttons_are_refused(tmp_path, monkeypatch, actions):
    source, _, _ = make(tmp_path, monkeypatch, IMAGE, actions)
    with pytest.raises(UserError, match="only buttons"):
        run(source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_observations_without_an_image_are_refused(tmp_path, monkeypatch):
    gray = spaces.Box(0, 255, (40, 48), np.uint8)
    source, _, _ = make(tmp_path, monkeypatch, gray, spaces.MultiBinary(2))
    with pytest.raises(UserError, match="nothing is an RGB image"):
        run(source, tmp_path / "out.zarr")


def test_a_damaged_episode_is_left_out(tmp_path, monkeypatch, capsys):
    source, _, _ = make(tmp_path, monkeypatch, IMAGE, spaces.MultiBinary(2))
    with h5py.File(source / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        short = np.asarray(file["episode_1/actions"])[:-2]
        del file["episode_1/actions"]
        file["episode_1/actions"] = short
    out = tmp_path / "out.zarr"
    command = [
        sys.executable,
        "-m",
        "gameplay_pipeline.minari",
        "from",
        source,
        out,
        "--workers",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "left out: 0: it can't be read" in done.stdout
    assert "left out: 1: 9 actions but 12 frames; should be one more" in done.stdout
    assert list(zarr.open_group(out).group_keys()) == ["episode_2"]


def test_bad_arguments_are_refused(tmp_path, monkeypatch):
    source, _, _ = make(tmp_path, monkeypatch, IMAGE, spaces.MultiBinary(2))
    with pytest.raises(UserError, match="no such folder of a Minari dataset"):
        run(tmp_path / "nowhere", tmp_path / "out.zarr")
    with pytest.raises(UserError, match="can't be read as a Minari dataset"):
        run(source.parent, tmp_path / "out.zarr")
    with pytest.raises(UserError, match="must name 2 buttons"):
        run(source, tmp_path / "out.zarr", keys="left")
    with pytest.raises(UserError, match="--fps is 0"):
        run(source, tmp_path / "out.zarr", fps=0.0)
    (source / "data" / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as a Minari dataset"):
        run(source, tmp_path / "out.zarr")


def export(source, out, **options) -> int:
    return to_minari(ToMinari(str(source), out, **options))


def content(path):
    """All of a dataset of ours: its attributes, and each episode's arrays and attributes."""
    root = zarr.open_group(path, mode="r")
    episodes = {
        name: ({key: array[:] for key, array in group.arrays()}, dict(group.attrs))
        for name, group in root.groups()
    }
    return dict(root.attrs), episodes


def record(path, episodes=3, ticks=20, size=(48, 40), color_order="RGB", attributes=("hp", "x")):
    """A dataset as our recorders write it, with all that an episode may have."""
    rng = np.random.default_rng(0)
    height, width = size[1], size[0]
    source = {"env": "made", "nested": {"seed": 3}}
    info = DatasetInfo(("l/r", "hit"), attributes, height, width, None, color_order, "area", source)
    open_dataset(path, info, 3)
    for number in range(episodes):
        with EpisodeWriter(path, number, info, 3) as writer:
            for _ in range(ticks + number):
                writer.append(
                    rng.integers(0, 256, (height, width, 3), np.uint8),
                    rng.random(2) < 0.5,
                    rng.normal(size=len(attributes)).astype(np.float32),
                )
            own = {"outcome": "won", "seed": number, "fps": 17.5, "instruction": "hit", "won": True}
            writer.finish(own, timestamps=np.cumsum(rng.uniform(0.04, 0.08, ticks + number)))
    return path


@pytest.mark.parametrize("color_order", ["RGB", "BGR"])
@pytest.mark.parametrize("attributes", [("hp", "x"), ()])
def test_there_and_back_nothing_changes(tmp_path, capsys, color_order, attributes):
    path = record(tmp_path / "in.zarr", color_order=color_order, attributes=attributes)
    assert export(path, tmp_path / "boss-v0", lossless=True) == 0
    said = capsys.readouterr().out
    assert "not carried over" not in said
    assert "made up: rewards (0)" in said
    assert "boss-v0: 3 episodes, 63 frames" in said
    assert run(tmp_path / "boss-v0", tmp_path / "back.zarr", workers=2) == 0
    assert "not carried over: source_episode" in capsys.readouterr().out
    root, episodes = content(path)
    found, back = content(tmp_path / "back.zarr")
    assert found.pop("source") == {"minari": "boss-v0", "camera": "frame", "source": root["source"]}
    assert found == {**{k: v for k, v in root.items() if k != "source"}, "color_order": "RGB"}
    assert back.keys() == episodes.keys()
    for name, (arrays, attributes_of) in episodes.items():
        if color_order == "BGR":
            arrays["frames"] = arrays["frames"][:, ::-1]
        assert back[name][0].keys() == arrays.keys()
        for key, array in arrays.items():
            assert np.array_equal(back[name][0][key], array), key
            assert back[name][0][key].dtype == array.dtype
        assert back[name][1] == {**attributes_of, "source_episode": name.removeprefix("episode_")}


def test_minari_opens_what_is_written(tmp_path, monkeypatch):
    made = make_dataset(tmp_path / "in.zarr", (40, 30, 20), attributes={"color_order": "RGB"})
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert export(made.path, tmp_path / "minari" / "boss-v0", lossless=True) == 0
    assert list(minari.list_local_datasets()) == ["boss-v0"]
    data = minari.load_dataset("boss-v0")
    assert (data.total_episodes, data.total_steps, data.id) == (3, 90, "boss-v0")
    for number, episode in enumerate(data):
        frames = np.moveaxis(made.frames[number], 1, -1)
        assert len(episode) == len(frames)
        assert np.array_equal(episode.observations["frame"][:-1], frames)
        assert np.array_equal(episode.observations["frame"][-1], frames[-1])
        assert np.array_equal(episode.observations["state"][:-1], made.state[number])
        assert np.array_equal(episode.actions, made.actions[number])
        assert data.action_space.contains(episode.actions[0])
        first = {name: values[0] for name, values in episode.observations.items()}
        assert data.observation_space.contains(first)
        assert not episode.rewards.any()
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * (len(frames) - 1) + [True]
    del episode
    some = minari.split_dataset(data, [2, 1], seed=0)
    assert [len(part) for part in some] == [2, 1]


def test_lossy_frames_are_close_and_named(tmp_path, capsys, monkeypatch):
    y, x = np.mgrid[:64, :96]
    info = DatasetInfo(("a",), (), 64, 96, 17.0, "RGB", "none", {})
    frames = [np.stack([x * 2, y * 3, (x + y + t)], -1).astype(np.uint8) for t in range(20)]
    open_dataset(tmp_path / "in.zarr", info, 3)
    with EpisodeWriter(tmp_path / "in.zarr", 0, info, 3) as writer:
        for frame in frames:
            writer.append(frame, np.ones(1, bool), np.zeros(0, np.float32))
        writer.finish({})
    monkeypatch.chdir(tmp_path)
    assert export(Path("in.zarr"), Path("boss-v0")) == 0
    assert "not carried over: frames: JPEG is lossy" in capsys.readouterr().out
    assert run(tmp_path / "boss-v0", tmp_path / "back.zarr") == 0
    assert "JPEG" in capsys.readouterr().out
    found = np.moveaxis(read(tmp_path / "back.zarr", 0)["frames"], 1, -1)
    assert 10 * np.log10(255**2 / np.mean((found.astype(float) - frames) ** 2)) > 28
    assert zarr.open_group(tmp_path / "back.zarr").attrs["fps"] == 17.0


def test_broken_episodes_of_ours_are_left_out(tmp_path, capsys):
    lengths = (40, 30, 20, 10, 9)
    made = make_dataset(tmp_path / "in.zarr", lengths, attributes={"color_order": "RGB"})
    shutil.rmtree(made.path / "episode_1/actions")
    for chunk in (made.path / "episode_2/frames").glob("3.*"):
        chunk.unlink()
    (made.path / "episode_3").rename(made.path / "episode_7")
    zarr.open_group(made.path)["episode_0"].create_array("depth", data=np.zeros(3))
    as_objects(made.path / "episode_4" / "state")
    assert export(made.path, tmp_path / "boss-v0", lossless=True) == 3
    text = capsys.readouterr().out
    assert "not carried over: the array 'depth' of the episodes" in text
    assert "not carried over: the numbers of the episodes, which are counted anew" in text
    assert "left out: episode_1: it has no frames or no actions" in text
    assert "left out: episode_2: episode_2/frames: tick 3" in text
    assert re.search(r"left out: episode_4: .*(object|\|O)", text)
    assert run(tmp_path / "boss-v0", tmp_path / "back.zarr") == 0
    for number, old in enumerate((0, 3)):
        frames = read(tmp_path / "back.zarr", number)["frames"]
        assert np.array_equal(frames, made.frames[old])


def test_datasets_of_ours_that_cannot_be_carried_over_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such dataset"):
        export(tmp_path / "nowhere", tmp_path / "boss-v0")
    unknown = make_dataset(tmp_path / "unknown.zarr", (5,)).path
    with pytest.raises(UserError, match="give --assume-color-order"):
        export(unknown, tmp_path / "boss-v0")
    with pytest.raises(UserError, match="OUT must not be inside"):
        export(unknown, unknown / "boss-v0")
    for name in ("boss", "boss.minari"):
        with pytest.raises(UserError, match="names with a version; call it boss-v0"):
            export(unknown, tmp_path / name)
    assert export(unknown, tmp_path / "boss-v0", assume_color_order="RGB") == 0
    with pytest.raises(UserError, match="exists already"):
        export(unknown, tmp_path / "boss-v0")
    metadata = tmp_path / "boss-v0" / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"hp", "hint"', '"hp"'))
    with pytest.raises(UserError, match="names 1 attributes, but its state has 2 columns"):
        run(tmp_path / "boss-v0", tmp_path / "back.zarr")
    sound = json.loads(metadata.read_text())
    for damaged in (3, {"keys": [1, 2, 3]}, {"fps": "17"}, {"fps": -1}, {"attributes": 5}):
        metadata.write_text(json.dumps({**sound, "project_ranni": damaged}))
        with pytest.raises(UserError, match="metadata has under 'project_ranni' is damaged"):
            run(tmp_path / "boss-v0", tmp_path / "back.zarr")


LIMITED = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (300_000, 300_000)); "
RUN = "import runpy; runpy.run_module('gameplay_pipeline.minari', run_name='__main__')"


def test_a_full_disk_is_told(tmp_path):
    record(tmp_path / "in.zarr", ticks=60)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + RUN, "to", tmp_path / "in.zarr", tmp_path / "boss-v0",
         "--lossless"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "can't be written: File too large. Make room and start again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("boss*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_is_stopped_is_not_taken_for_a_dataset(tmp_path, how):
    record(tmp_path / "in.zarr", episodes=12, ticks=60, size=(192, 128))
    command = [sys.executable, "-m", "gameplay_pipeline.minari", "to",
               tmp_path / "in.zarr", tmp_path / "boss-v0"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    growing = tmp_path / "boss-v0.partial" / "data" / "0" / "part-0.arrow"
    until = time.monotonic() + 60
    while not (growing.exists() and growing.stat().st_size) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert not (tmp_path / "boss-v0").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130, said
        assert "the same command begins anew" in said
        assert "Traceback" not in said
        assert not list(tmp_path.glob("boss*"))
    assert export(tmp_path / "in.zarr", tmp_path / "boss-v0") == 0
    assert minari.MinariDataset(tmp_path / "boss-v0" / "data").total_episodes == 12
    assert not (tmp_path / "boss-v0.partial").exists()
