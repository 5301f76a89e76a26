"""A person takes over from a policy, and hands back."""

import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from BC_training import correct
from BC_training.common.episodes import Episodes
from BC_training.play.policy import Policy
from BC_training.play.takeover import Takeover
from gameplay_pipeline.environments.keyboard_hook import KeyboardHook
from gameplay_pipeline.environments.person import Shown
from gameplay_pipeline.page.desk import FightAbandoned
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.button_decoder import Decision
from ranni_player.environment import KeptEnvironment
from tests.support import toy_env
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy
from tests.support.page_client import follow_in_thread, free_port

CLONE = [True, False, False]


class Clone(Policy):
    """Holds the first button, and keeps what it is told of the tick before."""

    def __init__(self):
        self.bundle = made_bundle(toy_env.ACTIONS)

    def reset(self, instruction=None, seed=0):
        self.told = []

    def act(self, observation, previous=None):
        self.told.append(None if previous is None else previous.tolist())
        return Decision(np.array(CLONE), np.array([0.9, 0.2, 0.1], np.float32))


class Hands:
    """A person who holds a button, or none, at each tick."""

    def __init__(self, held):
        self.held = iter(held)
        self.drivers = []

    def reset(self):
        self.drivers.clear()

    def choose(self, observation, shown):
        self.drivers.append("you" if shown.is_person else "clone")
        button = next(self.held)
        return np.arange(3) == (-1 if button is None else button)


def test_any_key_takes_over_at_once_and_silence_hands_back():
    # Three ticks of silence at 4 ticks a second.
    held = [None, None, 2, 1, None, 1, None, None, None, None, 2]
    clone, person = Clone(), Hands(held)
    player = Takeover(clone, person, fps=4.0)
    player.begin(0).reset()
    pressed = [player.act({}).tolist() for _ in held]
    none, right, hit = [[False] * 3, [False, True, False], [False, False, True]]
    assert pressed == [
        CLONE, CLONE, hit, right, none, right, none, none, CLONE, CLONE, hit,
    ]  # fmt: skip
    assert clone.told == [None, *pressed[:-1]]
    assert person.drivers == ["clone"] * 3 + ["you"] * 6 + ["clone"] * 2
    corrections = player.corrections()
    assert corrections["intervention"].tolist() == [
        False, False, True, True, True, True, False, False, False, False, True,
    ]  # fmt: skip
    # Where the person did not drive, it is what was pressed.
    apart = ~corrections["intervention"]
    assert np.array_equal(corrections["policy_actions"][apart], np.array(pressed)[apart])
    assert (corrections["policy_actions"][corrections["intervention"]] == CLONE).all()


@pytest.fixture
def listeners(monkeypatch):
    """A made-up pynput; gives its listeners, which begin with a key that the person holds."""
    made = []

    class Listener:
        def __init__(self, on_press, on_release):
            self.press, self.let_go, self.runs = on_press, on_release, None
            made.append(self)

        def start(self):
            self.runs = True
            self.press(SimpleNamespace(char="d"), False)

        def stop(self):
            self.runs = False

    keyboard = types.ModuleType("pynput.keyboard")
    keyboard.Listener = Listener
    keyboard.Key = SimpleNamespace(__members__={"space": None, "shift": None})
    monkeypatch.setitem(sys.modules, "pynput", types.ModuleType("pynput"))
    monkeypatch.setitem(sys.modules, "pynput.keyboard", keyboard)
    return made


def test_the_hook_hears_the_persons_keys_and_no_injected_ones(listeners):
    keys = {"left": "a", "right": "d", "hit": "space"}
    a, big_a, space = (SimpleNamespace(char="a"), SimpleNamespace(char="A"),
                       SimpleNamespace(name="space"))  # fmt: skip
    shown = Shown(np.zeros(3, bool))
    with KeyboardHook(keys, ("left", "right", "hit")) as hook:
        (hears,) = listeners
        assert hears.runs
        assert hook.choose({}, shown).tolist() == [False, True, False]
        hears.let_go(SimpleNamespace(char="d"), False)
        hears.press(a, True)  # a policy's
        assert not hook.choose({}, shown).any()
        hears.press(space, False)
        hears.press(a, False)
        hears.let_go(big_a, False)  # shift went down in between
        hears.press(SimpleNamespace(), False)
        assert hook.choose({}, shown).tolist() == [True, False, True]
        hears.let_go(space, True)
        assert hook.choose({}, shown).tolist() == [False, False, True]
        hears.let_go(space, False)
        assert not hook.choose({}, shown).any()
        hears.press(space, False)  # tapped while the next fight is loading
        hears.let_go(space, False)
        hook.reset()
        assert not hook.choose({}, shown).any()
    assert not hears.runs


@pytest.mark.usefixtures("listeners")
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"left": "a", "right": "d"}, "no key for hit"),
        ({"left": "a", "right": "d", "hit": "A"}, "two buttons have the same key"),
        ({"left": "a", "right": "d", "hit": "spacebar"}, "no key is called spacebar"),
        ({"left": "a", "right": "d", "hit": "j", "hitt": "k"}, "there is no button hitt"),
    ],
)
def test_every_button_needs_a_key_that_there_is(keys, message):
    with pytest.raises(UserError, match=f"--keys: .*{message}"):
        KeyboardHook(keys, ("left", "right", "hit"))


def test_a_takeover_at_the_page_is_recorded(tmp_path):
    bundle = made_bundle(toy_env.ACTIONS, height=30, width=40)
    checkpoint = save_policy(tmp_path / "policy", bundle)
    out, port, seen = tmp_path / "corrections.zarr", free_port(), []

    def script(status):
        phase, tick = status["phase"], status.get("tick")
        if phase in ("ready", "over") and (not seen or seen[-1] != phase):
            seen.append(phase)
            return [{"ask": "start" if phase == "ready" else "finish"}]
        if phase == "playing" and "probabilities" in status:
            seen.append((tick, status["driver"], len(status["probabilities"])))
            return {3: [{"held": [1, 2]}], 6: [{"held": []}]}.get(tick, [])
        return []

    thread = follow_in_thread(f"http://127.0.0.1:{port}/", script)
    done = run(
        correct.main, "--checkpoint", checkpoint, "--env", "tests.support.toy_env:Toy-v0",
        "--out", out, "--fights", "1", "--port", port,
    )  # fmt: skip
    assert done.status == 0, done.err
    thread.join(timeout=10)
    assert f"take over at http://127.0.0.1:{port}/" in done.out
    assert "you drove at" in done.out
    (episode,) = Episodes(out).episodes
    drove = np.flatnonzero(episode.intervention)
    assert 1 <= len(drove) <= 6
    assert abs(drove[0] - 3) <= 1
    assert (episode.actions[drove] == [False, True, True]).all()
    assert np.array_equal(episode.judged, episode.intervention)
    frames = Episodes(out).read_frames(0, slice(None))
    # The game shows in its first pixel what was pressed the tick before.
    assert np.array_equal(frames[1:, 0, 0] > 128, episode.actions[:-1])
    drivers = {driver for _, driver, _ in (s for s in seen if isinstance(s, tuple))}
    assert drivers == {"you", "policy"}


@pytest.mark.usefixtures("listeners")
@pytest.mark.parametrize(("game", "says"), [("Live", "you drove at 100"), ("Toy", "use the page")])
def test_a_takeover_at_the_keyboard_needs_a_game_that_goes_on_by_itself(tmp_path, game, says):
    checkpoint = save_policy(tmp_path, made_bundle(toy_env.ACTIONS, height=30, width=40))
    done = run(
        correct.main, "--checkpoint", checkpoint, "--env", f"tests.support.toy_env:{game}-v0",
        "--out", tmp_path / "c.zarr", "--fights", "2",
        "--keys", "left", "a", "right", "d", "hit", "j",
    )  # fmt: skip
    assert says in done.out + done.err
    if game == "Live":
        for episode in Episodes(tmp_path / "c.zarr").episodes:
            assert episode.intervention.all()
            assert (episode.actions == [False, True, False]).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--share", "0.5"), "--share: only with --expert"),
        (("--workers", "2"), "--workers: only with --expert"),
        (("--expert", "--keys", "hit", "j"), "--keys: not with --expert"),
        (("--expert", "--video", "nowhere/a.mp4"), "--video: no folder nowhere"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(tmp_path, flags, message):
    done = run(correct.main, "--checkpoint", tmp_path, "--out", tmp_path / "c.zarr", *flags)
    assert done.status == 1
    assert message in done.err


def test_an_abandoned_fight_closes_its_environment():
    closed = []
    env = SimpleNamespace(close=lambda: closed.append(True))

    def abandon(_):
        raise FightAbandoned("the fight was abandoned")

    with KeptEnvironment(lambda: env) as kept:
        with pytest.raises(FightAbandoned):
            kept.attempt(abandon, "clone", 0)
        assert closed  # at once: a live game's keys may be down
