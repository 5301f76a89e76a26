"""The loss against scikit-learn and by hand; class weights at their bounds."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from BC_training.networks import losses
from BC_training.networks.losses import Objective

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 2, 3)).astype(np.float32)
ACTIONS = RNG.random((6, 2, 3)) < 0.4
EVERYTHING = np.ones((6, 2), bool)
EVERY_ROW = np.ones(6, np.float32)
ONES = np.ones(3, np.float32)


PREVIOUS = RNG.random((6, 3)) < 0.4


def bce(valid=EVERYTHING, weight=EVERY_ROW, weights=ONES, logits=LOGITS, **objective):
    arrays = (jnp.asarray(x) for x in (logits, ACTIONS, valid, PREVIOUS, weight))
    return float(losses.actions_loss(*arrays, Objective(jnp.asarray(weights), **objective)))


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


def test_class_weights_scale_their_actions():
    weights = np.array([2, 3, 4], np.float32)
    per_target = np.broadcast_to(weights, ACTIONS.shape).ravel()
    expected = oracle(slice(None), per_target) * per_target.sum() / per_target.size
    assert bce(weights=weights) == pytest.approx(expected, rel=1e-5)


def test_smoothing_moves_the_best_logit_inwards():
    certain = np.where(ACTIONS, 20.0, -20.0).astype(np.float32)
    assert bce(logits=certain, label_smoothing=0.1) == pytest.approx(1.0, rel=1e-3)


def test_focal_loss_by_hand():
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    true = np.where(ACTIONS, p, 1 - p)
    expected = -((1 - true) ** 2.5 * np.log(true)).mean()
    assert bce(focal_gamma=2.5) == pytest.approx(expected, rel=1e-5)


def test_ticks_at_which_a_button_changes_count_more():
    changes = np.zeros((6, 2), bool)
    for row in range(6):
        changes[row, 0] = (ACTIONS[row, 0] != PREVIOUS[row]).any()
        changes[row, 1] = (ACTIONS[row, 1] != ACTIONS[row, 0]).any()
    assert changes.any()
    assert not changes.all()
    terms = np.logaddexp(0, np.where(ACTIONS, -LOGITS, LOGITS).astype(np.float64))
    expected = (terms * (1 + 3 * changes[..., None])).mean()
    assert bce(onset_weight=3.0) == pytest.approx(expected, rel=1e-5)


def test_the_auxiliary_loss_is_the_log_loss_of_known_classes():
    logits = RNG.normal(size=(5, 4)).astype(np.float32)
    target, weight = np.array([0, 3, 1, 2, 1]), np.array([1, 1, 1, 1, 0], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log([p[1, 3], p[2, 1], p[3, 2]]).mean()
    found = losses.auxiliary_loss(*map(jnp.asarray, (logits, target, weight)))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(losses.auxiliary_loss(*map(jnp.asarray, (logits, 0 * target, weight)))) == 0


def frequencies(*shares):
    return np.stack([np.arange(1000) < 1000 * share for share in shares], axis=1)


def test_class_weights_are_the_inverse_frequencies_and_keep_the_mean():
    weights = losses.class_weights(frequencies(0.5, 0.1, 0.05))
    assert weights.mean() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(5)
    assert weights[2] / weights[0] == pytest.approx(10)


@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.0001), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_no_class_weight_is_infinite_or_zero(shares):
    weights = losses.class_weights(frequencies(*shares))
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    assert weights.max() / weights.min() <= losses.MAX_WEIGHT + 1e-3
