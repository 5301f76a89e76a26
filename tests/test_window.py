"""Window arithmetic against a slow, obvious implementation."""

import numpy as np
import pytest

from BC_training.common import window as windows
from BC_training.common.types import WindowSpec


def slow_observed(tick, spec):
    rows, valid = [], []
    for k in range(spec.ticks):
        t = tick - (spec.ticks - 1 - k) * spec.stride
        rows.append(t if t > 0 else 0)
        valid.append(t >= 0)
    return rows, valid


@pytest.mark.parametrize("ticks", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 3])
def test_observed_ticks_clamp_at_the_start(ticks, stride):
    spec = WindowSpec(ticks=ticks, stride=stride)
    at = np.arange(20)
    indices, valid = windows.observed(at, spec)
    for row, tick in enumerate(at):
        expected, expected_valid = slow_observed(int(tick), spec)
        assert indices[row].tolist() == expected
        assert valid[row].tolist() == expected_valid
    assert spec.span == (at[-1] - indices[-1, 0]) + 1


@pytest.mark.parametrize("chunk", [1, 4])
def test_predicted_ticks_clamp_at_the_end(chunk):
    length = np.array([1, 3, 10, 10])
    at = np.array([0, 2, 4, 9])
    indices, valid = windows.predicted(at, length, WindowSpec(chunk=chunk))
    for row in range(4):
        for k in range(chunk):
            inside = at[row] + k < length[row]
            assert valid[row, k] == inside
            assert indices[row, k] == (at[row] + k if inside else length[row] - 1)


def test_epoch_order_is_a_permutation_that_seed_and_epoch_decide():
    first = windows.epoch_order(1, 0, 50)
    assert sorted(first) == list(range(50))
    assert np.array_equal(first, windows.epoch_order(1, 0, 50))
    assert not np.array_equal(first, windows.epoch_order(1, 1, 50))
    assert not np.array_equal(first, windows.epoch_order(2, 0, 50))
