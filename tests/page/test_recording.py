"""Fights that a person has at the page: what is kept of them, and at which rate."""

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from gameplay_pipeline.environments.adapter import AS_IT_IS, Wanted, make
from gameplay_pipeline.environments.person import Shown
from gameplay_pipeline.environments.play import Tick
from gameplay_pipeline.environments.recorder import writing_aside
from gameplay_pipeline.page.desk import Desk
from gameplay_pipeline.page.person import PagePerson
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record
from tests.support.page_client import follow_in_thread, free_port

TOY = "tests.support.toy_env:Toy-v0"


def record_with(out, script, **settings):
    """Records fights of a script at the page."""
    port = free_port()
    thread = follow_in_thread(f"http://127.0.0.1:{port}/", script)
    record(
        RecordConfig(
            out=out, env=settings.pop("env", TOY), policy="human", port=port, resolution="40x30",
            **settings,
        )
    )  # fmt: skip
    thread.join(timeout=10)
    assert not thread.is_alive()


class Script:
    """Holds other keys at each tick, and asks in each phase for what comes next in a list."""

    def __init__(self, *requests):
        self.requests = [*requests]
        self.held: dict[int, list[list[int]]] = {}
        """What was held at the ticks of each fight."""
        self._face = None

    def __call__(self, status):
        phase, tick = status["phase"], status.get("tick")
        if phase == "playing" and self.requests[:1] == ["abandon"] and tick == 4:
            return [{"ask": self.requests.pop(0)}]
        face = (phase, status.get("notice"), status.get("fight"))
        if phase in ("ready", "over", "paused") and face != self._face:
            self._face = face
            return [{"ask": self.requests.pop(0)}]
        if phase == "playing" and "pressed" in status:
            self._face = face
            held = self.held.setdefault(status["fight"], [])
            if tick == 0:
                held.clear()
            if tick == len(held):
                held.append(np.flatnonzero(np.random.default_rng(tick).random(3) < 0.4).tolist())
                return [{"held": held[-1]}]
        return []


def test_finished_fights_are_kept_discarded_and_abandoned_ones_are_not(tmp_path):
    out = tmp_path / "mine.zarr"
    script = Script("start", "discard", "start", "abandon", "start", "start", "finish")
    record_with(out, script, episodes=5, seed=7)
    assert script.requests == []
    root = zarr.open_group(out, mode="r")
    assert sorted(root.group_keys()) == ["episode_0", "episode_1"]
    assert root.attrs["source"] == {"env": TOY, "policy": "human", "seed": 7}
    assert not (tmp_path / "mine.zarr.partial").exists()
    for number in range(2):
        group = root[f"episode_{number}"]
        held = np.zeros((group.attrs["frame_count"], 3), bool)
        for tick, buttons in enumerate(script.held[number]):
            held[tick, buttons] = True
        differ = (np.asarray(group["actions"]) != held).any(axis=1).sum()
        assert differ <= 2, "a late tick is the machine's"
        times = np.asarray(group["timestamps"])
        assert group.attrs["fps"] == pytest.approx((len(times) - 1) / times[-1])
        assert group.attrs["fps"] == pytest.approx(17, rel=0.2)
        assert group.attrs["late_ticks"] <= 2
        assert (group.attrs["policy"], group.attrs["seed"]) == ("human", 7 + number)


def test_a_session_goes_on_where_the_last_one_ended(tmp_path):
    out = tmp_path / "mine.zarr"
    record_with(out, Script("start", "finish"), episodes=3)
    first = (out / "episode_0" / "zarr.json").read_bytes()
    record_with(out, Script("start", "start", "finish"), episodes=3)
    assert (out / "episode_0" / "zarr.json").read_bytes() == first
    assert len(list(out.glob("episode_*"))) == 3
    record(RecordConfig(out=out, env=TOY, policy="human", resolution="40x30", episodes=3, port=0))


def test_what_a_person_can_not_have_is_refused(tmp_path):
    for setting in ({"disturb": 0.1}, {"workers": 2}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            RecordConfig(out=tmp_path / "x.zarr", policy="human", **setting)
    with pytest.raises(UserError, match="doesn't say how many ticks a second has"):
        record(
            RecordConfig(
                out=tmp_path / "x.zarr", env="tests.support.toy_env:Plain-v0", policy="human"
            )
        )


class LeftAtTheThirdTick(Desk):
    """A desk whose person is away for a while."""

    def show(self, picture=None, **shown):
        super().show(picture, **shown)
        if shown.get("tick") == 3:
            self.leave("away")
            threading.Timer(0.5, self.ask, ["resume"]).start()


@pytest.mark.parametrize("is_real_time", [False, True])
def test_a_pause_holds_the_game_up_unless_it_goes_on_by_itself(is_real_time):
    env = make(TOY, AS_IT_IS, Wanted(40, 30))
    env.fps, env.is_real_time = 25.0, is_real_time
    desk = LeftAtTheThirdTick(3)
    desk.rest("playing")
    person = PagePerson(desk, env)
    observation, _ = env.reset(seed=0)
    began = time.monotonic()
    for _ in range(8):
        person.choose(observation, Shown(np.zeros(3, bool)))
    passed = time.monotonic() - began
    env.close()
    if is_real_time:
        assert passed < 0.3
    else:
        assert passed > 0.8
        assert person.timestamps()[-1] == pytest.approx(8 / 25, abs=0.06)


class SlowWriter:
    """Compresses for a long while at its first tick, and can't write its fourth."""

    info = SimpleNamespace(attributes=("hp",))

    def __init__(self):
        self.may_write, self.frames = threading.Event(), []

    def append(self, frame, action, state):
        assert self.may_write.wait(5)
        if len(self.frames) == 3:
            raise UserError("the disk is full")
        self.frames.append(int(frame[0, 0, 0]))


@pytest.mark.parametrize("ticks", [3, 4])
def test_no_tick_waits_for_what_is_written(ticks):
    writer, frame = SlowWriter(), np.zeros((2, 2, 3), np.uint8)
    fails = pytest.raises(UserError, match="disk is full") if ticks == 4 else nullcontext()
    with fails, writing_aside(writer) as append:
        began = time.monotonic()
        for number in range(ticks):
            frame[:] = number  # as a game that has one buffer for all frames
            append(Tick({"frame": frame, "hp": 1.0}, np.zeros(3, bool), np.zeros(3, bool), 0.0))
        assert time.monotonic() - began < 1
        writer.may_write.set()
    assert writer.frames == [0, 1, 2]
