"""Any environment in the dress of the house: frames, buttons, state and what is refused."""

import json

import cv2
import gymnasium
import numpy as np
import pytest
import zarr

from BC_training import rollout
from BC_training.common.config import EnvironmentConfig
from BC_training.play.fights import make_env
from gameplay_pipeline.environments.adapter import Adapter, Wanted, make, parse_adapter
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record
from gameplay_pipeline.record import main as record_main
from tests.support import toy_env
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy

BUFFERS = "tests.support.toy_env:Buffers-v0"
ADAPTER = Adapter(
    arguments={"frame_skip": 3},
    frame="screen",
    color_order="BGR",
    state=("gamevariables.1", "gamevariables.0"),
    actions={"shoot": "button_2", "left": "button_0"},
    fps=11.5,
)


def test_an_environment_that_says_nothing_is_dressed_by_its_settings():
    env = make(BUFFERS, ADAPTER, Wanted(40, 30, actions=("left", "shoot")))
    observation, _ = env.reset(seed=3)
    raw = gymnasium.make(BUFFERS, disable_env_checker=True).reset(seed=3)[0]["screen"]
    small = cv2.resize(raw, (40, 30), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(observation["frame"], small)
    np.testing.assert_array_equal(env.picture(), raw)  # a person sees all of it
    assert set(observation) == {"frame", "gamevariables.1", "gamevariables.0"}
    assert (env.action_names, env.color_order) == (("left", "shoot"), "BGR")
    assert (env.resize_method, env.fps) == ("area", 11.5)
    assert env.metadata["render_fps"] == 11.5
    assert env.unwrapped.frame_skip == 3
    assert not env.has_expert
    for pressed in ([1, 0], [0, 1], [1, 1], [0, 0]):
        observation, *_ = env.step(np.array(pressed, np.int8))
        assert env.observation_space.contains(observation)
    # Our columns are the environment's first and last; the one left out is never pressed.
    assert env.unwrapped.pressed == [[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]]
    assert (observation["gamevariables.0"], observation["gamevariables.1"]) == (4, 7)


def test_a_frame_of_the_right_size_is_passed_on_untouched():
    env = make("tests.support.toy_env:Toy-v0", Adapter(), Wanted(50, 20))
    observation, _ = env.reset(seed=0)
    assert observation["frame"] is env.unwrapped._frame
    assert (env.resize_method, env.fps, env.attribute_names) == ("none", 17.0, toy_env.STATE)
    assert observation["animation"].dtype == np.int64
    assert observation["animation"] == toy_env.ANIMATION


def test_the_expert_plays_with_our_buttons():
    env = make("tests.support.toy_env:Toy-v0", Adapter(), Wanted(40, 30, ("hit", "left", "right")))
    observation, _ = env.reset(seed=5)
    ours, theirs = env.make_expert(1), env.unwrapped.make_expert(1)
    ours.reset()
    theirs.reset()
    for _ in range(8):
        left, right, hit = theirs.act(observation)
        assert ours.act(observation).tolist() == [hit, left, right]
    few = make("tests.support.toy_env:Toy-v0", Adapter(actions={"strike": "hit"}), Wanted(40, 30))
    few.reset(seed=5)
    expert = few.make_expert(1)
    expert.reset()
    with pytest.raises(ValueError, match="a button that `actions` leaves out"):
        [expert.act(None) for _ in range(20)]


@pytest.mark.parametrize(
    ("name", "adapter", "wanted", "message"),
    [
        ("tests.support.toy_env:Unmakeable-v0", {}, {}, "can't be made: the game is not installed"),
        ("tests.support.toy_env:Toy-v0", {"arguments": {"wid": 3}}, {}, "unexpected keyword.*wid"),
        (
            "tests.support.toy_env:Joystick-v0",
            {},
            {},
            r"action space is Discrete\(4\); only MultiBinary",
        ),
        ("tests.support.toy_env:Blind-v0", {}, {}, "only an image"),
        (BUFFERS, {}, {}, "only an image .* as 'frame' will do"),
        (
            "tests.support.toy_env:Misnamed-v0",
            {},
            {},
            "has 3 buttons, but its action_names are left, ri",
        ),
        (
            "tests.support.toy_env:Toy-v0",
            {"actions": {"jump": "up", "hit": "hit"}},
            {},
            "setting actions names up, but its buttons are left, right, hit",
        ),
        (
            "tests.support.toy_env:Toy-v0",
            {},
            {"actions": ("left", "roll", "hit", "run")},
            "it has no roll, run and has right besides",
        ),
        (
            "tests.support.toy_env:Toy-v0",
            {},
            {"attributes": ("hp", "mp")},
            "lack the attributes mp; they have animation, hp, tick",
        ),
        (
            BUFFERS,
            {"frame": "screen", "state": ("gamevariables.2",)},
            {},
            r"lack the attributes gamevariables\.2; they have gamevariables\.0, gamevariables\.1",
        ),
    ],
)
def test_what_does_not_fit_is_named(name, adapter, wanted, message):
    with pytest.raises(UserError, match=message):
        make(name, Adapter(**adapter), Wanted(40, 30, **wanted))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "'{' is not JSON"),
        (
            '{"frames": "screen"}',
            "only the keys arguments, frame, color_order, state, actions,",
        ),
        ('{"color_order": "GBR"}', "color_order: Input should be 'RGB' or 'BGR', not 'GBR'"),
        ('{"fps": 0}', "fps: Input should be greater than 0, not 0"),
        ('{"actions": {"a": "x", "b": "x"}}', "gives one button two names"),
    ],
)
def test_bad_settings_are_named(text, message, capsys, monkeypatch):
    with pytest.raises(ValueError, match=message):
        parse_adapter(text)
    monkeypatch.setattr("sys.argv", ["record", "--out", "x.zarr", "--adapter", text])
    with pytest.raises(SystemExit):
        record_main()
    shown = " ".join(word for word in capsys.readouterr().err.split() if word not in "│")
    assert message.split()[0] in shown


def test_recorded_and_played_alike(tmp_path, monkeypatch):
    """What the recorder stores is what a policy gets from the same environment."""
    out = tmp_path / "buffers.zarr"
    settings = {"policy": "random", "episodes": 1, "resolution": "40x30", "adapter": ADAPTER}
    record(RecordConfig(out=out, env=BUFFERS, **settings))
    # The command line gives the same, and goes on with it.
    text = json.dumps(ADAPTER.plain())
    assert parse_adapter(text) == ADAPTER
    arguments = ["record", "--env", BUFFERS, "--policy", "random", "--episodes", "2",
                 "--resolution", "40x30", "--out", str(out), "--adapter", text]  # fmt: skip
    monkeypatch.setattr("sys.argv", arguments)
    assert record_main() == 0
    root = zarr.open_group(out, mode="r")
    assert root.attrs["keys"] == ["shoot", "left"]
    assert root.attrs["attributes"] == ["gamevariables.1", "gamevariables.0"]
    assert (root.attrs["fps"], root.attrs["color_order"]) == (11.5, "BGR")
    assert root.attrs["source"]["adapter"] == json.loads(text)
    group = root["episode_1"]
    contract = {"width": 40, "height": 30, "color_order": "BGR", "resize": "area", "fps": 11.5}
    env = make_env(BUFFERS, made_bundle(("shoot", "left"), **contract), ADAPTER)
    observation, _ = env.reset(seed=1)
    played = []
    for action in group["actions"][:]:
        played.append(np.moveaxis(observation["frame"], -1, 0))
        observation, *_ = env.step(action.astype(np.int8))
    np.testing.assert_array_equal(np.stack(played), group["frames"][:])
    assert group["state"][:].tolist() == [[7.0, float(tick)] for tick in range(12)]


def test_the_section_of_the_configuration_is_what_a_checkpoint_plays_with(tmp_path):
    names = tuple(ADAPTER.actions)
    contract = {"width": 40, "height": 30, "color_order": "BGR", "resize": "area", "fps": 11.5}
    bundle = made_bundle(names, **contract)
    adapter = ADAPTER.model_copy(update={"arguments": {}})
    environment = EnvironmentConfig(id=BUFFERS, **adapter.model_dump())
    config = bundle.config.model_copy(update={"environment": environment})
    folder = save_policy(tmp_path, bundle.model_copy(update={"config": config}))
    done = run(rollout.main, "--checkpoint", folder, "--env", BUFFERS, "--episodes", "2",
               "--workers", "1")  # fmt: skip
    assert done.status == 0, done.err
    fights = json.loads((folder / "fights.json").read_text())
    # No boss, no outcome: neither is claimed.
    summary = fights["summary"]["pure_cnn"]
    assert (summary["won"], summary["boss_health_removed"]) == (None, None)
    assert "won" not in done.out
    assert summary["reward"]["mean"] == 12
    assert summary["seconds"]["mean"] == pytest.approx(12 / 11.5)
    # Another environment is not dressed by these settings.
    other = run(rollout.main, "--checkpoint", folder, "--env", "tests.support.toy_env:Toy-v0")
    assert "it has no shoot and has right, hit besides" in other.err
    assert {*EnvironmentConfig.model_fields} - {"id"} == {*ADAPTER.plain()}
