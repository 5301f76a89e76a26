"""Kills runs (SIGKILL) at their worst moments and resumes them: the end must be, bit for bit, that
of a run that nobody killed. Needs a system that can fork.

    uv run python benchmarks/kill_loop.py [--kills 100] [--flags training.accumulation=2]

Where it kills: while a checkpoint is written or deleted, the configuration written, a policy has
fights, frames are decoded into the cache; and at any time. Prints the figures; exits with 1 where a
run can't be resumed or differs.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import tyro

from BC_training import train
from BC_training.play import fights
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.record import RecordConfig, record

EPOCHS = 40

ENV = "Short-v0"
"""The simulated fight, for two seconds of it."""

gymnasium.register(ENV, "boss_arena.env:BossArena", max_episode_steps=40)


MOMENTS = {
    "writing": ("run/*.orbax-checkpoint-tmp*", 0.05),
    "deletion": ("run/deleted/*", 0.002),
    "config": ("run/writer.json", 0.02),
    "fights": ("run/fights/player*", 0.5),
    "cache": ("cache/*/doing.jsonl", 0.1),
    "any": ("run/config.yaml", 4.0),
}
"""Files that show, once they are new, that a moment is near, and the seconds within which it is."""


def _files(folder: Path, pattern: str) -> set[tuple[str, int]]:
    """Names and numbers of files: one that is there again is another one."""
    with contextlib.suppress(OSError):  # gone in between
        return {(file.name, file.stat().st_ino) for file in folder.glob(pattern)}
    return set()


def _command(folder: Path, name: str, flags: tuple[str, ...]) -> list[str]:
    values = {
        "dataset.path": folder / "d.zarr", "dataset.cache_dir": folder / "cache",
        "dataset.residency": "cache", "training.checkpoint_dir": folder / name,
        "training.num_epochs": EPOCHS, "training.save_every_n_epochs": 1,
        "training.keep_last_n_checkpoints": 1, "model.conv_features": "[4, 8]",
        "model.conv_depth": 0, "model.dense_features": "[8]", "environment.id": ENV,
        "evaluation.rollout_episodes": 1, "evaluation.rollout_every_n_epochs": 4,
        "evaluation.eval_every_n_epochs": 4, "system.num_workers": 1,
        **dict(flag.split("=", 1) for flag in flags),
    }  # fmt: skip
    arguments = [str(part) for key, value in values.items() for part in (f"--{key}", value)]
    return ["train", "--config", "configs/pure_cnn.yaml", "--resume", *arguments]


def _forked(work: Callable[[], int], said: Path) -> int:
    """Does work in a process of its own, which forking spares the imports: this one has started no
    threads, nor has JAX begun in it."""
    process = os.fork()
    if process:
        return process
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(command.run(work))


def _train(arguments: list[str]) -> int:
    keep_fights = fights.keep_fights
    # In this process: the files are the same, and no other has to import everything first.
    fights.keep_fights = lambda tasks, setup, workers, file: keep_fights(tasks, setup, 0, file)
    sys.argv = arguments
    return train.main()


def _record(path: Path) -> int:
    record(RecordConfig(out=path, env=ENV, episodes=6, resolution="64x36", workers=1))
    return 0


def _must_end(process: int, said: Path) -> None:
    if os.waitpid(process, 0)[1]:
        raise SystemExit(said.read_text())


def _kill(
    train: Callable[[], int], folder: Path, moment: str | None, rng: random.Random
) -> int | None:
    """Starts a run, waits for the moment and kills; the exit status where the run ended before, or
    was let end."""
    pattern, within = MOMENTS.get(str(moment), ("nothing", 0.0))
    before = _files(folder, pattern)
    process = _forked(train, folder / "said")
    while not _files(folder, pattern) - before:
        if (ended := os.waitpid(process, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, within))
    os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return None if status == -signal.SIGKILL else status


def result(run: Path) -> dict[str, Any]:
    """All that a run leaves but what the clock decides; arrays' SHA-256 are in its bundles."""
    bundles = {
        folder.name: json.loads((folder / "bundle" / "metadata").read_text())
        for folder in sorted(run.iterdir())
        if folder.name.isdigit()
    }
    for bundle in bundles.values():
        del bundle["config"]["training"]["checkpoint_dir"], bundle["sha256"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "data/")
    return {
        "checkpoints": bundles,
        "metrics": [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows],
        "fights": sorted(file.name for file in (run / "fights").iterdir()),
    }


def main(kills: int = 100, flags: tuple[str, ...] = (), seed: int = 1) -> int:
    """Kills a run at its worst moments, resumes it each time, and compares.

    Args:
        kills: number of kills.
        flags: settings of the run besides, such as training.ema_decay=0.99.
        seed: seed of the moments.
    """
    rng, done, results = random.Random(seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        folder, said = Path(work), Path(work) / "said"
        _must_end(_forked(lambda: _record(folder / "d.zarr"), said), said)
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        training = functools.partial(_train, _command(folder, "whole", flags))
        _must_end(_forked(training, said), said)
        whole = result(folder / "whole")
        training = functools.partial(_train, _command(folder, "run", flags))
        while done.total() < kills or (folder / "run").exists():
            # After the last kill the run may come to its end, and is compared too.
            moment = rng.choice([*MOMENTS]) if done.total() < kills else None
            if moment == "cache":
                shutil.rmtree(folder / "cache", ignore_errors=True)
            status = _kill(training, folder, moment, rng)
            if status is None:
                done[str(moment)] += 1
                print(f"{done.total()}: {moment}", flush=True)
                continue
            if status:
                results["unresumable"] += 1
                print(f"status {status}: {said.read_text()[-2000:]}", flush=True)
            else:
                results["same" if result(folder / "run") == whole else "differing"] += 1
            shutil.rmtree(folder / "run")
    print(f"{done.total()} kills {dict(done)}; runs that ended: {dict(results)}")
    return 0 if {*results} == {"same"} else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
