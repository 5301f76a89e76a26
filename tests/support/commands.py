"""Runs the public commands as a person does, in this process or in one of their own."""

import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from BC_training import __main__
from gameplay_pipeline.plumbing import command

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "freedoom_human_sample.zarr.zip"
SMALL = (
    *("--model.conv_stem", "2", "--model.conv_features", "[8, 16]", "--model.conv_depth", "0"),
    *("--model.dense_features", "[16]", "--training.batch_size", "16"),
)


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def run(main, *arguments):
    """A command in this process, up to its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            sys.exit(command.run(main))
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def arguments_of(data, folder, *more):
    """What has the main job train a tiny pure_cnn."""
    return (
        *("--config", "configs/pure_cnn.yaml", *SMALL),
        *("--dataset.path", str(data), "--training.checkpoint_dir", str(folder), *more),
    )


def train(data, folder, *more):
    """A tiny training, in this process."""
    return run(__main__.main, *arguments_of(data, folder, *more))


def start(arguments, cwd=ROOT, **environment):
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def last(folder):
    """The folder of a run's newest checkpoint."""
    steps = sorted(int(f.name) for f in Path(folder).iterdir() if f.name.isdigit())
    return Path(folder) / str(steps[-1])


def records(folder):
    """What a run wrote into its metrics.jsonl."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def is_alive(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
