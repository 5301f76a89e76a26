"""Imports LeRobot datasets, version 3.

Rows of the data and frames of the video belong together by their times, as LeRobot reads them: each
row gets the frame nearest to it, if that is within half a tick.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float64

from gameplay_pipeline.convert.alignment import listed_ranges, pair_frames
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
from gameplay_pipeline.store.checks import is_rate
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter


@dataclasses.dataclass(frozen=True)
class FromLeRobot(Import):
    """Converts a LeRobot dataset into one of this project; rerun the same command to resume."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LEROBOT")]
    """The folder that contains meta, data and videos."""
    camera: str | None = None
    """The feature that becomes the frames; needed if there are several cameras."""


CHANNELS = (1, 3, 4)
"""Numbers of channels by which the channel axis of a shape is recognized."""

MAX_COLUMNS = 10_000
"""Columns of actions or state above which the dataset must be damaged."""

MAX_LOST = 0.25
"""Share of an episode's rows without a frame above which the video can't be meant for it."""

LONGEST_S = 1e9
"""Seconds that no video has; a time above is damage."""

PLACEHOLDER = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
"""What LeRobot's templates of paths contain: {video_key}, {chunk_index:03d}."""


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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    version = meta.get("codebase_version") if isinstance(meta, dict) else None
    if not str(version).startswith("v3."):
        raise UserError(
            f"{path}: its codebase_version is {version}, but only v3 can be read; "
            "lerobot has a script that converts older ones"
        )
    if missing := {"features", "fps", "data_path", "video_path"} - set(meta):
        raise UserError(f"{path}: it lacks {', '.join(sorted(missing))}")
    if not is_rate(meta["fps"]):
        raise UserError(f"{path}: its fps is {meta['fps']!r}, not a rate above zero")
    features = meta["features"]
    if not isinstance(features, dict) or ACTION not in features:
        raise UserError(f"{path}: it has no feature {ACTION!r}")
    for name, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise UserError(f"{path}: the shape of the feature {name!r} is {shape!r}")
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
    """Returns height and width of a camera's frames, by the names of the axes or else the shape."""
    # The axes are called height, width, channels or by their first letters, in any order.
    shape, names = feature["shape"], feature.get("names")
    letters = [str(name)[:1] for name in names] if isinstance(names, list) else []
    if len(shape) == 3 and sorted(letters) == ["c", "h", "w"]:
        return shape[letters.index("h")], shape[letters.index("w")]
    if len(shape) == 3 and shape[2] in CHANNELS:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[0] in CHANNELS:
        return shape[1], shape[2]
    raise UserError(
        f"{job.source / INFO}: which axes of the camera are height and width? "
        f"Its shape is {shape}, its names are {names}"
    )


def _column_names(features: dict[str, Any], key: str) -> tuple[str, ...]:
    """Returns the names of a feature's columns, made up where it has none."""
    names, shape = features[key].get("names"), features[key]["shape"]
    if len(shape) != 1 or shape[0] > MAX_COLUMNS:
        raise UserError(f"the feature {key} has shape {shape}; only columns can be carried over")
    if isinstance(names, dict):  # such as {"motors": [...]}
        parts = [value if isinstance(value, list) else [value] for value in names.values()]
        names = list(itertools.chain.from_iterable(parts))
    names = [str(name) for name in names] if isinstance(names, list) else []
    if len(names) != shape[0] or len(set(names)) != shape[0]:
        return tuple(f"{key.rpartition('.')[2]}_{column}" for column in range(shape[0]))
    return tuple(names)


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
            start = row[f"{video}/from_timestamp"]
            if not isinstance(row["episode_index"], int) or not isinstance(row["length"], int):
                raise UserError(f"{file}: episode_index and length must be whole numbers")
            if not isinstance(start, int | float) or not 0 <= start < LONGEST_S:
                raise UserError(f"{file}: {video}/from_timestamp is {start}, not a time")
            yield Location(
                row["episode_index"],
                row["length"],
                _inside(job, "data_path", meta["data_path"], in_data),
                _inside(job, "video_path", meta["video_path"], {"video_key": camera, **in_video}),
                start,
                row["tasks"],
            )


def _inside(job: FromLeRobot, key: str, template: Any, values: dict[str, Any]) -> str:
    """Fills in a template of a path, which comes from the dataset and may not lead out of it.

    Raises:
        UserError: it is no such template, or leads elsewhere.
    """
    filled = PLACEHOLDER.sub(
        lambda match: f"{values.get(match[1], match[0])!s:0>{int(match[2] or 0)}}",
        template if isinstance(template, str) else "",
    )
    parts = re.split(r"[/\\]", filled)
    if "{" in filled or ".." in parts or not parts[0] or ":" in filled or "\0" in filled:
        raise UserError(
            f"{job.source / INFO}: its {key} is {template!r}, which does not name a file inside "
            "the dataset"
        )
    return filled


def _check_buttons(job: FromLeRobot, files: Sequence[str], keys: Sequence[str]) -> None:
    """Refuses actions that are not buttons, before anything is written."""
    for name in files:
        if not (job.source / name).exists():
            continue  # named when it is its episodes' turn
        action = _read_columns(job.source / name, {ACTION: len(keys)}, [])[ACTION]
        wrong = np.argwhere((action != 0) & (action != 1))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"{job.source}: the action {keys[column]} is {action[row, column]:g} in row {row} "
                f"of {name}; only buttons, 0 or 1, can be carried over"
            )


def _read_columns(
    path: Path, widths: dict[str, int], filters: list[Any]
) -> dict[str, Float64[np.ndarray, "N F"]]:
    """Reads columns of numbers from a parquet file.

    Args:
        path: the file.
        widths: how many numbers each column has in a row.
        filters: which rows, as pyarrow takes it.

    Raises:
        DataError: it can't be read, or a column contains something else.
    """
    pq: Any = require("pyarrow.parquet", "convert")
    with _naming(path):
        table = pq.read_table(path, columns=list(widths), filters=filters or None)
    columns = {}
    for name, width in widths.items():
        try:
            values = np.array(table[name].to_pylist(), np.float64)
            columns[name] = values.reshape(table.num_rows, width)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: its column {name} is not {width} numbers in each row: {error}"
            ) from error
    return columns


def _convert_episode(
    job: FromLeRobot, info: DatasetInfo, locations: dict[str, Location], item: tuple[str, int]
) -> Converted:
    """Writes one episode, if it can be."""
    name, number = item
    place = locations[name]
    try:
        rows = _read_rows(job, info, place)
        times, values = rows["timestamp"][:, 0], rows.get(STATE, np.zeros((place.length, 0)))
        state, notes = as_float32(values, info.attributes)
        assert info.fps is not None
        half_a_tick = 0.5 / info.fps
        start = max(0.0, place.start + times[0] - half_a_tick)
        frames = read_frames(job.source / place.video, start=start)
        kept, skipped = [], 0
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for row, image in pair_frames(place.start + times, frames, half_a_tick):
                if row is None:
                    skipped += 1
                    continue
                image = resize(image, info.width, info.height)
                writer.append(image, rows[ACTION][row] == 1, state[row])
                kept.append(row)
            lost = place.length - len(kept)
            if lost > MAX_LOST * place.length:
                raise DataError(
                    f"{place.video}: only {len(kept)} of its {place.length} rows have a frame "
                    "within half a tick"
                )
            writer.finish({SOURCE_EPISODE: name, "tasks": place.tasks}, timestamps=times[kept])
    except (DataError, OSError) as error:
        return Converted(name, problem=str(error))
    if lost:
        rows_lost = sorted(set(range(place.length)) - set(kept))
        notes.append(
            f"rows without a frame within half a tick were left out: {listed_ranges(rows_lost)}"
        )
    if skipped:
        notes.append(f"{skipped} frames of its video belong to no row and were left out")
    return Converted(name, len(kept), notes=tuple(notes))


def _read_rows(
    job: FromLeRobot, info: DatasetInfo, place: Location
) -> dict[str, Float64[np.ndarray, "N F"]]:
    """Reads an episode's rows.

    Raises:
        DataError: they can't be read, are not all there, or their times don't rise.
    """
    widths = {ACTION: len(info.keys), "frame_index": 1, "timestamp": 1}
    if info.attributes:
        widths[STATE] = len(info.attributes)
    rows = _read_columns(job.source / place.data, widths, [("episode_index", "=", place.number)])
    frame_index, times = rows["frame_index"][:, 0], rows["timestamp"][:, 0]
    length = len(frame_index)
    if length != place.length or not np.array_equal(frame_index, np.arange(length)):
        raise DataError(f"{place.data} does not contain its {place.length} frames in order")
    if length == 0:
        raise DataError("it is empty")
    if still := np.flatnonzero(~(np.diff(times) > 0)).tolist():
        raise DataError(f"{place.data}: the timestamp of its row {still[0] + 1} does not rise")
    if not (times[0] >= 0 and times[-1] < LONGEST_S):
        raise DataError(f"{place.data}: its timestamps go from {times[0]:g} to {times[-1]:g} s")
    return rows


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises into a DataError that names the file."""
    pa: Any = require("pyarrow", "convert")
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} can't be read: {error}") from error
