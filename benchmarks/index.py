"""Opening a dataset of very many episodes: seconds and memory by their number.

    uv run python -m benchmarks.index [--episodes 100000]

Writes a folder of tiny episodes (zarr v2), opens and splits it, prints a table and writes
benchmarks/results/index.json.
"""

import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
import zarr

from BC_training.common import console
from BC_training.common.episodes import Episodes, split
from BC_training.common.order import EpochOrder, StreamPlan

RESULTS = Path(__file__).parent / "results" / "index.json"


def write_episodes(path: Path, episodes: int) -> None:
    """Many copies of one episode of four ticks, but for the buttons."""
    root = zarr.create_group(path, zarr_format=2)
    root.attrs.update({"keys": [f"b{i}" for i in range(20)], "fps": 17.0})
    group = root.create_group("episode_0")
    group.create_array("frames", shape=(4, 3, 8, 8), chunks=(4, 3, 8, 8), dtype="uint8")[:] = 1
    group.create_array("actions", data=np.zeros((4, 20), bool), compressors=None,
                       config={"write_empty_chunks": True})  # fmt: skip
    for number in range(1, episodes):
        copy = path / f"episode_{number}"
        shutil.copytree(path / "episode_0", copy, copy_function=shutil.copyfile)
        bits = [(number >> bit) & 1 for bit in range(20)]
        (copy / "actions" / "0.0").write_bytes(bytes(bits * 4))


def memory() -> float:
    """Peak MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(episodes: int = 100_000) -> None:
    """Times opening.

    Args:
        episodes: the largest number; a tenth of it is measured too.
    """
    rows = []
    table = console.make_table("Opening a dataset of tiny episodes")
    for column in ("episodes", "open s", "first batch ms", "peak MiB more", "KiB an episode"):
        table.add_column(column, justify="right")
    before = memory()  # of both rows: it is a peak, in which that of the first is contained
    for count in (episodes // 10, episodes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "many.zarr"
            write_episodes(path, count)
            start = time.perf_counter()
            opened = Episodes(path)
            split(opened, 0.8, 0.1, 0)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            lengths = np.array([e.length for e in opened.episodes])
            order = EpochOrder(lengths, 0, StreamPlan())
            opened.read_rows(order.samples(0, 0, 32))
            first = 1000 * (time.perf_counter() - start)
            assert len(opened) == count
            more = memory() - before
        rows.append({"episodes": count, "open_s": seconds, "first_batch_ms": first, "mib": more})
        table.add_row(
            f"{count:,}", f"{seconds:.1f}", f"{first:.0f}", f"{more:.0f}",
            f"{1024 * more / count:.1f}",
        )  # fmt: skip
    console.make_console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
