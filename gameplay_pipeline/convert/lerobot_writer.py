"""Writes LeRobot datasets, version 3."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gameplay_pipeline.convert.exporting import Source, Tables
from gameplay_pipeline.convert.lerobot_format import (
    ACTION,
    COUNTERS,
    DATA,
    EPISODES,
    INFO,
    SCREEN,
    STATE,
    STATS,
    TASKS,
    VIDEO,
)
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.plumbing.video import LOSSLESS, Encoding

FILES_IN_CHUNK = 1000

DATA_FILE_MB = 100
"""Size at which LeRobot starts another data file."""

Statistics = dict[str, npt.NDArray[Any]]
"""min, max, mean, std and count of a feature."""


class EncodedVideo(NamedTuple):
    """The video of an episode, or the reason why there is none."""

    episode: str
    frames: int
    pixels: Statistics
    """Statistics of the three channels, whose values are 0 to 1."""
    problem: str | None = None


class LeRobotWriter:
    """Writes the tables of a LeRobot dataset and moves the videos into it; a context manager."""

    def __init__(self, folder: Path, source: Source, task: str, fps: float, encoding: Encoding):
        """Begins the dataset in a folder.

        Args:
            folder: where it is written.
            source: where the episodes come from.
            task: what is done in all episodes, in words.
            fps: ticks per second.
            encoding: of the videos.
        """
        self._folder, self._source, self._task = folder, source, task
        self._fps, self._encoding = fps, encoding
        self._rows: list[dict[str, Any]] = []
        self._statistics: dict[str, list[Statistics]] = {}
        self._ticks = 0
        self._table_writer: Any = None
        self._data_file = self._data_bytes = 0

    def __enter__(self) -> "LeRobotWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
        elif self._table_writer is not None:
            self._table_writer.close()

    def add(self, video_file: Path, video: EncodedVideo, tables: Tables) -> None:
        """Adds the next episode; its video is moved into the dataset.

        Args:
            video_file: its frames.
            video: their number, and the statistics of their pixels.
            tables: its actions and state.
        """
        number, length = len(self._rows), video.frames
        ticks = np.arange(length)
        columns: dict[str, npt.NDArray[Any]] = {
            ACTION: tables.actions.astype(np.float32),
            **({} if tables.state is None else {STATE: tables.state}),
            "timestamp": (ticks / self._fps).astype(np.float32)[:, None],
            "frame_index": ticks[:, None],
            "episode_index": np.full((length, 1), number),
            "index": self._ticks + ticks[:, None],
            "task_index": np.zeros((length, 1), np.int64),
        }
        self._append(columns)
        path = self._folder / VIDEO.format(video_key=SCREEN, **_file_indices(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        video_file.rename(path)
        by_feature = {name: statistics(values) for name, values in columns.items()}
        by_feature[SCREEN] = {
            what: value if what == "count" else value.reshape(3, 1, 1)
            for what, value in video.pixels.items()
        }
        for name, values in by_feature.items():
            self._statistics.setdefault(name, []).append(values)
        self._rows.append(self._episode_row(number, length, by_feature))
        self._ticks += length

    def close(self) -> None:
        """Writes what describes the dataset as a whole."""
        pa: Any = require("pyarrow", "convert")
        pq: Any = require("pyarrow.parquet", "convert")
        self._table_writer.close()
        (self._folder / EPISODES).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._rows), self._folder / EPISODES)
        pq.write_table(_task_table(pa, self._task), self._folder / TASKS)
        overall = {
            name: {what: value.tolist() for what, value in combined(parts).items()}
            for name, parts in self._statistics.items()
        }
        (self._folder / STATS).write_text(json.dumps(overall, indent=4))
        (self._folder / INFO).write_text(json.dumps(self._info(), indent=4))

    def _append(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Appends an episode's rows to the data files, starting another file when one is full."""
        pa: Any = require("pyarrow", "convert")
        pq: Any = require("pyarrow.parquet", "convert")
        table = pa.table({name: _arrow(pa, values) for name, values in columns.items()})
        if self._data_bytes and self._data_bytes + table.nbytes > DATA_FILE_MB * 2**20:
            self._table_writer.close()
            self._table_writer, self._data_bytes = None, 0
            self._data_file += 1
        if self._table_writer is None:
            path = self._folder / DATA.format(**_file_indices(self._data_file))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table_writer = pq.ParquetWriter(path, table.schema)
        self._table_writer.write_table(table)
        self._data_bytes += table.nbytes

    def _episode_row(
        self, number: int, length: int, by_feature: dict[str, Statistics]
    ) -> dict[str, Any]:
        """Makes an episode's row of meta/episodes."""
        video = f"videos/{SCREEN}"
        return {
            "episode_index": number,
            "tasks": [self._task],
            "length": length,
            **{f"data/{key}": index for key, index in _file_indices(self._data_file).items()},
            "dataset_from_index": self._ticks,
            "dataset_to_index": self._ticks + length,
            **{f"{video}/{key}": index for key, index in _file_indices(number).items()},
            f"{video}/from_timestamp": 0.0,
            f"{video}/to_timestamp": length / self._fps,
            **{
                f"stats/{name}/{what}": value.tolist()
                for name, values in by_feature.items()
                for what, value in values.items()
            },
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }

    def _info(self) -> dict[str, Any]:
        """Makes the content of meta/info.json."""
        rate = int(self._fps) if self._fps == int(self._fps) else self._fps
        root = self._source.reader.attributes
        keys, attributes = root["keys"], root.get("attributes")
        features: dict[str, Any] = {
            SCREEN: _video_feature(self._source.size, rate, self._encoding),
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
            "total_episodes": len(self._rows),
            "total_frames": self._ticks,
            "total_tasks": 1,
            "chunks_size": FILES_IN_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": 200,
            "fps": rate,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": features,
        }


def _video_feature(size: tuple[int, int], rate: float, encoding: Encoding) -> dict[str, Any]:
    """Describes the frames as meta/info.json does."""
    height, width = size
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "gbrp" if encoding == LOSSLESS else encoding.pixels,
            "video.is_depth_map": False,
            "video.fps": rate,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def _file_indices(file: int) -> dict[str, int]:
    """Splits the number of a file into what LeRobot's paths are made of."""
    return {"chunk_index": file // FILES_IN_CHUNK, "file_index": file % FILES_IN_CHUNK}


def _arrow(pa: Any, values: npt.NDArray[Any]) -> Any:
    """Converts [N, F] to a column; a plain one if F is 1, as LeRobot wants it."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    width = values.shape[1]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _task_table(pa: Any, task: str) -> Any:
    """Makes the table of tasks, with what pandas needs to use them as its index."""
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


def statistics(values: npt.NDArray[Any]) -> Statistics:
    """Computes the statistics of each column of [N, F]."""
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0, dtype=np.float64),
        "std": values.std(axis=0, dtype=np.float64),
        "count": np.array([len(values)]),
    }


def combined(parts: Sequence[Statistics]) -> Statistics:
    """Computes the statistics of the whole from those of its parts."""
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
