"""Minari datasets, recorded by minari itself from small environments."""

import subprocess
import sys
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

from gameplay_pipeline.minari import FromMinari, from_minari
from gameplay_pipeline.writer import RecordError

ROOT = Path(__file__).parent.parent

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
    with pytest.raises(RecordError, match="left, right is an RGB image"):
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
    with pytest.raises(RecordError, match="only buttons"):
        run(source, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_observations_without_an_image_are_refused(tmp_path, monkeypatch):
    gray = spaces.Box(0, 255, (40, 48), np.uint8)
    source, _, _ = make(tmp_path, monkeypatch, gray, spaces.MultiBinary(2))
    with pytest.raises(RecordError, match="nothing is an RGB image"):
        run(source, tmp_path / "out.zarr")


def test_a_damaged_episode_is_left_out(tmp_path, monkeypatch, capsys):
    source, _, _ = make(tmp_path, monkeypatch, IMAGE, spaces.MultiBinary(2))
    with h5py.File(source / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        short = np.asarray(file["episode_1/actions"])[:-2]
        del file["episode_1/actions"]
        file["episode_1/actions"] = short
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-m", "gameplay_pipeline.minari", source, out, "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "left out: 0: it can't be read" in done.stdout
    assert "left out: 1: 9 actions but 12 frames; should be one more" in done.stdout
    assert list(zarr.open_group(out).group_keys()) == ["episode_2"]


def test_bad_arguments_are_refused(tmp_path, monkeypatch):
    source, _, _ = make(tmp_path, monkeypatch, IMAGE, spaces.MultiBinary(2))
    with pytest.raises(RecordError, match="no such folder of a Minari dataset"):
        run(tmp_path / "nowhere", tmp_path / "out.zarr")
    with pytest.raises(RecordError, match="can't be read as a Minari dataset"):
        run(source.parent, tmp_path / "out.zarr")
    with pytest.raises(RecordError, match="must name 2 buttons"):
        run(source, tmp_path / "out.zarr", keys="left")
    with pytest.raises(RecordError, match="--fps is 0"):
        run(source, tmp_path / "out.zarr", fps=0.0)
    (source / "data" / "metadata.json").write_text("{")
    with pytest.raises(RecordError, match="can't be read as a Minari dataset"):
        run(source, tmp_path / "out.zarr")
