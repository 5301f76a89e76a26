"""Decision rules by hand, and the share of presses that sampling must come to."""

import jax.numpy as jnp
import numpy as np
import pytest

from BC_training.common.config import PlayConfig
from BC_training.play.button_decoder import Decision
from BC_training.play.policy import _now

THRESHOLDS = np.array([0.5, 0.2])


def decide(probabilities, seed=0, **play):
    """Of the first button at each tick; the second is never likely."""
    decision = Decision(PlayConfig(**play), THRESHOLDS, seed)
    return [bool(decision(np.array([p, 0.0]))[0]) for p in probabilities]


def pattern(pressed):
    return "".join("X" if each else "." for each in pressed)


@pytest.mark.parametrize(
    ("play", "probabilities", "expected"),
    [
        ({}, (0.4, 0.5, 0.6, 0.49, 0.5), ".XX.X"),
        ({"hysteresis": 0.2}, (0.45, 0.5, 0.45, 0.4, 0.39, 0.45), ".XXX.."),
        ({"min_hold": 3}, (0.9, 0.0, 0.0, 0.0, 0.9), "XXX.X"),
        ({"min_hold": 2, "min_release": 3}, (0.9, 0.0, 0.0, 0.9, 0.9, 0.9), "XX...X"),
        ({"min_release": 3}, (0.9, 0.9, 0.0, 0.0, 0.0), "XX..."),
    ],
)
def test_a_rule_by_hand(play, probabilities, expected):
    assert pattern(decide(probabilities, **play)) == expected


def test_each_action_has_its_own_threshold_and_its_own_clock():
    decision = Decision(PlayConfig(min_hold=2), THRESHOLDS, 0)
    seen = [
        decision(np.array(p)).tolist() for p in ((0.4, 0.3), (0.6, 0.0), (0.0, 0.0), (0.0, 0.0))
    ]
    assert seen == [[False, True], [True, True], [True, False], [False, False]]


def test_sampling_presses_as_often_as_is_probable_and_temperature_sharpens_it():
    ticks = np.full(4000, 0.3)
    assert np.mean(decide(ticks, rule="sample")) == pytest.approx(0.3, abs=0.03)
    odds = (0.3 / 0.7) ** 2
    cold = np.mean(decide(ticks, rule="sample", temperature=0.5))
    assert cold == pytest.approx(odds / (1 + odds), abs=0.03)
    assert decide(ticks, rule="sample") == decide(ticks, rule="sample")
    assert decide(ticks, rule="sample") != decide(ticks, rule="sample", seed=1)
    assert decide((0.0, 1.0, 0.0, 1.0), rule="sample") == [False, True, False, True]


def test_plans_for_the_same_tick_are_averaged_by_age():
    plans = np.zeros((3, 3, 2), np.float32)
    plans[0, 0], plans[1, 1], plans[2, 2] = (1.0, 0.2), (0.5, 0.4), (0.0, 0.9)
    plans[0, 1] = plans[1, 0] = plans[2, 0] = 77  # of other ticks
    newest = _now(jnp.asarray(plans), jnp.array(9), np.inf)
    assert np.allclose(newest, (1.0, 0.2))
    weights = np.exp([0.0, -0.5, -1.0])
    expected = (weights[:, None] * plans[[0, 1, 2], [0, 1, 2]]).sum(axis=0) / weights.sum()
    assert np.allclose(_now(jnp.asarray(plans), jnp.array(9), 0.5), expected)
    young = (weights[:2, None] * plans[[0, 1], [0, 1]]).sum(axis=0) / weights[:2].sum()
    assert np.allclose(_now(jnp.asarray(plans), jnp.array(1), 0.5), young)
