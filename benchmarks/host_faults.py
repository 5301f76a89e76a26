"""Ends one of two hosts, by SIGTERM and by SIGKILL, at random and at the worst moments: the other
must end too, soon and with a message that names it, and the run must go on to the same end.

    uv run python -m benchmarks.host_faults [--faults 40]

The hosts are processes on this machine's CPU. Prints a line for each fault, and a table; writes
benchmarks/results/host_faults.json. Exits with 1 where a run hung, named nobody, could not be
resumed or came to another end.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from BC_training.common import console
from benchmarks import shared
from benchmarks.kill_loop import result
from benchmarks.virtual_hosts import ROOT, VirtualHosts, as_flags, free_port, start

EPOCHS = 10

ENVIRONMENT = "boss_arena:BossArena-v0"

SHORT = {"max_episode_steps": 40}
"""What makes a fight of two seconds."""

HANG_S = 60.0
"""Seconds after which a host that runs on hangs."""

MOMENTS = {
    "start": (None, 10.0),
    "training": ("run/metrics.jsonl", 2.0),
    "evaluation": ("run/metrics.jsonl", 0.1),
    "checkpoint": ("run/*.orbax-checkpoint-tmp*", 0.1),
    "fights": ("run/fights/player*", 5.0),
}
"""Files whose change shows that a moment has come, and the seconds within which it is."""


def _flags(folder: Path, name: str) -> dict[str, Any]:
    return {
        "dataset.path": folder / "d.zarr", "dataset.cache_dir": folder / "cache",
        "dataset.residency": "cache", "dataset.val_ratio": 0.3, "dataset.train_ratio": 0.7,
        "training.checkpoint_dir": folder / name, "training.num_epochs": EPOCHS,
        "training.save_every_n_epochs": 1, "training.keep_last_n_checkpoints": 1,
        "model.conv_features": "[4, 8]", "model.conv_depth": 0, "model.dense_features": "[8]",
        "environment.id": ENVIRONMENT, "environment.arguments": json.dumps(SHORT),
        "evaluation.rollout_episodes": 2, "evaluation.rollout_every_n_epochs": 5,
        "evaluation.eval_every_n_epochs": 1, "logging.log_every_n_steps": 1,
        "training.batch_size": 16,
    }  # fmt: skip


def record(folder: Path, episodes: int) -> None:
    """Records short fights at 64x36 as `d.zarr`."""
    flags = {
        "out": folder / "d.zarr", "env": ENVIRONMENT, "episodes": episodes, "resolution": "64x36",
        "workers": 1, "adapter": json.dumps({"arguments": SHORT}),
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "gameplay_pipeline.record", *as_flags(flags)], check=True, cwd=ROOT
    )


def _mark(folder: Path, moment: str) -> Any:
    """What is another one as soon as the moment has come."""
    pattern = MOMENTS[moment][0]
    if pattern is None:
        return None
    with contextlib.suppress(OSError):  # gone in between
        if moment == "training":
            return sorted((file.name, file.stat().st_size) for file in folder.glob(pattern))
        if moment == "evaluation":  # its epoch's costs are written just before
            return sum(file.read_text().count('"epoch"') for file in folder.glob(pattern))
        return {file.stat().st_ino for file in folder.glob(pattern)}
    return ()


def _come(moment: str, before: Any, now: Any) -> bool:
    if moment in ("checkpoint", "fights"):
        return bool(set(now) - set(before))
    return moment == "start" or now != before


def _fault(
    hosts: VirtualHosts, folder: Path, moment: str, number: signal.Signals, rng: random.Random
) -> dict[str, Any] | None:
    """Ends one of the hosts at a moment; how all ended then. None where they had ended before."""
    victim, before = rng.randrange(2), _mark(folder, moment)
    while not _come(moment, before, _mark(folder, moment)):
        if None not in hosts.statuses:
            return None
        time.sleep(0.002)
    time.sleep(rng.uniform(0, MOMENTS[moment][1]))
    if None not in hosts.statuses:
        return None
    began = time.monotonic()
    hosts.processes[victim].send_signal(number)
    has_ended = hosts.wait(HANG_S + 30)
    seconds, statuses = time.monotonic() - began, hosts.statuses
    other = hosts.said(1 - victim)
    return {
        "moment": moment, "signal": number.name, "host": victim, "seconds": round(seconds, 1),
        "statuses": statuses, "hung": not has_ended or seconds > HANG_S,
        "named": f"host {victim}" in other or statuses == [0, 0],
    }  # fmt: skip


def _is_as_it_should(row: Mapping[str, Any]) -> bool:
    victim, other = row["statuses"][row["host"]], row["statuses"][1 - row["host"]]
    # At the end of a run a signal may come too late; before hosts have met, only one hears of it.
    expected = {"SIGTERM": {(130, 130), (130, 1), (0, 0)}, "SIGKILL": {(-9, 1), (-9, 0), (0, 0)}}
    return not row["hung"] and row["named"] and (victim, other) in expected[row["signal"]]


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = sorted({(row["signal"], row["moment"]) for row in rows})
    summary = []
    for number, moment in kinds:
        some = [row for row in rows if (row["signal"], row["moment"]) == (number, moment)]
        summary.append({
            "signal": number, "moment": moment, "faults": len(some),
            "hung": sum(row["hung"] for row in some),
            "unnamed": sum(not row["named"] for row in some),
            "other status": sum(not _is_as_it_should(row) for row in some),
            "longest_s": max(row["seconds"] for row in some),
        })  # fmt: skip
    return summary


def _end_again_and_again(
    folder: Path, faults: int, rng: random.Random
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """A row for each fault, and how many runs came to which end."""
    rows: list[dict[str, Any]] = []
    ends, port = Counter[str](), free_port()

    def run(name: str) -> VirtualHosts:
        arguments = ["--config", "configs/pure_cnn.yaml", "--resume"]
        arguments += as_flags(_flags(folder, name))
        return start(folder, ["BC_training", *arguments], hosts=2, devices=1, port=port)

    with run("whole") as hosts:
        if not hosts.wait(1200) or any(hosts.statuses):
            raise SystemExit(f"{hosts.statuses}\n{hosts.all_said}")
    whole = result(folder / "whole")
    while len(rows) < faults or (folder / "run").exists():
        with run("run") as hosts:
            row = None
            if len(rows) < faults:
                number = [signal.SIGTERM, signal.SIGKILL][len(rows) % 2]
                row = _fault(hosts, folder, [*MOMENTS][len(rows) // 2 % len(MOMENTS)], number, rng)
            else:  # the last one may come to its end, and is compared too
                hosts.wait(1200)
            if row is not None:
                rows.append(row)
                print(f"{len(rows)}: {row}", flush=True)
            if hosts.statuses == [0, 0]:
                ends["same" if result(folder / "run") == whole else "another"] += 1
                shutil.rmtree(folder / "run")
            elif row is None:
                ends["not resumable"] += 1
                shutil.rmtree(folder / "run", ignore_errors=True)
            if not (hosts.statuses == [0, 0] if row is None else _is_as_it_should(row)):
                print(f"{hosts.statuses}\n{hosts.all_said}", flush=True)
    return rows, ends


def main(faults: int = 40, seed: int = 1, keep: bool = True) -> int:
    """Ends one of two hosts again and again.

    Args:
        faults: how many; every other one is a SIGKILL.
        seed: seed of the moments.
        keep: whether the result is written.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        record(folder, 6)
        rows, ends = _end_again_and_again(folder, faults, random.Random(seed))
    summary = _summary(rows)
    table = console.make_table(f"{len(rows)} faults; runs that came to their end: {dict(ends)}")
    for column in summary[0]:
        table.add_column(column, justify="right")
    for line in summary:
        table.add_row(*(str(value) for value in line.values()))
    console.make_console().print(table)
    if keep:
        (shared.RESULTS / "host_faults.json").write_text(
            json.dumps({**shared.machine(), "ends": ends, "summary": summary, "faults": rows},
                       indent=2) + "\n"
        )  # fmt: skip
    return 0 if all(map(_is_as_it_should, rows)) and {*ends} == {"same"} else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
