"""Worker processes."""

import signal
import time

import pytest

from gameplay_pipeline.plumbing import workers


def deaf(_):
    """Work that no signal ends, as in a library that compiles."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(600)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_who_ends_work_is_told_what_is_awaited_and_not_for_long(monkeypatch, capfd):
    monkeypatch.setattr(workers, "SAID_AFTER_S", 0.1)
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    working = workers.in_processes(deaf, [1, 2, 3], 2)
    signal.setitimer(signal.ITIMER_REAL, 3)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        next(working)
    signal.signal(signal.SIGALRM, before)
    assert "waiting up to 0.5 s for 2 worker processes to end" in capfd.readouterr().err
