"""Metrics against scikit-learn, exhaustive search and cases worked out by hand."""

import json
import types
import warnings

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
)

from BC_training.common import metrics
from BC_training.common import onsets as onset_counts
from BC_training.common.metrics import baselines, calibrate, evaluate
from BC_training.common.onsets import OnsetMetrics

FPS = 20.0


def hard_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random columns, and: many ties, a constant score, no positives, all positives, no claims."""
    rng = np.random.default_rng(seed)
    actions = rng.random((300, 6)) < 0.3
    probabilities = np.clip(rng.normal(0.35 + 0.2 * actions, 0.2), 0, 1).astype(np.float32)
    probabilities[:, 1] = np.round(probabilities[:, 1] * 4) / 4
    probabilities[:, 2] = 0.5
    actions[:, 3] = False
    actions[:, 4] = True
    probabilities[:, 5] *= 0.4
    return probabilities, actions


def names(count: int) -> list[str]:
    return [f"action_{a}" for a in range(count)]


def score(probabilities, actions, episode=None, threshold=0.5, tolerance=2, fps=FPS):
    """`evaluate` with what most tests don't care about filled in."""
    episode = np.zeros(len(actions), int) if episode is None else np.asarray(episode)
    return attributes(
        evaluate(
            probabilities,
            actions,
            episode,
            names=names(actions.shape[1]),
            threshold=threshold,
            tolerance=tolerance,
            fps=fps,
        )
    )


def attributes(figures):
    """Figures as attributes, which read better; actions keep their names."""
    whole = types.SimpleNamespace(**figures)
    for name in ("onsets", "offsets"):
        if name in figures:
            setattr(whole, name, OnsetMetrics(**figures[name]))
    if "actions" in figures:
        whole.actions = {name: attributes(row) for name, row in figures["actions"].items()}
    return whole


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_action_threshold", [False, True])
def test_agrees_with_scikit_learn(seed, per_action_threshold):
    probabilities, actions = hard_case(seed)
    threshold = np.linspace(0.3, 0.6, 6) if per_action_threshold else 0.5
    found = score(probabilities, actions, threshold=threshold)
    predicted = probabilities >= threshold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.simplefilter("ignore", UserWarning)  # average precision without positives
        precision, recall, f1, support = precision_recall_fscore_support(
            actions, predicted, zero_division=np.nan
        )
        average_precision = average_precision_score(actions, probabilities, average=None)
        micro = f1_score(actions, predicted, average="micro")
    for a, action in enumerate(found.actions.values()):
        assert action.accuracy == pytest.approx(accuracy_score(actions[:, a], predicted[:, a]))
        assert action.support == support[a]
        assert action.true_frequency == pytest.approx(actions[:, a].mean())
        assert action.predicted_frequency == pytest.approx(predicted[:, a].mean())
        for ours, theirs in ((action.precision, precision), (action.recall, recall)):
            assert ours == (None if np.isnan(theirs[a]) else pytest.approx(theirs[a]))
        assert action.f1 == (None if np.isnan(f1[a]) else pytest.approx(f1[a]))
        if support[a]:
            assert action.average_precision == pytest.approx(average_precision[a])
        else:
            assert action.average_precision is None
    assert found.exact_match == pytest.approx(accuracy_score(actions, predicted))
    assert found.macro_f1 == pytest.approx(f1[support > 0].mean())
    assert found.micro_f1 == pytest.approx(micro)


def test_frequency_distances():
    actions = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    predicted = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    found = score(predicted, actions)
    assert found.frequency_l1 == pytest.approx(0.5 + 0.25)
    assert found.frequency_l2 == pytest.approx(np.hypot(0.5, 0.25))

    def kl(p, q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    assert found.frequency_kl == pytest.approx(kl(0.75, 0.25) + kl(0.25, 0.5))


def test_frequency_distance_is_finite_where_an_action_is_never_or_always_predicted():
    actions = np.array([[1, 0], [0, 1]], bool)
    found = score(np.array([[0, 1], [0, 1]], np.float32), actions)
    assert 10 < found.frequency_kl < 30


def onsets(true, predicted, episode=None, tolerance=2):
    """Onset and offset figures of one action, given as one digit a tick."""
    pressed = np.array([[c == "1"] for c in true])
    guess = np.array([[c == "1"] for c in predicted], np.float32)
    found = score(guess, pressed, episode, tolerance=tolerance)
    action = found.actions["action_0"]
    assert (found.onsets, found.offsets) == (action.onsets, action.offsets)
    return action.onsets, action.offsets


def test_onset_timing_and_sign():
    onsets_, offsets = onsets("0011100000", "0001111000")
    # At 20 ticks a second one tick is 50 ms; onsets are one late, offsets two.
    assert onsets_ == OnsetMetrics(1, 1, 1, 1.0, 1.0, 1.0, 50.0, 50.0)
    assert offsets == OnsetMetrics(1, 1, 1, 1.0, 1.0, 1.0, 100.0, 100.0)
    early, _ = onsets("0001111000", "0011100000")
    assert (early.mean_error_ms, early.mean_absolute_error_ms) == (-50.0, 50.0)


def test_onset_outside_the_tolerance_is_a_miss_and_a_false_alarm():
    inside, _ = onsets("0100000", "0001000", tolerance=2)
    assert inside.matched == 1
    outside, _ = onsets("0100000", "0000100", tolerance=2)
    assert outside == OnsetMetrics(1, 1, 0, 0.0, 0.0, 0.0, None, None)


def test_onsets_match_one_to_one():
    onsets_, _ = onsets("0001000000", "0101010000")
    assert (onsets_.true, onsets_.predicted, onsets_.matched) == (1, 3, 1)
    assert onsets_.precision == pytest.approx(1 / 3)
    assert onsets_.mean_absolute_error_ms == 0.0


def test_most_pairs_beat_the_nearest_pair():
    # True onsets at 2 and 4, predicted at 0 and 2: pairing the two at 2 would lose the other pair.
    onsets_, _ = onsets("001010", "101000")
    assert (onsets_.matched, onsets_.mean_error_ms) == (2, -100.0)


def test_equally_good_matchings_count_as_late():
    onsets_, _ = onsets("00100", "01010")
    assert (onsets_.matched, onsets_.mean_error_ms, onsets_.mean_absolute_error_ms) == (1, 50, 50)


def test_episode_edges():
    # Held across the border: pressed anew in the second episode, never released.
    onsets_, offsets = onsets("0111", "0111", episode=[3, 3, 5, 5])
    assert (onsets_.true, onsets_.matched, offsets.true) == (2, 2, 0)
    # Onsets of neighbouring episodes are one tick apart, yet never match.
    onsets_, _ = onsets("0001000", "0000100", episode=[0, 0, 0, 0, 1, 1, 1], tolerance=3)
    assert (onsets_.true, onsets_.predicted, onsets_.matched) == (1, 1, 0)


def test_nothing_pressed_and_nothing_predicted_is_undefined():
    onsets_, offsets = onsets("0000", "0000")
    assert onsets_ == offsets == OnsetMetrics(0, 0, 0, None, None, None, None, None)


@pytest.mark.parametrize("tolerance", [0, 1, 3, 8])
def test_matching_is_optimal(tolerance):
    rng = np.random.default_rng(tolerance)
    far = 10_000  # one pair less costs more than any timing
    for _ in range(200):
        true, predicted = (
            np.flatnonzero(rng.random(40) < rng.choice([0.05, 0.3, 0.6])) for _ in range(2)
        )
        error = predicted[None, :] - true[:, None]
        cost = np.where(np.abs(error) <= tolerance, np.abs(error), far)
        rows, columns = linear_sum_assignment(cost)
        chosen = cost[rows, columns]
        pairs, absolute = (chosen < far).sum(), chosen[chosen < far].sum()
        count_true, count_predicted, found, signed, total = onset_counts._match(
            true, predicted, tolerance
        )
        assert (count_true, count_predicted) == (len(true), len(predicted))
        assert (found, total) == (pairs, absolute)
        assert abs(signed) <= total
        assert (total - signed) % 2 == 0


def test_micro_onsets_pool_actions():
    actions = np.zeros((10, 2), bool)
    actions[2, 0] = actions[5, 1] = actions[8, 1] = True
    predicted = np.zeros((10, 2), np.float32)
    predicted[3, 0] = predicted[3, 1] = 1  # one late, two early
    found = score(predicted, actions)
    assert (found.onsets.true, found.onsets.predicted, found.onsets.matched) == (3, 2, 2)
    assert found.onsets.mean_error_ms == pytest.approx(-25)
    assert found.onsets.mean_absolute_error_ms == pytest.approx(75)
    assert found.onsets.recall == pytest.approx(2 / 3)


def test_without_fps_only_times_are_unknown():
    pressed = np.array([[0], [1]], bool)
    onsets_ = score(pressed.astype(np.float32), pressed, fps=None).onsets
    assert onsets_ == OnsetMetrics(1, 1, 1, 1.0, 1.0, 1.0, None, None)


def test_baselines():
    actions = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 1]], bool)
    episode = np.array([0, 0, 0, 1, 1])
    found = baselines(np.array([0.9, 0.5]), actions, episode, names=names(2), tolerance=0, fps=FPS)
    assert list(found) == ["nothing pressed", "majority", "repeat the previous action"]
    nothing, majority, repeat = map(attributes, found.values())
    assert (nothing.exact_match, nothing.macro_f1) == (0.0, 0.0)
    assert nothing.actions["action_0"].precision is None
    # More than half: an action at exactly one half is not pressed.
    assert majority.exact_match == pytest.approx(3 / 5)
    assert majority.actions["action_1"].predicted_frequency == 0
    # Right only in row 1: the first rows follow nothing, also in the second episode.
    assert repeat.exact_match == pytest.approx(1 / 5)
    assert repeat.actions["action_0"].recall == pytest.approx(2 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_matches_the_frequency_as_nearly_as_ties_allow(seed):
    probabilities, actions = hard_case(seed)
    thresholds = calibrate(probabilities, actions)
    assert np.isfinite(thresholds).all()
    for a, threshold in enumerate(thresholds):
        if not actions[:, a].any():
            assert threshold == metrics.NEUTRAL_THRESHOLD
            continue
        counts = [
            int((probabilities[:, a] >= candidate).sum())
            for candidate in np.unique(probabilities[:, a])
        ]
        true, pressed = int(actions[:, a].sum()), int((probabilities[:, a] >= threshold).sum())
        assert abs(pressed - true) == min(abs(count - true) for count in counts)


def test_calibration_of_a_rare_button_does_not_hold_it_down():
    rng = np.random.default_rng(0)
    actions = np.zeros((5000, 1), bool)
    actions[:10] = True
    probabilities = rng.beta(1, 60, size=(5000, 1))
    probabilities[:3] += 0.5
    pressed = probabilities >= calibrate(probabilities, actions)
    assert pressed.sum() == 10


def test_calibration_lies_between_the_scores():
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.6]])
    actions = np.array([[1, 1], [0, 1], [0, 1]], bool)
    np.testing.assert_allclose(calibrate(probabilities, actions), [0.6, 0.1])


def test_calibration_between_neighbouring_floats():
    low = 0.3
    high = np.nextafter(low, 1.0)
    probabilities = np.array([[low], [high]])
    actions = np.array([[False], [True]])
    pressed = probabilities >= calibrate(probabilities, actions)
    np.testing.assert_array_equal(pressed, actions)


def test_converts_to_strict_json():
    probabilities, actions = hard_case(0)
    episode = np.zeros(len(actions), int)
    found = evaluate(
        probabilities, actions, episode, names=names(6), threshold=0.5, tolerance=2, fps=FPS
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["actions"]["action_3"]["recall"] is None
    assert found["onsets"]["true"] > 0


def test_refuses_what_it_cannot_score():
    probabilities, actions = hard_case(0)
    with pytest.raises(ValueError, match="no rows"):
        score(probabilities[:0], actions[:0])
    with pytest.raises(ValueError, match="no rows"):
        baselines(np.zeros(6), actions[:0], np.zeros(0, int), names=names(6), tolerance=1, fps=FPS)
    with pytest.raises(ValueError, match="no rows"):
        calibrate(probabilities[:0], actions[:0])
    broken = probabilities.copy()
    broken[7, 2] = np.nan
    with pytest.raises(ValueError, match="row 7, action 2 is not finite"):
        score(broken, actions)
    with pytest.raises(ValueError, match="tolerance -1"):
        score(probabilities, actions, tolerance=-1)


def test_the_table_of_metrics_holds_every_figure_of_a_whole_policy():
    probabilities, actions = hard_case(0)
    episode = np.zeros(len(actions), int)
    found = evaluate(
        probabilities, actions, episode,
        names=names(6), threshold=0.5, tolerance=2, fps=FPS, loss=0.25,
    )  # fmt: skip
    values = {metric.key: metric.read(found) for metric in metrics.METRICS}
    assert None not in values.values()
    assert values["loss"] == 0.25
    assert values["onset_f1"] == found["onsets"]["f1"]
    assert found.keys() - values.keys() == {"rows", "onsets", "offsets", "actions"}
    assert len({metric.title for metric in metrics.METRICS}) == len(metrics.METRICS)
