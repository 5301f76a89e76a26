"""Imports LeRobot datasets, version 3."""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro

from gameplay_pipeline.convert.importing import (
    SOURCE_EPISODE,
    Converted,
    Import,
    as_float32,
    check_paths,
    run,
    size_of,
)
from gameplay_pipeline.convert.lerobot_format import ACTION, COUNTERS, INFO, STATE
from gameplay_pipeline.convert.video import read_frames
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter


@dataclasses.dataclass(frozen=True)
class FromLeRobot(Import):
    """Converts a LeRobot dataset into one of this project; rerun the same command to resume."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LEROBOT")]
    """The folder that contains meta, data and videos."""
    camera: str | None = None
    """The feature that becomes the frames; needed if there are several cameras."""


class Location(NamedTuple):
    """Where an episode of a LeRobot dataset is stored."""

    number: int
    length: int
    data: str
    """Path of its parquet file."""
    video: str
    start: float
    """Seconds into the video at which the episode begins."""
    tasks: list[str]


def from_lerobot(job: FromLeRobot) -> int:
    """Converts the episodes that the dataset at `out` lacks.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: the source is no LeRobot dataset, its actions are not buttons, or the new
            dataset can't be written. Episodes that are complete by then are kept.
    """
    require("av", "convert")
    check_paths(job, "folder of a LeRobot dataset")
    meta = _read_info(job.source / INFO)
    features = meta["features"]
    camera = _choose_camera(job, features)
    height, width = stored_size = _frame_size(job, features[camera])
    if job.resolution is not None:
        width, height = size_of(job.resolution)
    info = DatasetInfo(
        keys=_column_names(features, ACTION),
        attributes=_column_names(features, STATE) if STATE in features else (),
        height=height,
        width=width,
        fps=float(meta["fps"]),
        color_order="RGB",
        resize="area" if (height, width) != stored_size else "unknown",
        source={"lerobot": job.source.name, "camera": camera, "robot": meta.get("robot_type")},
    )
    locations = {str(place.number): place for place in _locations(job, meta, camera)}
    _check_buttons(job, sorted({place.data for place in locations.values()}), info.keys)
    if others := sorted(set(features) - {camera, ACTION, STATE, *COUNTERS}):
        print(f"not carried over: {', '.join(others)}", flush=True)
    convert = functools.partial(_convert_episode, job, info, locations)
    return run(convert, list(locations), job, info)


def _read_info(path: Path) -> dict[str, Any]:
    """Reads what meta/info.json says about the whole dataset.

    Raises:
        UserError: it can't be read, is of another version, or lacks something.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    version = meta.get("codebase_version")
    if not str(version).startswith("v3.") or not isinstance(meta.get("features"), dict):
        raise UserError(
            f"{path}: its codebase_version is {version}, but only v3 can be read; "
            "lerobot has a script that converts older ones"
        )
    if missing := {"fps", "data_path", "video_path"} - set(meta):
        raise UserError(f"{path}: it lacks {', '.join(sorted(missing))}")
    if not isinstance(meta["fps"], int | float) or not 0 < meta["fps"] < float("inf"):
        raise UserError(f"{path}: its fps is {meta['fps']!r}, not a rate above zero")
    if ACTION not in meta["features"]:
        raise UserError(f"{path}: it has no feature {ACTION!r}")
    return meta


def _choose_camera(job: FromLeRobot, features: dict[str, Any]) -> str:
    """Returns the feature that becomes the frames."""
    cameras = [name for name, entry in features.items() if entry.get("dtype") in ("video", "image")]
    camera = cameras[0] if job.camera is None and len(cameras) == 1 else job.camera
    if camera not in cameras:
        raise UserError(
            f"--camera is {job.camera}; {job.source} has the cameras {', '.join(cameras) or 'none'}"
        )
    if features[camera]["dtype"] != "video":
        raise UserError(f"{job.source}: {camera} is stored as images; only videos can be read")
    return camera


def _frame_size(job: FromLeRobot, feature: dict[str, Any]) -> tuple[int, int]:
    """Returns height and width of a camera's frames."""
    # The axes are called height, width, channels or by their first letters, in any order.
    letters = [str(name)[:1] for name in feature.get("names") or ()]
    if sorted(letters) != ["c", "h", "w"]:
        raise UserError(f"{job.source / INFO}: which axes of the camera are height and width?")
    return feature["shape"][letters.index("h")], feature["shape"][letters.index("w")]


def _column_names(features: dict[str, Any], key: str) -> tuple[str, ...]:
    """Returns the names of a feature's columns, made up where it has none."""
    names, shape = features[key].get("names"), features[key]["shape"]
    if isinstance(names, dict):
        names = list(itertools.chain.from_iterable(names.values()))
    if len(shape) != 1:
        raise UserError(f"the feature {key} has shape {shape}; only columns can be carried over")
    if not names or len(names) != shape[0] or len(set(names)) != shape[0]:
        return tuple(f"{key.rpartition('.')[2]}_{column}" for column in range(shape[0]))
    return tuple(map(str, names))


def _locations(job: FromLeRobot, meta: dict[str, Any], camera: str) -> Iterator[Location]:
    """Reads from meta/episodes where each episode is, in order."""
    pq: Any = require("pyarrow.parquet", "convert")
    files = sorted((job.source / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise UserError(f"{job.source}: there is nothing in meta/episodes")
    video = f"videos/{camera}"
    columns = [
        "episode_index", "length", "tasks", "data/chunk_index", "data/file_index",
        f"{video}/chunk_index", f"{video}/file_index", f"{video}/from_timestamp",
    ]  # fmt: skip
    for file in files:
        with _naming(file):
            rows = pq.read_table(file, columns=columns).to_pylist()
        for row in rows:
            in_data = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
            in_video = {name: row[f"{video}/{name}"] for name in ("chunk_index", "file_index")}
            yield Location(
                row["episode_index"],
                row["length"],
                meta["data_path"].format(**in_data),
                meta["video_path"].format(video_key=camera, **in_video),
                row[f"{video}/from_timestamp"],
                row["tasks"],
            )


def _check_buttons(job: FromLeRobot, files: Sequence[str], keys: Sequence[str]) -> None:
    """Refuses actions that are not buttons, before anything is written."""
    for name in files:
        if not (job.source / name).exists():
            continue  # named when it is its episodes' turn
        action = _read_columns(job.source / name, [ACTION], [])[ACTION]
        wrong = np.argwhere((action != 0) & (action != 1))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"{job.source}: the action {keys[column]} is {action[row, column]:g} in row {row} "
                f"of {name}; only buttons, 0 or 1, can be carried over"
            )


def _read_columns(
    path: Path, names: Sequence[str], filters: list[Any]
) -> dict[str, npt.NDArray[Any]]:
    """Reads columns of a parquet file, as [N, F] each."""
    pq: Any = require("pyarrow.parquet", "convert")
    with _naming(path):
        table = pq.read_table(path, columns=list(names), filters=filters or None)
        return {
            name: np.array(table[name].to_pylist()).reshape(table.num_rows, -1) for name in names
        }


def _convert_episode(
    job: FromLeRobot, info: DatasetInfo, locations: dict[str, Location], item: tuple[str, int]
) -> Converted:
    """Writes one episode, if it can be."""
    name, number = item
    place = locations[name]
    try:
        state_columns = [STATE] if info.attributes else []
        wanted = [ACTION, "frame_index", "timestamp", *state_columns]
        rows = _read_columns(
            job.source / place.data, wanted, [("episode_index", "=", place.number)]
        )
        if not np.array_equal(rows["frame_index"][:, 0], np.arange(place.length)):
            raise DataError(f"{place.data} does not hold its {place.length} frames in order")
        values = rows[STATE] if info.attributes else np.zeros((place.length, 0))
        state, notes = as_float32(values, info.attributes)
        assert info.fps is not None
        # Half a frame early: the video's times are rounded.
        start = max(0.0, place.start - 0.5 / info.fps)
        frames = read_frames(job.source / place.video, start=start)
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            ticks = 0
            for frame in itertools.islice(frames, place.length):
                writer.append(
                    resize(frame, info.width, info.height), rows[ACTION][ticks] == 1, state[ticks]
                )
                ticks += 1
            if ticks < place.length:
                raise DataError(f"{place.video}: {ticks} of its {place.length} frames are there")
            times = rows["timestamp"][:, 0].astype(np.float64)
            writer.finish({SOURCE_EPISODE: name, "tasks": place.tasks}, timestamps=times)
    except (DataError, OSError) as error:
        return Converted(name, problem=str(error))
    return Converted(name, ticks, notes=tuple(notes))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises into a DataError that names the file."""
    pa: Any = require("pyarrow", "convert")
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} can't be read: {error}") from error
