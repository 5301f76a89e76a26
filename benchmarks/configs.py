"""Every shipped configuration at the size it ships with: how long it takes, and what it wins.

    uv run python -m benchmarks.configs [--rows pure_cnn temporal_cnn] [--at_once 2]

Records 96 disturbed fights of the arena's expert at 256x144 (and 96 with instructions, for vla),
then trains each row in a process of its own and has it fight 50 times beside the expert. A row is
added to benchmarks/results/configs-<device>.json as soon as it is done, and not run again once it
is there: rerun the same command to go on.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

ARENA = "boss_arena:BossArena-v0"
RESULTS = Path(__file__).parent / "results"
EPISODES = 96
DISTURB = 0.15
FIGHT_SEED = 3_000_000
"""Fresh fights: no configuration was chosen by these."""


OFFLINE = ("val/loss", "val/exact_match", "val/macro_f1", "val/onsets/f1", "val/frequency_l1")


class Row(NamedTuple):
    """A configuration as it ships, and what differs from it."""

    config: str
    changes: tuple[str, ...] = ()


ROWS = {
    "pure_cnn": Row("pure_cnn"),
    "pure_cnn, no class weights": Row("pure_cnn", ("--training.use_class_weights", "false")),
    "state_vision": Row("state_vision"),
    "temporal_cnn": Row("temporal_cnn"),
    "temporal_cnn, seed 43": Row("temporal_cnn", ("--system.seed", "43")),
    "temporal_cnn, seed 44": Row("temporal_cnn", ("--system.seed", "44")),
    "temporal_lstm": Row("temporal_lstm"),
    "temporal_transformer": Row("temporal_transformer"),
    "resnet": Row("resnet"),
    "efficientnet": Row("efficientnet"),
    "vla": Row("vla"),
}


def record_arena(path: Path) -> None:
    """The recordings that all rows but vla train on; what is there already is kept."""
    command = ["-m", "gameplay_pipeline.record", "--env", ARENA, "--policy", "expert"]
    command += ["--episodes", str(EPISODES), "--resolution", "256x144", "--out", str(path)]
    subprocess.run([sys.executable, *command, "--disturb", str(DISTURB)], check=True)


def train_and_fight(row: str, passes: int, fights: int, folder: Path) -> dict[str, Any]:
    """Runs one row in this process, by the command that a user would run.

    Returns:
        Seconds, steps, peak bytes of device memory where the device tells them, the figures of the
        validation split and the summary of the fights.
    """
    config, changes = ROWS[row]
    run = folder / row.replace(", ", "-").replace(" ", "_")
    log = os.open(f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    path = folder / ("styles.zarr" if config == "vla" else "arena.zarr")
    sys.argv = [
        "BC_training", "--config", f"configs/{config}.yaml", "--dataset.path", str(path),
        "--dataset.cache_dir", str(folder), "--training.num_epochs", str(passes),
        "--training.checkpoint_dir", str(run), "--environment.id", ARENA,
        "--evaluation.rollout_episodes", str(fights),
        "--evaluation.rollout_seed", str(FIGHT_SEED), *changes,
    ]  # fmt: skip
    import jax

    from BC_training.__main__ import main
    from BC_training.checkpoints import store as checkpoints
    from BC_training.checkpoints.bundle import read_bundle

    began = time.monotonic()
    main()
    seconds = time.monotonic() - began
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = read_bundle(checkpoints.locate(run)).step  # the one that fights
    judged = next(line for line in lines if "val/loss" in line and line["step"] == best)
    rates = [line["time/frames_per_second"] for line in lines if "time/frames_per_second" in line]
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "command": sys.argv[1:],
        "device": device.device_kind,
        "jax": jax.__version__,
        "passes": passes,
        "steps": lines[-1]["step"],
        "seconds": seconds,
        "frames_per_second": rates and max(rates),
        "peak_device_bytes": memory,
        "offline": {key: value for key, value in judged.items() if key in OFFLINE},
        "fights": json.loads((run / "fights.json").read_text())["summary"],
    }


def device_name() -> str:
    """The kind of the first device, asked for in another process so that this one holds none."""
    code = "import jax; print(jax.devices()[0].device_kind.lower().replace(' ', '-'))"
    return subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1]


def table(results: dict[str, Any]) -> Table:
    """A row each, best first."""

    def interval(summary: Any, scale: float) -> str:
        return "{mean:.0f} [{low:.0f}, {high:.0f}]".format(
            **{key: scale * value for key, value in summary.items()}
        )

    made = Table(title="Configurations at the size they ship with", title_justify="left")
    for title in (
        "row",
        "passes",
        "minutes",
        "frames/s",
        "exact",
        "macro F1",
        "won %",
        "boss removed %",
    ):
        made.add_column(title, justify="left" if title == "row" else "right")
    for name, result in results.items():
        player = next(iter(result["fights"].values()))
        rate = result["frames_per_second"]
        made.add_row(
            name, str(result["passes"]), f"{result['seconds'] / 60:.1f}",
            f"{rate:,.0f}" if rate else "-",
            f"{result['offline']['val/exact_match']:.3f}",
            f"{result['offline']['val/macro_f1']:.3f}",
            interval(player["won"], 100), interval(player["boss_health_removed"], 100),
        )  # fmt: skip
    return made


def main(
    rows: tuple[str, ...] = tuple(ROWS),
    passes: int = 5,
    fights: int = 50,
    at_once: int = 1,
    folder: Path = Path("dataset/configs"),
    results: Path = RESULTS,
) -> None:
    """Trains and plays rows that have no result yet.

    Args:
        rows: which; all if not given.
        passes: over the recordings.
        fights: fights of each row.
        at_once: rows that share the device; their times then count for less.
        folder: recordings, decoded frames, runs and their logs.
        results: folder of the file of results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = results / f"configs-{device_name()}.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    record_arena(folder / "arena.zarr")
    context = multiprocessing.get_context("spawn")

    def run(row: str) -> None:
        with ProcessPoolExecutor(1, context) as process:
            try:
                result = process.submit(train_and_fight, row, passes, fights, folder).result()
            except BaseException as error:
                print(f"{row} failed: {error!r}; its log is beside its run in {folder}", flush=True)
                return
        done[row] = {**result, "at_once": at_once}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(done, indent=1) + "\n")
        partial.replace(file)
        print(f"{row}: {result['seconds']:.0f} s", flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, [row for row in rows if row not in done]))
    Console().print(table(done))


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)
