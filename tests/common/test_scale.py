"""Memory: what streaming holds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

ROOT = Path(__file__).parents[2]

BOUND_GIB = 0.2

STREAM = """
import sys
import numpy as np
from BC_training.common.config import DatasetConfig
from BC_training.common.dataset import Dataset
from BC_training.common.tables import Tables
from BC_training.common.episodes import Episodes
from BC_training.common.frames.open import open_frames
from BC_training.common.order import EpochOrder, StreamPlan
from BC_training.common.types import WindowSpec
path, bound = sys.argv[1], float(sys.argv[2])
episodes = Episodes(path)
settings = DatasetConfig(
    path=path, residency="stream", stream_memory_gib=bound, shuffle_buffer=256
)
batch, threads, window = 32, 2, WindowSpec(ticks=2)
in_flight = 6 * batch * window.ticks * episodes.frame_bytes
plan = StreamPlan.of(
    episodes.chunk_length, episodes.frame_bytes,
    span=window.span, shuffle_buffer=256, in_flight=in_flight,
)
frames = open_frames(episodes, settings, plan, threads=threads).frames
tables = Tables.of(episodes, window)
dataset = Dataset(tables, frames, window, EpochOrder(tables.lengths, 0, plan))
steps = 2 * (len(dataset) // batch)
total = 0
for batch in dataset.train_batches(
    batch_size=batch, steps=range(steps), threads=threads
):
    total += int(batch.observation.frames[0, -1, 0, 0, 0])
print(total)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 64])
def test_streaming_stays_in_its_bound_on_a_dataset_several_times_as_large(tmp_path, chunk):
    root = zarr.open_group(tmp_path / "large.zarr", mode="w", zarr_format=2)
    root.attrs.update({"keys": ["a"], "fps": 17.0})
    shape, length, count = (3, 144, 256), 1600, 5
    rng = np.random.default_rng(0)
    for number in range(count):
        group = root.create_group(f"episode_{number}")
        frames = group.create_array(
            "frames", shape=(length, *shape), chunks=(chunk, *shape), dtype="uint8"
        )
        for first in range(0, length, 64):
            frames[first : first + 64] = 1 + (first + number) % 250
        group.create_array("actions", data=rng.random((length, 1)) < 0.5)
    decoded_gib = count * length * int(np.prod(shape)) / 2**30
    assert decoded_gib > 4 * BOUND_GIB
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / "large.zarr"), str(BOUND_GIB)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak_gib = int(done.stdout.split()[-1]) / 2**20
    print(f"chunks of {chunk}: peak {peak_gib:.2f} GiB, {decoded_gib:.2f} GiB decoded")
    assert peak_gib < BOUND_GIB + 1
