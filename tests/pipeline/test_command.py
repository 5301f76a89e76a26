"""How commands end."""

import signal

import pytest

from tests.support.commands import start


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["BC_training.rollout", "gameplay_pipeline.record"])
def test_a_signal_ends_a_command_that_still_imports(module, end):
    process = start(("-X", "importtime", "-m", module, "--help"))
    # Python tells of each module that it has imported; numpy is early, and much comes after it.
    line = ""
    while not line.rstrip().endswith(" numpy"):
        line = process.stderr.readline()
        assert line, "numpy was not imported"
    process.send_signal(end)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_what_the_caller_ignores_stays_ignored():
    script = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from gameplay_pipeline.plumbing import command\n"
        "sys.exit(command.run(lambda: os.kill(os.getpid(), signal.SIGHUP)))"
    )
    process = start(("-c", script))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
