"""The loss against scikit-learn and by hand; class weights at their bounds."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from BC_training.common import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 2, 3)).astype(np.float32)
ACTIONS = RNG.random((6, 2, 3)) < 0.4
EVERYTHING = np.ones((6, 2), bool)
EVERY_ROW = np.ones(6, np.float32)
ONES = np.ones(3, np.float32)


def bce(valid=EVERYTHING, weight=EVERY_ROW, weights=(ONES, ONES), smoothing=0.0):
    arrays = (jnp.asarray(x) for x in (LOGITS, ACTIONS, valid, weight))
    return float(losses.bce(*arrays, tuple(map(jnp.asarray, weights)), smoothing))


def oracle(rows, sample_weight=None):
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))[rows]
    return log_loss(ACTIONS[rows].ravel(), probabilities.ravel(), sample_weight=sample_weight)


def test_unweighted_it_is_the_log_loss():
    assert bce() == pytest.approx(oracle(slice(None)), rel=1e-5)


def test_invalid_ticks_and_weightless_rows_do_not_count():
    valid = EVERYTHING.copy()
    valid[:, 1] = False
    weight = np.array([1, 1, 0, 0, 0, 0], np.float32)
    rows = (slice(0, 2), slice(0, 1))
    assert bce(valid, weight) == pytest.approx(oracle(rows), rel=1e-5)
    assert bce(np.zeros_like(valid)) == 0


def test_class_weights_scale_their_targets():
    pressed = np.array([2, 3, 4], np.float32)
    per_target = np.where(ACTIONS, pressed, 1.0).ravel()
    expected = oracle(slice(None), per_target) * per_target.sum() / per_target.size
    assert bce(weights=(pressed, ONES)) == pytest.approx(expected, rel=1e-5)


def test_smoothing_moves_the_best_logit_inwards():
    certain = np.where(ACTIONS, 20.0, -20.0).astype(np.float32)
    arrays = (jnp.asarray(x) for x in (certain, ACTIONS, EVERYTHING, EVERY_ROW))
    assert float(losses.bce(*arrays, (jnp.ones(3), jnp.ones(3)), 0.1)) == pytest.approx(
        1.0, rel=1e-3
    )


def frequencies(*shares):
    return np.stack([np.arange(1000) < 1000 * share for share in shares], axis=1)


def test_inverse_frequency_weighs_rare_actions_and_keeps_the_mean():
    pressed, released = losses.class_weights(frequencies(0.5, 0.1, 0.05), "inverse_frequency")
    assert np.array_equal(pressed, released)
    assert pressed.mean() == pytest.approx(1)
    assert pressed[1] / pressed[0] == pytest.approx(5)
    assert pressed[2] / pressed[0] == pytest.approx(10)


def test_positive_weighs_presses_only():
    pressed, released = losses.class_weights(frequencies(0.5, 0.1), "positive")
    assert pressed == pytest.approx([1, 9])
    assert released == pytest.approx([1, 1])


@pytest.mark.parametrize("kind", ["inverse_frequency", "positive", None])
@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.0001), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_no_weight_is_infinite_or_zero(kind, shares):
    for weights in losses.class_weights(frequencies(*shares), kind):
        assert np.isfinite(weights).all()
        assert (weights > 0).all()
        assert weights.max() / weights.min() <= losses.MAX_WEIGHT**2 + 1


def test_without_a_kind_all_weights_are_one():
    for weights in losses.class_weights(frequencies(0.5, 0.1), None):
        assert (weights == 1).all()
