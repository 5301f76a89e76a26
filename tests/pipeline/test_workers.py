"""Worker processes, and how they end."""

import functools
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

from gameplay_pipeline.plumbing import workers
from tests.support.commands import is_alive


def start_game(folder: Path, deaf: bool) -> None:
    """Starts a process and leaves its number; a deaf worker then waits, whoever asks it to end."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        number = folder / "number"
        number.with_suffix(".new").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
        number.with_suffix(".new").rename(number)
        time.sleep(600)


def test_a_worker_that_does_not_end_is_named_and_killed_with_what_it_started(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(workers, "SAID_AFTER_S", 0.1)
    monkeypatch.setattr(workers, "PATIENCE_S", 0.3)
    start = functools.partial(start_game, tmp_path)
    results = workers.in_worker_processes(functools.partial(nullcontext, start), [False, True], 2)
    next(results)
    number = tmp_path / "number"
    while not number.exists():
        time.sleep(0.02)
    assert is_alive(int(number.read_text()))
    results.close()
    deadline = time.monotonic() + 5  # a killed process is there until its new parent reaps it
    while is_alive(int(number.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(int(number.read_text()))
    assert "waiting up to 0.3 s for 1 worker processes to end" in capfd.readouterr().err
