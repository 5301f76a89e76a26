"""Decision rules by hand, and the share of presses that sampling must come to."""

import jax.numpy as jnp
import numpy as np
import pytest

from BC_training.play.tick import combine_plans
from ranni_player.button_decoder import ButtonDecoder

THRESHOLDS = np.array([0.5, 0.2])


def sampled(ticks, seed=0):
    decode = ButtonDecoder("sample", THRESHOLDS, seed)
    return np.array([decode(np.array([probability, 0.0]))[0] for probability in ticks])


def test_each_action_is_pressed_from_its_own_threshold():
    decode = ButtonDecoder("threshold", THRESHOLDS, 0)
    ticks = ((0.4, 0.3), (0.5, 0.2), (0.6, 0.19), (0.49, 0.0))
    pressed = [decode(np.array(tick)).tolist() for tick in ticks]
    assert pressed == [[False, True], [True, True], [True, False], [False, False]]


def test_sampling_presses_as_often_as_is_probable():
    ticks = np.full(4000, 0.3)
    assert np.mean(sampled(ticks)) == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(sampled(ticks), sampled(ticks))
    assert not np.array_equal(sampled(ticks), sampled(ticks, seed=1))
    assert sampled((0.0, 1.0, 0.0, 1.0)).tolist() == [False, True, False, True]


def test_plans_for_the_same_tick_are_averaged_by_age():
    plans = np.zeros((3, 3, 2), np.float32)
    plans[0, 0], plans[1, 1], plans[2, 2] = (1.0, 0.2), (0.5, 0.4), (0.0, 0.9)
    plans[0, 1] = plans[1, 0] = plans[2, 0] = 77  # of other ticks
    newest = combine_plans(jnp.asarray(plans), jnp.array(9), np.inf)
    assert np.allclose(newest, (1.0, 0.2))
    weights = np.exp([0.0, -0.5, -1.0])
    expected = (weights[:, None] * plans[[0, 1, 2], [0, 1, 2]]).sum(axis=0) / weights.sum()
    assert np.allclose(combine_plans(jnp.asarray(plans), jnp.array(9), 0.5), expected)
    young = (weights[:2, None] * plans[[0, 1], [0, 1]]).sum(axis=0) / weights[:2].sum()
    assert np.allclose(combine_plans(jnp.asarray(plans), jnp.array(1), 0.5), young)
