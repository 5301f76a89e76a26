"""A signal ends a run once a checkpoint is there, unless it is ignored."""

import signal

import pytest

from BC_training.training.hosts import ALONE
from BC_training.training.interruption import Interruption


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_hang_up_that_is_ignored_does_not_end_a_run(is_ignored):
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL
    )  # as nohup has it
    try:
        with Interruption(ALONE) as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.must_stop() is not is_ignored
    finally:
        signal.signal(signal.SIGHUP, before)
