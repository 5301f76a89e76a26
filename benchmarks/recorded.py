"""A made recording with the texture of real frames, in any layout, for the benchmarks."""

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr
import zarr.codecs
from jaxtyping import UInt8
from numcodecs import Blosc

ACTIONS = ("left", "lock", "dodge", "right", "attack", "back", "forward")

SHAPE = (144, 256)

GRAIN = 3.0
"""Standard deviation of the noise on every pixel; with it, Blosc zstd 3 makes a frame about a sixth
smaller, as it does a game's frames scaled down from a large screen."""


def textured_frames(count: int, seed: int) -> UInt8[np.ndarray, "n H W C"]:
    """A camera that wanders over a landscape with detail at every scale."""
    rng = np.random.default_rng(seed)
    height, width = 4 * SHAPE[0], 4 * SHAPE[1]
    land = np.zeros((height, width, 3), np.float32)
    for scale in (4, 8, 16, 32, 64, 128):
        coarse = rng.normal(size=(2 * height // scale, 2 * width // scale, 3))
        land += scale**0.6 * cv2.resize(coarse.astype(np.float32), (width, height))
    land = 255 * (land - land.min()) / (land.max() - land.min())
    land += rng.normal(scale=GRAIN, size=land.shape)
    land = np.clip(land, 0, 255).astype(np.uint8)
    steps = rng.integers(-6, 7, (count, 2)).cumsum(axis=0) + rng.integers(0, 400, 2)
    limits = np.array([height - SHAPE[0], width - SHAPE[1]])
    corners = limits - np.abs(steps % (2 * limits) - limits)
    return np.stack([land[y : y + SHAPE[0], x : x + SHAPE[1]] for y, x in corners])


def write_recording(
    path: Path, episodes: int, length: int, *, zarr_format: Any, chunk: int, shard: int | None
) -> Path:
    """Writes a dataset, a .zip with a top folder if `path` ends so.

    Args:
        path: where.
        episodes: how many.
        length: ticks of each.
        zarr_format: 2 or 3.
        chunk: frames in a chunk.
        shard: frames in a file that holds many chunks, or None.
    """
    folder = path.with_suffix("") if path.suffix == ".zip" else path
    root = zarr.create_group(folder, zarr_format=zarr_format)
    root.attrs.update({"keys": list(ACTIONS), "fps": 17.2})
    codec = Blosc("zstd", 3) if zarr_format == 2 else zarr.codecs.BloscCodec(cname="zstd", clevel=3)
    for number in range(episodes):
        rng = np.random.default_rng(number)
        group = root.create_group(f"episode_{number}")
        frames = np.moveaxis(textured_frames(length, number), -1, 1)
        actions = np.repeat(rng.random((-(-length // 8), len(ACTIONS))) < 0.1, 8, axis=0)[:length]
        for name, values, chunks, shards in (
            (
                "frames",
                frames,
                (chunk, *frames.shape[1:]),
                (shard, *frames.shape[1:]) if shard else None,
            ),
            ("actions", actions, actions.shape, None),
        ):
            group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks,
                shards=shards,
                compressors=codec,
                config={"write_empty_chunks": True},
            )[:] = values
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder.parent))
    return path
