"""Random frames per second of CPU time by the project's reader, zarr-python and tensorstore.

    uv run python -m benchmarks.readers [--seconds 2] [--rounds 3]

Reads batches of 32 random frames at 144x256 of a made recording into [n, H, W, 3], in turns within
one run, in the two layouts that matter: one image a chunk as published, and shards as the project
writes them. CPU time counts, so that what else the machine does counts less. Prints a table and
writes benchmarks/results/readers.json.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorstore as ts
import tyro
import zarr
from jaxtyping import UInt8
from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]

from BC_training.common import console
from benchmarks.recorded import write_recording
from gameplay_pipeline.store.array import Array
from gameplay_pipeline.store.reader import Entry, Reader, read_frames

RESULTS = Path(__file__).parent / "results" / "readers.json"

LENGTH, BATCH = 512, 32

LAYOUTS = {
    "format 2, one image a chunk": {"zarr_format": 2, "chunk": 1, "shard": None},
    "format 3, shards of 512": {"zarr_format": 3, "chunk": 1, "shard": 512},
}

Read = Callable[[Any], Any]
"""Reads the frames of the ticks given."""


def interleaved(frames: UInt8[np.ndarray, "n C H W"]) -> list[UInt8[np.ndarray, "H W C"]]:
    """Frames with their channels last, in the fastest way there is."""
    return [cv2.merge(tuple(planes)) for planes in frames]


def with_ours(path: Path) -> Read:
    array = _frames(path)
    return lambda ticks: read_frames([array] * len(ticks), ticks)


def with_zarr(path: Path) -> Read:
    array: Any = zarr.open_group(path, mode="r")["episode_0/frames"]
    # One selection for the batch: one frame after the other would be slower still.
    return lambda ticks: interleaved(array.oindex[np.unique(ticks)])


def with_tensorstore(path: Path) -> Read:
    folder = path / "episode_0" / "frames"
    driver = "zarr3" if (folder / "zarr.json").exists() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}}
    store: Any = ts.open(spec, read=True, open=True).result()
    return lambda ticks: interleaved(store[np.unique(ticks)].read().result())


def decoding_alone(path: Path) -> Read:
    """The ceiling: chunks in memory, decoded into memory, in the planes that they are stored in."""
    array = _frames(path)
    spans = [array.span((tick, 0, 0, 0)) for tick in range(LENGTH)]
    raw = [bytes(r or b"") for r in array.storage.fetch([s for s in spans if s is not None])]
    target = np.empty(array.layout.chunk_bytes, np.uint8)

    def read(ticks: Any) -> None:
        for tick in ticks.tolist():
            blosc.decompress(raw[tick], target)

    return read


def _frames(path: Path) -> Array:
    (entry,) = Reader(path).entries(["episode_0"])
    assert isinstance(entry, Entry)
    return entry.arrays["frames"]


READERS = {
    "decoding alone": decoding_alone,
    "the project's": with_ours,
    "zarr-python": with_zarr,
    "tensorstore": with_tensorstore,
}


def rate(read: Read, seconds: float) -> float:
    """Frames per second of CPU time, over about so many seconds."""
    rng = np.random.default_rng(0)
    read(np.arange(BATCH))
    frames, start, began = 0, time.process_time(), time.monotonic()
    while time.monotonic() - began < seconds:
        # Each frame once in a batch, so that all readers decode as many.
        read(rng.choice(LENGTH, BATCH, replace=False))
        frames += BATCH
    return frames / (time.process_time() - start)


def main(seconds: float = 2.0, rounds: int = 3) -> None:
    """Times every reader in every layout.

    Args:
        seconds: seconds of each measurement.
        rounds: rounds of all of them in turn.
    """
    rows = []
    table = console.make_table("Random frames per second of CPU time, 144x256")
    for column in ("layout", *READERS):
        table.add_column(column)
    for name, options in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_recording(Path(folder) / "made.zarr", 1, LENGTH, **options)
            reads = {reader: make(path) for reader, make in READERS.items()}
            rates: dict[str, list[float]] = {reader: [] for reader in reads}
            for _ in range(rounds):
                for reader, read in reads.items():
                    rates[reader].append(rate(read, seconds))
        medians = {reader: round(statistics.median(some)) for reader, some in rates.items()}
        rows.append({"layout": name, "frames_per_cpu_second": medians})
        table.add_row(name, *(f"{median:,}" for median in medians.values()))
    console.make_console().print(table)
    versions = {"zarr": zarr.__version__, "tensorstore": version("tensorstore")}
    RESULTS.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
