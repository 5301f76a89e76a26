"""What an observation lacks or holds besides numbers is named before anything is decided."""

import numpy as np
import pytest

from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.button_decoder import Decision
from ranni_player.observations import ObservationReader, ObservationSpec
from ranni_player.remote import pack_decision, pack_tick, unpack_decision, unpack_tick

SPEC = ObservationSpec((4, 6, 3), 2, ("HeroHp", "NpcHp"), True)
FRAME = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
GOOD = {"frame": FRAME, "HeroHp": 7, "NpcHp": 180032304}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HeroHp": np.nan}, "HeroHp is not a finite number"),
        ({"NpcHp": np.inf}, "NpcHp is not a finite number"),
        ({"frame": FRAME[:2]}, r"\(2, 6, 3\) uint8; this policy was trained on \(4, 6, 3\)"),
        ({"frame": FRAME.astype(float)}, "float64"),
    ],
)
def test_a_bad_observation_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        ObservationReader(SPEC).read({**GOOD, **change})
    with pytest.raises(UserError, match=message):
        pack_tick({**GOOD, **change}, SPEC)


@pytest.mark.parametrize(
    ("name", "message"), [("frame", "no 'frame'"), ("NpcHp", "gives no NpcHp")]
)
def test_what_is_missing_is_named(name, message):
    rest = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(UserError, match=message):
        ObservationReader(SPEC).read(rest)


def test_the_past_is_remembered():
    reader = ObservationReader(SPEC)
    first = reader.read(GOOD)
    assert first.past_actions is not None
    assert not first.past_actions.any()
    reader.remember(np.array([True, False]))
    second = reader.read({**GOOD, "HeroHp": 5})
    assert second.past_actions.tolist() == [[[True, False]]]
    assert second.state.tolist() == [[[5, 180032304, 0, 1, -2, 0]]]


def test_a_tick_and_a_decision_cross_the_wire_unchanged():
    there = unpack_tick(pack_tick(GOOD, SPEC), SPEC)
    assert np.array_equal(there["frame"], FRAME)
    assert (there["HeroHp"], there["NpcHp"]) == (7, 180032304)
    with pytest.raises(UserError, match="a tick of 3 bytes came, but this policy takes 88"):
        unpack_tick(b"abc", SPEC)
    decision = Decision(np.array([True, False]), np.array([0.25, 0.75], np.float32))
    back, milliseconds = unpack_decision(pack_decision(decision, 1.5), 2)
    assert milliseconds == 1.5
    assert np.array_equal(back.pressed, decision.pressed)
    assert np.array_equal(back.probabilities, decision.probabilities)
