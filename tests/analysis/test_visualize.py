"""An episode in Rerun's viewer: what is in the file, read back by Rerun's own reader."""

import collections
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from flax import nnx

pytest.importorskip("rerun", reason="needs the dependency group: uv run --group visualize pytest")

import rerun
from rerun.chunk import RrdReader

from BC_training import models, visualize
from BC_training.analysis import policy as policy_analysis
from BC_training.checkpoints import store as checkpoints
from BC_training.common import config_file
from BC_training.common.dataset import open_data
from BC_training.common.episodes import Episodes, split
from BC_training.common.types import ModelConfig, WindowSpec
from BC_training.networks.model import Model
from BC_training.play.policy import Policy
from tests.support import window_model
from tests.support.commands import run
from tests.support.made_data import ACTIONS, STATE, make_dataset
from tests.support.made_policy import made_bundle, save_policy
from tests.support.small_models import SMALL

PATCHES = {"left": (slice(4, 8), slice(22, 27)), "right": (slice(14, 19), slice(3, 7))}
"""Rows and columns of the frame that alone decide on an action."""


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def shown(*arguments):
    """The command's end, as a person would run it."""
    return run(visualize.main, *arguments)


def read(file):
    """Values by tick of each component under its entity, and under "time" the seconds."""
    components = collections.defaultdict(dict)
    for chunk in RrdReader(file).stream().to_chunks():
        if chunk.is_static:
            continue
        rows = chunk.to_record_batch()
        ticks = rows["tick"].to_pylist()
        for name in rows.schema.names:
            component = name.rpartition(":")[2]
            if component in ("scalars", "blob", "state"):
                cells = zip(ticks, rows[name].to_pylist(), strict=True)
                values = {tick: cell[0] for tick, cell in cells if cell}
                components[chunk.entity_path, component] |= values
        if "time" in rows.schema.names:
            seconds = rows["time"].cast("int64").to_numpy() / 1e9
            components["time"] |= dict(zip(ticks, seconds.tolist(), strict=True))
    return components


def series(found, entity, component="scalars"):
    values = found[entity, component]
    assert sorted(values) == list(range(len(values)))
    return np.array([values[tick] for tick in range(len(values))])


def picture(blob):
    return cv2.imdecode(np.frombuffer(bytes(blob), np.uint8), cv2.IMREAD_UNCHANGED)


def untrained(folder, made, model, thresholds=(0.0, 0.5, 1.0)):
    """A checkpoint of a freshly initialised model whose preprocessing is fitted on the data."""
    raw = {
        "dataset": {
            "path": str(made.path), "val_ratio": 0.2, "cache_dir": str(folder / "cache"),
            "instruction": "press what is bright",
        },
        "model": model,
    }  # fmt: skip
    config = config_file.validate(raw, "the test")
    data = open_data(config)
    changes = {
        "spec": data.spec,
        "preprocess": data.preprocess,
        "thresholds": thresholds,
    }
    return save_policy(
        folder / "run", made_bundle(ACTIONS, config=config).model_copy(update=changes)
    )


def test_an_episode_alone(made, tmp_path, monkeypatch):
    decoded = []
    read_frames = Episodes.read_frames

    def watched(self, number, ticks):
        decoded.append(number)
        frames = read_frames(self, number, ticks)
        assert len(frames) <= visualize.FRAMES_AT_ONCE
        return frames

    monkeypatch.setattr(Episodes, "read_frames", watched)
    monkeypatch.setattr(visualize, "FRAMES_AT_ONCE", 16)
    file = tmp_path / "episode.rrd"
    done = shown("--dataset", made.path, "--episode", "2", "--out", file)
    assert done.status == 0, done.err
    assert f"rerun {file}" in done.out
    assert decoded == [2] * 4
    found = read(file)
    assert not {entity for entity, _ in found.keys() - {"time"} if "policy" in entity}
    for column, name in enumerate(ACTIONS):
        pressed = series(found, f"/buttons/{name}/player")
        np.testing.assert_array_equal(pressed, made.actions[2][:, column])
    for column, name in enumerate(STATE):
        values = series(found, f"/state/others/{name}")
        np.testing.assert_array_equal(values, made.state[2][:, column])
    np.testing.assert_allclose(
        [found["time"][tick] for tick in range(50)], np.arange(50) / 17, atol=1e-6
    )
    frames = [picture(found["/screen/frame", "blob"][tick])[..., ::-1] for tick in range(50)]
    assert len(found["/screen/frame", "blob"]) == 50
    for frame, true in zip(frames, made.frames[2].transpose(0, 2, 3, 1), strict=True):
        # Noise is what JPEG keeps worst; which parts are bright, it keeps.
        blocks = [image.reshape(2, 12, 2, 16, 3).mean(axis=(1, 3, 4)) for image in (frame, true)]
        np.testing.assert_allclose(*blocks, atol=4)
    assert len(RrdReader(file).blueprints()) == 1


@pytest.mark.parametrize(
    "model",
    [
        {"name": "pure_cnn", **SMALL["pure_cnn"]},
        {"name": "temporal_lstm", **SMALL["temporal_lstm"],
         "encoder": {**SMALL["temporal_lstm"]["encoder"], "state": True}},
        {"name": "vla", **SMALL["vla"]},
        {"name": "window_model"},
    ],
    ids=lambda model: model["name"],
)  # fmt: skip
def test_a_checkpoint_is_shown_as_it_plays(made, tmp_path, monkeypatch, model):
    load = models.load
    monkeypatch.setattr(
        models, "load", lambda name: window_model if name == "window_model" else load(name)
    )
    folder, file = untrained(tmp_path, made, model), tmp_path / "episode.rrd"
    done = shown(
        "--dataset", made.path, "--episode", "3", "--checkpoint", folder, "--out", file,
        "--smooth", "2",
    )  # fmt: skip
    assert done.status == 0, done.err
    found = read(file)
    policy = Policy.load(folder)
    policy.reset("press what is bright" if model["name"] == "vla" else None)
    probabilities, pressed = [], []
    for frame, state in zip(made.frames[3].transpose(0, 2, 3, 1), made.state[3], strict=True):
        decision = policy.act({"frame": frame, **dict(zip(STATE, state, strict=True))})
        pressed.append(decision.pressed)
        probabilities.append(decision.probabilities)
    assert 0 < np.mean(pressed) < 1
    for column, name in enumerate(ACTIONS):
        for what, true in (("probability", probabilities), ("policy", pressed)):
            shown_values = series(found, f"/buttons/{name}/{what}")
            np.testing.assert_array_equal(shown_values, np.array(true)[:, column])
        threshold = series(found, f"/buttons/{name}/threshold")
        np.testing.assert_array_equal(threshold, policy.bundle.thresholds[column])
    heat = [picture(found["/screen/saliency", "blob"][tick])[..., 3] for tick in range(20)]
    seen = np.array([image.max() > 0 for image in heat])
    np.testing.assert_array_equal(seen, np.any(pressed, axis=1))
    if policy.bundle.config.model.window().chunk == 1:
        np.testing.assert_allclose(probabilities, in_windows(folder, 3), atol=1e-5)


def in_windows(folder, number):
    """Probabilities for an episode by the way that training takes."""
    bundle, model = checkpoints.load_model(folder)
    data = open_data(bundle.config, bundle.preprocess)
    everything = split(data.episodes, 0.8, 0.2, bundle.config.dataset.split_seed)
    (part,) = [at for at, numbers in enumerate(everything) if number in numbers]
    dataset = list(data.splits.values())[part]
    samples = np.flatnonzero(dataset.episode == everything[part].index(number))
    batch = bundle.preprocess.batch(dataset.batch(samples), dataset.resident)
    logits = nnx.jit(lambda model, seen: model(seen).logits)(model, batch.observation)
    return jax.nn.sigmoid(logits[:, 0])


class PatchModel(Model):
    """Left and right are decided each by a patch of the frame, hit by nothing."""

    Config = type("Config", (ModelConfig,), {"window": lambda self: WindowSpec(ticks=2, chunk=1)})

    def __init__(self, config, spec, rngs):
        super().__init__(config, spec, 2, rngs)
        self.gain = nnx.Param(jnp.array([1.0, 2.0]))

    @classmethod
    def create_model(cls, config, spec, rngs):
        return cls(config, spec, rngs)

    def encode(self, tick, rngs):
        means = [
            tick.frames[:, rows, columns].mean((1, 2, 3)) for rows, columns in PATCHES.values()
        ]
        return jnp.tanh(self.gain[None] * jnp.stack(means, axis=1))

    def decode(self, features, valid, rngs):
        now = features[:, -1]
        return jnp.concatenate([now, 0 * now[:, :1]], axis=1)[:, None]


@pytest.mark.parametrize("action", ["left", "right", "hit", None])
def test_the_saliency_is_where_the_picture_counts(made, tmp_path, monkeypatch, action):
    monkeypatch.setattr(models, "load", lambda name: PatchModel)
    thresholds = tuple(0.0 if name == action else 1.0 for name in ACTIONS)
    folder = untrained(tmp_path, made, {"name": "patch"}, thresholds)
    file = tmp_path / "episode.rrd"
    done = shown("--dataset", made.path, "--episode", "3", "--checkpoint", folder, "--out", file)
    assert done.status == 0, done.err
    blobs = read(file)["/screen/saliency", "blob"]
    assert len(blobs) == 20
    for blob in blobs.values():
        heat = picture(blob)[..., 3]
        assert heat.shape == (24, 32)
        if action not in PATCHES:
            assert heat.max() == 0
            continue
        rows, columns = PATCHES[action]
        inside = np.zeros((24, 32), bool)
        inside[rows, columns] = True
        assert inside.reshape(-1)[heat.argmax()]
        assert (heat[inside] > 0.4 * heat.max()).all()
        blurred = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7)))
        assert heat[blurred == 0].max() == 0


def test_no_saliency_where_none_is_wanted(made, tmp_path):
    folder = untrained(tmp_path, made, {"name": "pure_cnn", **SMALL["pure_cnn"]})
    file = tmp_path / "episode.rrd"
    done = shown(
        "--dataset", made.path, "--episode", "0", "--checkpoint", folder, "--out", file,
        "--smooth", "0",
    )  # fmt: skip
    assert done.status == 0, done.err
    found = read(file)
    assert ("/screen/saliency", "blob") not in found
    assert ("/buttons/hit/probability", "scalars") in found


def test_recorded_time_colours_and_names(tmp_path):
    """As Elden Ring has them: resources, positions, animations; BGR; slashes in names."""
    state = ("HeroHp", "HeroMaxHp", "NpcHp", "HeroGlobalPosX", "NpcAnimId", "NpcId")
    made = make_dataset(
        tmp_path / "made.zarr", (30,), attributes={
            "keys": ["move left", "dodge_roll/dash", "attack"], "attributes": list(state),
            "color_order": "BGR", "fps": None,
        },
    )  # fmt: skip
    root = zarr.open_group(made.path)
    del root.attrs["fps"]
    group = root["episode_0"]
    values = np.tile(np.array([50, 200, 900, 3, 3011, 7], np.float32), (30, 1))
    values[20:, 0], values[10:, 4] = 25, 3002
    values[:, 3] += np.arange(30)
    del group["state"]
    group.create_array("state", data=values)
    times = 1000 + np.arange(30) ** 1.5 / 10
    group.create_array("timestamps", data=times)
    frames = np.full((30, 3, 24, 32), 20, np.uint8)
    frames[:, 0] = 200  # blue
    group["frames"][:] = frames
    file = tmp_path / "episode.rrd"
    done = shown("--dataset", made.path, "--episode", "0", "--out", file)
    assert done.status == 0, done.err
    found = read(file)
    np.testing.assert_allclose(
        [found["time"][tick] for tick in range(30)], times - times[0], atol=1e-6
    )
    bgr = picture(found["/screen/frame", "blob"][0])
    np.testing.assert_allclose(bgr.mean(axis=(0, 1)), (200, 20, 20), atol=3)
    np.testing.assert_array_equal(
        series(found, "/buttons/dodge_roll\\/dash/player"), made.actions[0][:, 1]
    )
    assert series(found, "/state/resources/HeroHp")[[0, -1]].tolist() == [0.25, 0.125]
    assert series(found, "/state/resources/NpcHp")[0] == 900
    assert series(found, "/state/positions/HeroGlobalPosX")[-1] == 32
    assert found["/state/animations/NpcAnimId", "state"] == {0: "3011", 10: "3002"}
    drawn = {entity.rpartition("/")[2] for entity, _ in found.keys() - {"time"}}
    assert not drawn & {"NpcId", "HeroMaxHp"}


def test_neither_state_nor_time(tmp_path):
    made = make_dataset(tmp_path / "made.zarr", (10,), attributes={"attributes": []})
    del zarr.open_group(made.path).attrs["fps"]
    file = tmp_path / "episode.rrd"
    done = shown("--dataset", made.path, "--episode", "0", "--out", file)
    assert done.status == 0, done.err
    found = read(file)
    assert not found["time"]
    assert len(series(found, "/buttons/hit/player")) == 10
    assert not [entity for entity, _ in found.keys() - {"time"} if entity.startswith("/state")]


def test_the_viewer_opens_where_there_is_a_display(made, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setenv("DISPLAY", ":0")
    file = tmp_path / "episode.rrd"
    for _ in range(2):  # the second time over the first one's file
        done = shown("--dataset", made.path, "--episode", "3", "--out", file)
        assert done.status == 0, done.err
    assert started == [[sys.executable, "-m", "rerun_cli", str(file)]] * 2
    assert len(read(file)["/screen/frame", "blob"]) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "nowhere.zarr"), "nowhere.zarr: no such dataset"),
        (("--episode", "17"), "has no episode_17; the nearest of its 4 episodes "
         "(episode_0 to episode_4) is episode_4"),
        (("--episode", "1"), "episode_1: it has no array 'frames'"),
        (("--out", "film.mp4"), "--out: film.mp4 does not end in .rrd"),
        (("--out", "nowhere/film.rrd"), "--out: no folder nowhere"),
        (("--smooth", "-1"), "--smooth: -1 is below zero"),
        (("--checkpoint", "tests"), "tests: no checkpoint here"),
    ],
)  # fmt: skip
def test_mistakes_get_one_message(made, tmp_path, monkeypatch, arguments, message):
    del zarr.open_group(made.path)["episode_1"]["frames"]
    given = {"--dataset": made.path, "--episode": "0", "--out": tmp_path / "episode.rrd"}
    given |= dict([arguments])
    done = shown(*(word for pair in given.items() for word in pair))
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("*.rrd"))


def test_a_checkpoint_of_other_data_is_refused(made, tmp_path):
    stateful = {**SMALL["temporal_lstm"]["encoder"], "state": True}
    folder = untrained(
        tmp_path, made, {"name": "temporal_lstm", **SMALL["temporal_lstm"], "encoder": stateful}
    )
    for attribute, value, message in (
        ("keys", ["left", "right", "jump"], "actions left, right, jump, trained on"),
        ("fps", 30.0, "fps 30.0, trained on 17.0"),
        ("attributes", [], "state none, trained on hp, hint"),
    ):
        other = make_dataset(tmp_path / f"{attribute}.zarr", attributes={attribute: value})
        done = shown(
            "--dataset", other.path, "--episode", "0", "--checkpoint", folder,
            "--out", tmp_path / "episode.rrd",
        )  # fmt: skip
        assert done.status == 1
        assert message in done.err
        assert not (tmp_path / "episode.rrd").exists()


def test_a_disk_that_fails_is_no_success(made, tmp_path, monkeypatch):
    file, partial = tmp_path / "episode.rrd", tmp_path / "episode.partial.rrd"
    partial.symlink_to("/dev/full")
    done = shown("--dataset", made.path, "--episode", "3", "--out", file)
    assert done.status == 1
    assert "episode.partial.rrd: can't be written: " in done.err
    assert "No space left" in done.err

    def lost(self, **_):
        raise RuntimeError("the writer is gone")

    monkeypatch.setattr(rerun.RecordingStream, "flush", lost)
    done = shown("--dataset", made.path, "--episode", "3", "--out", file)
    assert done.status == 1
    assert "episode.partial.rrd: can't be written: the writer is gone" in done.err
    assert "Traceback" not in done.err
    assert not file.exists()
    assert not partial.exists()


def test_a_damaged_frame_is_named(made, tmp_path):
    (made.path / "episode_3" / "frames" / "7.0.0.0").write_bytes(b"nonsense")
    file = tmp_path / "episode.rrd"
    done = shown("--dataset", made.path, "--episode", "3", "--out", file)
    assert done.status == 1
    assert "episode_3/frames: tick 7" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("*.rrd"))


def test_without_rerun_it_says_how_to_get_it(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    monkeypatch.delitem(sys.modules, "BC_training.analysis.policy.viewer", raising=False)
    monkeypatch.delattr(policy_analysis, "viewer", raising=False)
    done = shown("--dataset", made.path, "--episode", "0", "--out", tmp_path / "episode.rrd")
    assert done.status == 1
    assert "uv run --group visualize" in done.err
