"""Frames per second delivered as ready batches, by layout, window and residency.

    uv run python -m benchmarks.loader [--seconds 2] [--rounds 5]

Writes a made recording of textured frames at 144x256 in each layout and times, in turns within one
run: one sample at a time through zarr-python, its frames and its actions, stacked with NumPy (the
baseline; also with the frames alone, and with those from arrays that are kept open); residencies
`stream` and `cache`; and two ceilings, decoding alone (compressed chunks in memory, one thread a
core, nothing else done) and copying alone (frames in memory gathered into batches). Prints a table
and writes benchmarks/results/loader.json. A ratio is the median over the rounds of the two rates in
a round.
"""

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
import zarr
from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]
from zarr.storage import ZipStore

from BC_training.common import console
from BC_training.common.config import DatasetConfig
from BC_training.common.dataset import Dataset
from BC_training.common.episodes import Episodes
from BC_training.common.frames.open import open_frames
from BC_training.common.order import EpochOrder, StreamPlan
from BC_training.common.tables import Tables
from BC_training.common.types import WindowSpec
from benchmarks.recorded import write_recording

RESULTS = Path(__file__).parent / "results" / "loader.json"

EPISODES, LENGTH, BATCH = 8, 512, 32

THREADS = os.cpu_count() or 2


class Layout(NamedTuple):
    """How frames lie on disk."""

    name: str
    file: str
    zarr_format: int
    chunk: int
    shard: int | None = None


LAYOUTS = (
    Layout("v2, .zip, as published", "published.zarr.zip", 2, 1),
    Layout("v2, folder", "folder.zarr", 2, 1),
    Layout("v2, 64 a chunk", "large.zarr", 2, 64),
    Layout("v3, sharded", "sharded.zarr", 3, 1, 512),
)

Rate = Callable[[float], float]
"""Frames per second, measured for about so many seconds."""


def timed(work: Iterator[int], seconds: float) -> float:
    """Frames per second of an endless worker that yields how many it has done."""
    next(work)
    frames, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        frames += next(work)
    return frames / passed


def one_at_a_time(path: Path, window: WindowSpec, *, actions: bool, keep_open: bool) -> Rate:
    """Ready batches through zarr-python, frame by frame, as scripts make them.

    Args:
        path: the recording.
        window: what a sample holds.
        actions: whether a batch has them too; without, it is not one to train on.
        keep_open: whether arrays are kept open, or each looked up by its path.
    """
    store = ZipStore(path, mode="r") if path.suffix == ".zip" else path
    top = path.stem if path.suffix == ".zip" else ""
    root: Any = zarr.open_group(store, path=top, mode="r")
    opened: list[Any] = [root[f"episode_{number}/frames"] for number in range(EPISODES)]
    rng = np.random.default_rng(0)

    def work() -> Iterator[int]:
        while True:
            frames, pressed = [], []
            for _ in range(BATCH):
                number, tick = rng.integers(EPISODES), rng.integers(LENGTH)
                for back in range(window.ticks):
                    array = opened[number] if keep_open else root[f"episode_{number}"]["frames"]
                    frames.append(array[max(tick - back, 0)])
                if actions:
                    pressed.append(root[f"episode_{number}"]["actions"][tick])
                # Batches take seconds where a chunk holds many frames.
                yield window.ticks
            np.stack(frames)
            np.array(pressed)

    return lambda seconds: timed(work(), seconds)


def batches(path: Path, kind: Any, cache_dir: Path, window: WindowSpec) -> Rate:
    """The project's own loader, as training uses it."""
    episodes = Episodes(path)
    settings = DatasetConfig(
        path=str(path), residency=kind, cache_dir=str(cache_dir), shuffle_buffer=512,
        # So little that a stream can't turn into a cache of this small recording.
        stream_memory_gib=0.2,
    )  # fmt: skip
    plan = StreamPlan.of(
        episodes.chunk_length, episodes.frame_bytes,
        span=window.span, shuffle_buffer=settings.shuffle_buffer, in_flight=0,
    )  # fmt: skip
    opened = open_frames(episodes, settings, plan, threads=THREADS)
    tables = Tables.of(opened.episodes, window)
    dataset = Dataset(tables, opened.frames, window, EpochOrder(tables.lengths, 0, plan))

    def work() -> Iterator[int]:
        steps = 10_000_000 // BATCH
        for batch in dataset.train_batches(batch_size=BATCH, steps=range(steps), threads=THREADS):
            yield BATCH * batch.observation.valid.shape[-1]

    return lambda seconds: timed(work(), seconds)


def in_threads(job: Callable[[int], int], seconds: float, threads: int) -> float:
    """Frames per second of a job that is done over and over in threads."""

    def run(thread: int) -> tuple[int, float]:
        done, start = 0, time.perf_counter()
        for number in itertools.count(thread, threads):
            if time.perf_counter() - start > seconds:
                break
            done += job(number)
        return done, time.perf_counter() - start

    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(run, range(threads)))
    return sum(done for done, _ in counts) / max(passed for _, passed in counts)


def decode_only(path: Path, frames_per_chunk: int) -> Rate:
    """Chunks that are in memory already, decoded into memory that is there already."""
    frames = Episodes(path).episodes[0].frames
    spans = [frames.span((number, 0, 0, 0)) for number in range(frames.layout.chunks[0])]
    raw = [bytes(r) for r in frames.storage.fetch([s for s in spans if s]) if r is not None]
    size = frames.layout.chunk_bytes

    def rate(seconds: float) -> float:
        targets = [np.empty(size, np.uint8) for _ in range(THREADS)]

        def job(number: int) -> int:
            blosc.decompress(raw[number % len(raw)], targets[number % THREADS])
            return frames_per_chunk

        return in_threads(job, seconds, THREADS)

    return rate


def copy_only(window: WindowSpec) -> Rate:
    """Frames in memory, gathered into batches; in one thread or in all, whichever is faster."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (EPISODES * LENGTH, 144, 256, 3), np.uint8)
    picks = [rng.integers(0, len(frames), BATCH * window.ticks) for _ in range(64)]

    def job(number: int) -> int:
        return len(frames[picks[number % 64]])

    return lambda seconds: max(in_threads(job, seconds / 2, n) for n in {1, THREADS})


def measure(
    folder: Path, layout: Layout, window: WindowSpec, seconds: float, rounds: int
) -> dict[str, Any]:
    """Rates of all kinds in one layout."""
    path = folder / layout.file
    kinds = {
        "baseline": one_at_a_time(path, window, actions=True, keep_open=False),
        "frames alone": one_at_a_time(path, window, actions=False, keep_open=False),
        "kept open": one_at_a_time(path, window, actions=False, keep_open=True),
        "stream": batches(path, "stream", folder, window),
        "cache": batches(path, "cache", folder, window),
        "decode": decode_only(path, layout.chunk),
        "copy": copy_only(window),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, rate in kinds.items():
            rates[kind].append(rate(seconds))

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    return {
        "layout": layout.name,
        "window": window.ticks,
        "frames_per_second": {kind: statistics.median(values) for kind, values in rates.items()},
        "stream_to_baseline": ratio("stream", "baseline"),
        "stream_to_frames_alone": ratio("stream", "frames alone"),
        "stream_to_decode": ratio("stream", "decode"),
        "cache_to_baseline": ratio("cache", "baseline"),
        "cache_to_copy": ratio("cache", "copy"),
    }


def main(seconds: float = 2.0, rounds: int = 5) -> None:
    """Times every way of loading in every layout.

    Args:
        seconds: length of each measurement.
        rounds: times that each is measured, all of them in turn.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for layout in LAYOUTS:
            path = write_recording(
                folder / layout.file, EPISODES, LENGTH,
                zarr_format=layout.zarr_format, chunk=layout.chunk, shard=layout.shard,
            )  # fmt: skip
            for ticks in (1, 8):
                rows.append(measure(folder, layout, WindowSpec(ticks=ticks), seconds, rounds))
            stored = sum(f.stat().st_size for f in folder.rglob("*") if path.name in str(f))
            print(f"{layout.name}: measured ({stored / 2**20:.0f} MiB)", flush=True)
    rates, ratios = list(rows[0]["frames_per_second"]), [key for key in rows[0] if "_to_" in key]
    of_rates = console.make_table(f"Frames/s in batches of {BATCH}, 144x256, {THREADS} cores")
    of_ratios = console.make_table("Medians of the ratios in a round")
    for table, columns in ((of_rates, rates), (of_ratios, ratios)):
        table.add_column("layout", no_wrap=True)
        for column in ("T", *columns):
            table.add_column(column.replace("_to_", " / ").replace("_", " "), justify="right")
    for row in rows:
        start, frames_per_second = (row["layout"], str(row["window"])), row["frames_per_second"]
        of_rates.add_row(*start, *(f"{frames_per_second[key]:,.0f}" for key in rates))
        of_ratios.add_row(*start, *(f"{row[key]:,.2f}" for key in ratios))
    console.make_console().print(of_rates, of_ratios)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"cores": THREADS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
