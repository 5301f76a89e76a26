"""LeRobot datasets (version 3: parquet and mp4), from and to.

    uv run -m gameplay_pipeline.lerobot from LEROBOT OUT [--camera observation.images.screen]
    uv run -m gameplay_pipeline.lerobot to DATASET OUT [--lossless]

Buttons are the feature `action`, 0 or 1 each; the game's state is `observation.state`; the screen
is `observation.images.screen`. What one format knows and the other doesn't is named.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro

from gameplay_pipeline.convert.exporting import (
    Export,
    Opened,
    find_entry,
    open_source,
    read_rgb,
    read_tables,
    report,
    say_what_is_lost,
    unfinished,
    writing,
)
from gameplay_pipeline.convert.importing import (
    SOURCE,
    Done,
    Import,
    as_float32,
    check_places,
    check_workers,
    require,
    run,
    size_of,
)
from gameplay_pipeline.convert.video import LOSSLESS, LOSSY, VideoWriter
from gameplay_pipeline.convert.video import read_frames as read_video
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.workers import in_processes
from gameplay_pipeline.store.reader import Reader
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, partial_folder

SCREEN, STATE, ACTION = "observation.images.screen", "observation.state", "action"

INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"

FILES_IN_CHUNK = 1000
DATA_FILE_MB = 100
"""Size from which LeRobot begins another file of data."""

COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Features that every LeRobot dataset has."""

SAMPLED = 100
"""Frames of an episode, at least, from which the statistics of its pixels are taken."""

Statistics = dict[str, npt.NDArray[Any]]
"""min, max, mean, std and count of a feature."""


@dataclasses.dataclass(frozen=True)
class FromLeRobot(Import):
    """Turns a LeRobot dataset into one of ours; what is stopped goes on when repeated."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LEROBOT")]
    """The folder that holds meta, data and videos."""
    camera: str | None = None
    """The feature that becomes the frames; needed where there are several cameras."""


@dataclasses.dataclass(frozen=True)
class ToLeRobot(Export):
    """Turns one of our datasets into a LeRobot dataset; what is stopped begins anew."""

    task: str = "Defeat the boss."
    """What is being done, in words, for models that are told."""
    fps: float | None = None
    """Ticks a second, where the dataset does not say."""
    workers: int | None = None
    """Episodes that are converted at the same time; the usable cores if not given."""


class Part(NamedTuple):
    """An episode of a LeRobot dataset: where it is."""

    number: int
    length: int
    data: str
    """Path of its parquet file."""
    video: str
    start: float
    """Seconds into the video at which it begins."""
    tasks: list[str]


class Encoded(NamedTuple):
    """An episode whose video is written."""

    name: str
    frames: int
    pixels: Statistics
    problem: str | None = None
    """Why it was left out."""


def from_lerobot(job: FromLeRobot) -> int:
    """Converts the episodes that the dataset at `out` lacks.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: it is no such dataset, its actions are no buttons, or the new one can't be
            written. Episodes that are complete by then are kept.
    """
    require("av", "convert")
    check_places(job, "a LeRobot dataset")
    meta = _read_json(job.source / INFO)
    features = meta.get("features")
    version = str(meta.get("codebase_version"))
    if not version.startswith("v3.") or not isinstance(features, dict):
        raise UserError(
            f"{job.source / INFO}: its codebase_version is {version}, but only v3 can be read; "
            "lerobot has a script that converts older ones"
        )
    if missing := {"fps", "data_path", "video_path"} - set(meta):
        raise UserError(f"{job.source / INFO}: it lacks {', '.join(sorted(missing))}")
    if not isinstance(meta["fps"], int | float) or not 0 < meta["fps"] < float("inf"):
        raise UserError(f"{job.source / INFO}: its fps is {meta['fps']!r}, not a rate above zero")
    camera = _camera(job, features)
    height, width = _frame_size(job, features[camera])
    theirs = (height, width)
    if job.resolution is not None:
        width, height = size_of(job.resolution)
    if ACTION not in features:
        raise UserError(f"{job.source / INFO}: it has no feature {ACTION!r}")
    info = DatasetInfo(
        keys=_names(features, ACTION),
        attributes=_names(features, STATE) if STATE in features else (),
        height=height,
        width=width,
        fps=float(meta["fps"]),
        color_order="RGB",
        resize="area" if (height, width) != theirs else "unknown",
        source={"lerobot": job.source.name, "camera": camera, "robot": meta.get("robot_type")},
    )
    parts = {str(part.number): part for part in _parts(job, meta, camera)}
    _check_buttons(job, sorted({part.data for part in parts.values()}), info.keys)
    others = sorted(set(features) - {camera, ACTION, STATE, *COUNTERS})
    if others:
        print(f"not carried over: {', '.join(others)}", flush=True)
    do = functools.partial(_from_episode, job, info, parts)
    return run(do, list(parts), job, info)


def _camera(job: FromLeRobot, features: dict[str, Any]) -> str:
    """The feature that becomes the frames."""
    cameras = [name for name, each in features.items() if each.get("dtype") in ("video", "image")]
    if job.camera is None and len(cameras) == 1:
        camera = cameras[0]
    elif job.camera in cameras:
        camera = job.camera
    else:
        raise UserError(
            f"--camera is {job.camera}; {job.source} has the cameras {', '.join(cameras) or 'none'}"
        )
    if features[camera]["dtype"] != "video":
        raise UserError(f"{job.source}: {camera} is stored as images; only videos can be read")
    return camera


def _frame_size(job: FromLeRobot, feature: dict[str, Any]) -> tuple[int, int]:
    """Height and width."""
    # Names are height, width, channels or their first letters, in any order.
    letters = [str(name)[:1] for name in feature.get("names") or ()]
    if sorted(letters) != ["c", "h", "w"]:
        raise UserError(f"{job.source / INFO}: which axes of the camera are height and width?")
    return feature["shape"][letters.index("h")], feature["shape"][letters.index("w")]


def _names(features: dict[str, Any], key: str) -> tuple[str, ...]:
    """Names of a feature's columns."""
    names, shape = features[key].get("names"), features[key]["shape"]
    if isinstance(names, dict):
        names = list(itertools.chain.from_iterable(names.values()))
    if len(shape) != 1:
        raise UserError(f"the feature {key} has shape {shape}; only columns can be carried over")
    if not names or len(names) != shape[0] or len(set(names)) != shape[0]:
        return tuple(f"{key.rpartition('.')[2]}_{column}" for column in range(shape[0]))
    return tuple(map(str, names))


def _parts(job: FromLeRobot, meta: dict[str, Any], camera: str) -> Iterator[Part]:
    """The episodes, in order."""
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
        with _reading(file):
            rows = pq.read_table(file, columns=columns).to_pylist()
        for row in rows:
            data = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
            film = {name: row[f"{video}/{name}"] for name in ("chunk_index", "file_index")}
            yield Part(
                row["episode_index"],
                row["length"],
                meta["data_path"].format(**data),
                meta["video_path"].format(video_key=camera, **film),
                row[f"{video}/from_timestamp"],
                row["tasks"],
            )


def _check_buttons(job: FromLeRobot, files: Sequence[str], keys: Sequence[str]) -> None:
    """Refuses actions that are no buttons, before anything is written."""
    for name in files:
        if not (job.source / name).exists():
            continue  # named when it is its episodes' turn
        action = _columns(job.source / name, [ACTION], [])[ACTION]
        wrong = np.argwhere((action != 0) & (action != 1))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"{job.source}: the action {keys[column]} is {action[row, column]:g} in row {row} "
                f"of {name}; only buttons, 0 or 1, can be carried over"
            )


def _columns(path: Path, names: Sequence[str], filters: list[Any]) -> Any:
    """Columns of a parquet file, [N, F] each."""
    pq: Any = require("pyarrow.parquet", "convert")
    with _reading(path):
        table = pq.read_table(path, columns=list(names), filters=filters or None)
        return {
            name: np.array(table[name].to_pylist()).reshape(table.num_rows, -1) for name in names
        }


def _from_episode(
    job: FromLeRobot, info: DatasetInfo, parts: dict[str, Part], item: tuple[str, int]
) -> Done:
    """Writes one episode, if it can be."""
    name, number = item
    part = parts[name]
    video = job.source / part.video
    try:
        state_columns = [STATE] if info.attributes else []
        wanted = [ACTION, "frame_index", "timestamp", *state_columns]
        table = _columns(job.source / part.data, wanted, [("episode_index", "=", part.number)])
        if not np.array_equal(table["frame_index"][:, 0], np.arange(part.length)):
            raise DataError(f"{part.data} does not hold its {part.length} frames in order")
        values = table[STATE] if info.attributes else np.zeros((part.length, 0))
        state, notes = as_float32(values, info.attributes)
        assert info.fps is not None
        # Half a frame early: the video's times are rounded.
        frames = read_video(video, start=max(0.0, part.start - 0.5 / info.fps))
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            ticks = 0
            for frame in itertools.islice(frames, part.length):
                writer.append(
                    resize(frame, info.width, info.height), table[ACTION][ticks] == 1, state[ticks]
                )
                ticks += 1
            if ticks < part.length:
                raise DataError(f"{part.video}: {ticks} of its {part.length} frames are there")
            attributes = {SOURCE: name, "tasks": part.tasks}
            times = table["timestamp"][:, 0].astype(np.float64)
            writer.finish(attributes, timestamps=times)
    except (DataError, OSError) as error:
        return Done(name, problem=str(error))
    return Done(name, ticks, notes=tuple(notes))


def to_lerobot(job: ToLeRobot) -> int:
    """Writes a LeRobot dataset.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: there is no such dataset, it can't be carried over, or the new one can't be
            written.
    """
    require("av", "convert")
    check_workers(job.workers)
    source = open_source(job)
    fps = _rate(job, source)
    height, width = source.size
    if not job.lossless and (height % 2 or width % 2):
        raise UserError(
            f"{job.source}: its frames are {width}x{height}, but a lossy video needs even sizes; "
            "repack it with --resolution, or give --lossless"
        )
    _say_what_is_lost(job, source, fps)
    names = source.names
    do = functools.partial(_encode, job, fps, source.color_order, source.size)
    with unfinished(job.out) as folder:
        with contextlib.closing(in_processes(do, names, job.workers)) as results:
            done = list(
                track(results, "converting", total=len(names), pending=len(names),
                      frames_of=lambda each: each.frames)
            )  # fmt: skip
        done.sort(key=lambda each: names.index(each.name))
        kept = [each for each in done if each.problem is None]
        if kept:
            with writing(folder):
                _write_tables(job, folder, source, kept, fps)
                folder.rename(job.out)
    left_out = {each.name: each.problem for each in done if each.problem is not None}
    return report(job.out, len(kept), sum(each.frames for each in kept), left_out)


def _rate(job: ToLeRobot, source: Opened) -> float:
    """Ticks a second."""
    attributes = [each.attributes for each in source.entries.values()]
    rates = [each["fps"] for each in attributes if "fps" in each]
    said = source.reader.attributes.get("fps")
    fps = job.fps or said or (float(np.median(rates)) if rates else None)
    if not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise UserError(f"{job.source}: its fps is {fps}; give --fps, the ticks a second")
    return fps


def _say_what_is_lost(job: ToLeRobot, source: Opened, fps: float) -> None:
    entries = source.entries.values()
    lost = []
    if not job.lossless:
        lost.append("frames: the video is lossy (H.264, crf 18); --lossless keeps every pixel")
    if any("timestamps" in each.arrays for each in entries):
        lost.append(f"timestamps: LeRobot's frames are a constant 1/{fps:g} s apart")
    own = {key for each in entries for key in each.attributes}
    if own := own - {"fps", "frame_count"}:
        lost.append(f"attributes of the episodes: {', '.join(sorted(own))}")
    root = set(source.reader.attributes)
    if root := root - {"keys", "attributes", "fps", "color_order", "resolution", "version"}:
        lost.append(f"attributes of the dataset: {', '.join(sorted(root))}")
    lost.append("quantiles of the statistics: lerobot has a script that adds them")
    say_what_is_lost(lost)


def _encode(job: ToLeRobot, fps: float, color: str, size: tuple[int, int], name: str) -> Encoded:
    """Writes the video of one episode, if it is sound."""
    try:
        reader = Reader(job.source)
        entry = find_entry(reader, name)
        length = len(read_tables(entry, reader.attributes).actions)
        pixels, tick = [], 0
        encoding = LOSSLESS if job.lossless else LOSSY
        path = _encoded(job, name)
        with writing(path), VideoWriter(path, (size[1], size[0]), fps, encoding) as writer:
            for frame in itertools.chain.from_iterable(read_rgb(entry, color, size)):
                writer.append(frame, round(tick * 1e6 / fps))
                if tick % max(1, length // SAMPLED) == 0:
                    pixels.append(_statistics(frame.reshape(-1, 3) / 255))
                tick += 1
        return Encoded(name, length, {**_combined(pixels), "count": np.array([len(pixels)])})
    except DataError as error:
        return Encoded(name, 0, {}, str(error))


def _encoded(job: ToLeRobot, name: str) -> Path:
    """Where an episode's video waits until it is known which number it has."""
    return partial_folder(job.out) / f"{name}.mp4"


def _write_tables(
    job: ToLeRobot,
    folder: Path,
    source: Opened,
    episodes: Sequence[Encoded],
    fps: float,
) -> None:
    """Writes all but the videos, and puts these in their places."""
    pa: Any = require("pyarrow", "convert")
    pq: Any = require("pyarrow.parquet", "convert")
    rows: list[dict[str, Any]] = []
    statistics: dict[str, list[Statistics]] = {}
    start, data_file, written = 0, 0, 0
    writer: Any = None
    try:
        for number, episode in enumerate(episodes):
            ticks = np.arange(episode.frames)
            actions, state = read_tables(source.entries[episode.name], source.reader.attributes)
            columns: dict[str, npt.NDArray[Any]] = {
                ACTION: actions.astype(np.float32),
                **({} if state is None else {STATE: state}),
                "timestamp": (ticks / fps).astype(np.float32)[:, None],
                "frame_index": ticks[:, None],
                "episode_index": np.full((episode.frames, 1), number),
                "index": start + ticks[:, None],
                "task_index": np.zeros((episode.frames, 1), np.int64),
            }
            table = pa.table({name: _arrow(pa, values) for name, values in columns.items()})
            if writer is not None and written + table.nbytes > DATA_FILE_MB * 2**20:
                writer.close()
                writer, data_file, written = None, data_file + 1, 0
            if writer is None:
                path = folder / DATA.format(**_place(data_file))
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            written += table.nbytes
            video = folder / VIDEO.format(video_key=SCREEN, **_place(number))
            video.parent.mkdir(parents=True, exist_ok=True)
            _encoded(job, episode.name).rename(video)
            own = {name: _statistics(values) for name, values in columns.items()}
            own[SCREEN] = {
                what: value if what == "count" else value.reshape(3, 1, 1)
                for what, value in episode.pixels.items()
            }
            for name, each in own.items():
                statistics.setdefault(name, []).append(each)
            rows.append(
                {
                    "episode_index": number,
                    "tasks": [job.task],
                    "length": episode.frames,
                    **{f"data/{key}": value for key, value in _place(data_file).items()},
                    "dataset_from_index": start,
                    "dataset_to_index": start + episode.frames,
                    **{f"videos/{SCREEN}/{key}": v for key, v in _place(number).items()},
                    f"videos/{SCREEN}/from_timestamp": 0.0,
                    f"videos/{SCREEN}/to_timestamp": episode.frames / fps,
                    **{
                        f"stats/{name}/{what}": value.tolist()
                        for name, each in own.items()
                        for what, value in each.items()
                    },
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                }
            )
            start += episode.frames
    finally:
        if writer is not None:
            writer.close()
    (folder / EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / EPISODES)
    pq.write_table(_task_table(pa, job.task), folder / TASKS)
    overall = {
        name: {what: value.tolist() for what, value in _combined(each).items()}
        for name, each in statistics.items()
    }
    (folder / STATS).write_text(json.dumps(overall, indent=4))
    info = _info(job, source, len(episodes), start, fps)
    (folder / INFO).write_text(json.dumps(info, indent=4))


def _place(file: int) -> dict[str, int]:
    return {"chunk_index": file // FILES_IN_CHUNK, "file_index": file % FILES_IN_CHUNK}


def _arrow(pa: Any, values: npt.NDArray[Any]) -> Any:
    """A column: plain where it has one value a row, as LeRobot wants it."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    width = values.shape[1]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _task_table(pa: Any, task: str) -> Any:
    """The tasks, with what pandas needs to make them the index."""
    index = "__index_level_0__"
    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy,
             "metadata": None}
            for name, field, kind, numpy in (
                ("task_index", "task_index", "int64", "int64"),
                (None, index, "unicode", "object"),
            )
        ],
    }  # fmt: skip
    table = pa.table({"task_index": pa.array([0], pa.int64()), index: [task]})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _statistics(values: npt.NDArray[Any]) -> Statistics:
    """Of each column of [N, F]."""
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0, dtype=np.float64),
        "std": values.std(axis=0, dtype=np.float64),
        "count": np.array([len(values)]),
    }


def _combined(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of all that parts are the statistics of."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    shares = counts / counts.sum()
    mean = np.tensordot(shares, np.stack([part["mean"] for part in parts]), 1)
    squares = np.stack([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.tensordot(shares, squares, 1)),
        "count": np.array([int(counts.sum())]),
    }


def _info(
    job: ToLeRobot,
    source: Opened,
    episodes: int,
    frames: int,
    fps: float,
) -> dict[str, Any]:
    """What meta/info.json says."""
    height, width = source.size
    encoding = LOSSLESS if job.lossless else LOSSY
    rate = int(fps) if fps == int(fps) else fps
    root = source.reader.attributes
    keys, attributes = root["keys"], root.get("attributes")
    features: dict[str, Any] = {
        SCREEN: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "gbrp" if job.lossless else encoding.pixels,
                "video.is_depth_map": False,
                "video.fps": rate,
                "video.channels": 3,
                "has_audio": False,
            },
        },
        ACTION: {"dtype": "float32", "shape": [len(keys)], "names": keys},
    }
    if attributes:
        features[STATE] = {"dtype": "float32", "shape": [len(attributes)], "names": attributes}
    for name in COUNTERS:
        kind = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_IN_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": 200,
        "fps": rate,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": VIDEO,
        "features": features,
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says which parquet file it was."""
    pa: Any = require("pyarrow", "convert")
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} can't be read: {error}") from error


def main() -> int:
    """The command; returns the exit status."""
    job: FromLeRobot | ToLeRobot = tyro.cli(
        Annotated[FromLeRobot, tyro.conf.subcommand("from")]
        | Annotated[ToLeRobot, tyro.conf.subcommand("to")],  # pyright: ignore[reportArgumentType]
        prog="gameplay_pipeline.lerobot",
    )
    if isinstance(job, FromLeRobot):
        return command.run(lambda: from_lerobot(job), command.to_be_continued(job.out))
    return command.run(lambda: to_lerobot(job), command.BEGINS_ANEW)


if __name__ == "__main__":
    sys.exit(main())
