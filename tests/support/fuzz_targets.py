"""What is fuzzed: files of strangers, and what reads them."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from BC_training.analyze_dataset import analyze
from BC_training.checkpoints import bundle as bundles
from BC_training.checkpoints.store import load_model
from gameplay_pipeline.convert.exporting import open_reader
from gameplay_pipeline.convert.from_lerobot import FromLeRobot, from_lerobot
from gameplay_pipeline.convert.to_lerobot import ToLeRobot, to_lerobot
from gameplay_pipeline.convert_to_zarr import Conversion, convert
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.video import LOSSY, VideoWriter
from gameplay_pipeline.repack import Repacking, repack
from tests.support.made_data import make_dataset, zipped
from tests.support.made_policy import made_bundle, save_policy


class Target(NamedTuple):
    """Something that reads files of strangers."""

    make: Callable[[Path], None]
    """Writes sound files into a folder."""
    files: tuple[str, ...]
    """Patterns of those that are changed."""
    use: Callable[[Path, Path], None]
    """Reads them; the second folder is for what comes of it."""


def _tried(use: Callable[[], Any]) -> None:
    with contextlib.suppress(UserError, OSError):
        use()


def use_dataset(path: Path, out: Path) -> None:
    _tried(lambda: analyze(str(path), json=out / "figures.json", threads=1))
    _tried(lambda: repack(Repacking(str(path), out / "new.zarr", workers=1)))
    open_reader.cache_clear()
    job = ToLeRobot(str(path), out / "robot", lossless=True, workers=1, assume_color_order="RGB")
    _tried(lambda: to_lerobot(job))


def make_replay_buffer(folder: Path) -> None:
    rng = np.random.default_rng(0)
    root = zarr.create_group(folder / "d.zarr", zarr_format=2)
    for name, values in {
        "data/img": rng.integers(0, 255, (9, 8, 12, 3), np.uint8),
        "data/action": (rng.random((9, 2)) < 0.5).astype(np.float32),
        "data/state": rng.random((9, 2)).astype(np.float32),
        "meta/episode_ends": np.array([4, 9]),
    }.items():
        root.create_array(name, data=values, chunks=(5, *values.shape[1:]))


def use_replay_buffer(folder: Path, out: Path) -> None:
    job = Repacking(str(folder / "d.zarr"), out / "new.zarr", keys="a,b", workers=1)
    _tried(lambda: repack(job))


def make_lerobot(folder: Path) -> None:
    made = make_dataset(folder / "d.zarr", (6, 5), attributes={"color_order": "RGB"})
    to_lerobot(ToLeRobot(str(made.path), folder / "robot", workers=1))
    shutil.rmtree(made.path)


def use_lerobot(folder: Path, out: Path) -> None:
    _tried(lambda: from_lerobot(FromLeRobot(folder / "robot", out / "new.zarr", workers=1)))


def make_recording(folder: Path) -> None:
    session = folder / "recordings" / "session_1"
    session.mkdir(parents=True)
    with VideoWriter(session / "video.mp4", (32, 16), 10, LOSSY) as video:
        for tick in range(10):
            video.append(np.full((16, 32, 3), 20 * tick, np.uint8), 100_000 * tick)
    rows = "".join(f"{t * 100_000},{t},{t / 2}\n" for t in range(10))
    (session / "memory_data.csv").write_text("timestamp_us,Hp,X\n" + rows)
    (session / "inputs.csv").write_text(
        "timestamp_us,event_type,key_or_button\n200000,KEY_DOWN,W\n233000,KEY_DOWN,W\n"
        "400000,KEY_UP,W\n500000,MOUSE_DOWN,LEFT\n700000,MOUSE_UP,LEFT\n"
    )
    (session / "metadata.json").write_text('{"start_timestamp_us": 0}')
    (folder / "recordings" / "keybinds.json").write_text(json.dumps({
        "version": "2.0",
        "actions": {"go": {"index": 0, "key": ["W"], "mouse": None},
                    "hit": {"index": 1, "key": None, "mouse": "LEFT"}},
    }))  # fmt: skip


def use_recording(folder: Path, out: Path) -> None:
    source = folder / "recordings"
    job = Conversion(source, out / "new.zarr", keybinds=source / "keybinds.json",
                     resolution="32x16", workers=1)  # fmt: skip
    _tried(lambda: convert(job))


def use_checkpoint(folder: Path, out: Path) -> None:
    file = folder / "1" / "bundle" / "metadata"
    with contextlib.suppress(Exception):
        raw = json.loads(file.read_text())
        raw.pop("sha256", None)
        file.write_text(json.dumps({**raw, "sha256": bundles._digest(raw)}))  # as a forger would

    def use() -> None:
        bundle, _ = load_model(folder / "1")
        bundle.config_here("d", None)
        bundle.with_play({"rule": "sample"})

    _tried(use)


def _dataset(**layout: Any) -> Callable[[Path], None]:
    return lambda folder: make_dataset(folder / "d.zarr", (6, 5), **layout) and None


TARGETS = {
    "zarr 2": Target(
        _dataset(), ("d.zarr/**/.z*",) * 3 + ("d.zarr/**/[0-9]*",),
        lambda folder, out: use_dataset(folder / "d.zarr", out),
    ),
    "zarr 3": Target(
        _dataset(zarr_format=3, shard=4), ("d.zarr/**/zarr.json",) * 2 + ("d.zarr/**/c/**/*",),
        lambda folder, out: use_dataset(folder / "d.zarr", out),
    ),
    "zip": Target(
        lambda folder: zipped(make_dataset(folder / "d.zarr", (6, 5)).path) and None, ("*.zip",),
        lambda folder, out: use_dataset(folder / "d.zarr.zip", out),
    ),
    "replay buffer": Target(
        make_replay_buffer, ("d.zarr/**/.z*", "d.zarr/**/[0-9]*"), use_replay_buffer
    ),
    "LeRobot": Target(
        make_lerobot, ("robot/meta/info.json",) * 3 + ("robot/**/*.parquet",), use_lerobot
    ),
    "recordings": Target(
        make_recording, ("**/*.csv",) * 3 + ("**/*.json",), use_recording
    ),
    "checkpoint": Target(
        lambda folder: save_policy(folder, made_bundle()) and None, ("1/bundle/metadata",),
        use_checkpoint,
    ),
}  # fmt: skip
