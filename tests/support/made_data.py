"""Small made datasets, written with zarr-python alone, as a stranger would."""

import atexit
import copy
import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

ACTIONS = ("left", "right", "hit")
STATE = ("hp", "hint")
SHAPE = (3, 24, 32)


@dataclasses.dataclass(frozen=True)
class Made:
    """A written dataset and what is in it."""

    path: Path
    frames: list[np.ndarray]
    actions: list[np.ndarray]
    state: list[np.ndarray]


_KEPT = Path(tempfile.mkdtemp(prefix="made_"))
atexit.register(shutil.rmtree, _KEPT, ignore_errors=True)


def make_dataset(
    path: Path, lengths: tuple[int, ...] = (40, 30, 50, 20, 35), **layout: Any
) -> Made:
    """What `_write` writes, which takes long: each is written once in a process, and copied."""
    kept = _once(json.dumps({"lengths": lengths, **layout}, sort_keys=True))
    shutil.copytree(kept.path, path, copy_function=shutil.copy)
    return copy.deepcopy(dataclasses.replace(kept, path=path))


@functools.cache
def _once(arguments: str) -> Made:
    folder = Path(_KEPT, hashlib.sha256(arguments.encode()).hexdigest()[:16])
    return _write(folder, **json.loads(arguments))


def _write(
    path: Path,
    lengths: Sequence[int],
    *,
    zarr_format: Any = 2,
    names: tuple[str, ...] | None = None,
    attributes: dict[str, Any] | None = None,
    chunk: int = 1,
    shard: int | None = None,
    whole_state: bool = False,
) -> Made:
    """Writes episodes in which a bright left half means left, a bright right half means right, and
    a bright bottom means hit; with `whole_state`, the hint is whether hit is right."""
    rng = np.random.default_rng(0)
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    root.attrs.update({"keys": list(ACTIONS), "attributes": list(STATE), "fps": 17.0})
    root.attrs.update(attributes or {})
    frames, actions, state = [], [], []
    for number, length in enumerate(lengths):
        pressed = np.repeat(rng.random((-(-length // 4), 3)) < (0.5, 0.4, 0.2), 4, axis=0)[:length]
        images = rng.integers(0, 60, (length, *SHAPE), dtype=np.uint8)
        images[:, :, :12, :16] += (pressed[:, 0] * 150).astype(np.uint8)[:, None, None, None]
        images[:, :, :12, 16:] += (pressed[:, 1] * 150).astype(np.uint8)[:, None, None, None]
        images[:, :, 12:] += (pressed[:, 2] * 150).astype(np.uint8)[:, None, None, None]
        values = rng.normal(size=(length, 2)).astype(np.float32) * (100, 1) + (500, 0)
        if whole_state:
            values[:, 1] = 7 + pressed[:, 2]
        group = root.create_group(names[number] if names else f"episode_{number}")
        for name, array in (("frames", images), ("actions", pressed), ("state", values)):
            is_frames = name == "frames"
            group.create_array(
                name,
                shape=array.shape,
                dtype="float32" if name == "state" else array.dtype,
                chunks=(chunk, *array.shape[1:]) if is_frames else array.shape,
                shards=(shard, *array.shape[1:]) if is_frames and shard else None,
                config={"write_empty_chunks": True},
            )[:] = array
        frames.append(images)
        actions.append(pressed)
        state.append(values.astype(np.float32))
    return Made(path, frames, actions, state)


def add_corrections(made: Made) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Has somebody take over from a policy in every third stretch of five ticks.

    Returns:
        Of each episode, who drove, and what the policy wanted: elsewhere it is what was pressed.
    """
    rng = np.random.default_rng(9)
    drove, wanted = [], []
    for number, actions in enumerate(made.actions):
        drove.append(np.arange(len(actions)) // 5 % 3 == 1)
        wanted.append(np.where(drove[-1][:, None], rng.random(actions.shape) < 0.5, actions))
        group = zarr.open_group(made.path)[f"episode_{number}"]
        group.create_array("intervention", data=drove[-1])
        group.create_array("policy_actions", data=wanted[-1])
    return drove, wanted


def as_objects(array: Path) -> None:
    """Has the metadata of an array, in zarr format 2, say that its bytes are Python's objects."""
    metadata = json.loads((array / ".zarray").read_text()) | {"dtype": "|O", "compressor": None}
    (array / ".zarray").write_text(json.dumps(metadata))
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(b"A" * 8 * int(np.prod(metadata["chunks"])))


def zipped(folder: Path, top: bool = True, compression: int = zipfile.ZIP_STORED) -> Path:
    """Packs a dataset beside itself, as published ones are, with or without a top folder."""
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent if top else folder))
    return path
