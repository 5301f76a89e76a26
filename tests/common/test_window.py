"""Window arithmetic against a slow, obvious implementation."""

import numpy as np
import pytest

from BC_training.common import window as windows
from BC_training.common.order import EpochOrder, StreamPlan
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


LENGTHS = np.array([100, 64, 130, 7, 1])


@pytest.mark.parametrize(("block", "buffer"), [(1, 1), (16, 4), (16, 1), (64, 100)])
def test_an_epoch_is_a_permutation_however_it_is_asked_for(block, buffer):
    size = int(LENGTHS.sum())
    order = EpochOrder(LENGTHS, 3, StreamPlan(block, buffer))
    whole = order.samples(0, 0, size)
    assert sorted(whole) == list(range(size))
    pieces = [order.samples(0, at, min(at + 9, size)) for at in range(0, size, 9)]
    assert np.array_equal(np.concatenate(pieces), whole)
    again = EpochOrder(LENGTHS, 3, StreamPlan(block, buffer))
    assert np.array_equal(again.samples(1, 5, 50), order.samples(1, 5, 50))
    assert not np.array_equal(order.samples(1, 0, size), whole)


def test_blocks_stay_together_in_groups_that_are_announced_in_time():
    size, block, buffer = int(LENGTHS.sum()), 16, 4
    order = EpochOrder(LENGTHS, 3, StreamPlan(block, buffer))
    firsts = np.cumsum(LENGTHS) - LENGTHS
    blocks = {
        (int(first) + at, int(first) + min(at + block, int(length)))
        for first, length in zip(firsts, LENGTHS, strict=True)
        for at in range(0, length, block)
    }
    announced: set[tuple[int, int]] = set()
    for epoch in (0, 1):
        for at in range(0, size, 8):
            stop = min(at + 8, size)
            ahead = order.blocks_ahead(epoch, at, stop)
            assert set(ahead) <= blocks
            announced |= set(ahead)
            samples = order.samples(epoch, at, stop)
            now = {b for b in blocks for sample in samples if b[0] <= sample < b[1]}
            if epoch == 1:
                assert now <= announced
    # The smallest group holds a block of one tick, one of seven and two of sixteen.
    first = order.samples(0, 0, 40)
    assert len({b for b in blocks for sample in first if b[0] <= sample < b[1]}) <= buffer
