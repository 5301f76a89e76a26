"""Exports datasets of the project to Minari's format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gameplay_pipeline.convert.exporting import (
    Export,
    Source,
    find_entry,
    open_source,
    print_not_carried_over,
    read_rgb,
    read_tables,
    report,
    unfinished,
    writing,
)
from gameplay_pipeline.convert.importing import Converted
from gameplay_pipeline.convert.minari_format import FRAME, OURS, STATE, TIMES
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.plumbing.progress import track


@dataclasses.dataclass(frozen=True)
class ToMinari(Export):
    """Converts a dataset of this project into a Minari dataset; if stopped, it starts over."""


def to_minari(job: ToMinari) -> int:
    """Writes a Minari dataset.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: there is no such dataset, it can't be carried over, or the new one can't be
            written.
    """
    require("pyarrow", "minari")
    try:
        require("minari.dataset.minari_dataset", "minari").parse_dataset_id(job.out.name)
    except (ValueError, TypeError) as error:  # the latter where the version is missing
        raise UserError(
            f"{job.out}: Minari finds datasets by names with a version; call it "
            f"{job.out.name.partition('.')[0] or 'boss'}-v0"
        ) from error
    source = open_source(job)
    if not job.lossless:
        print_not_carried_over(["frames: JPEG is lossy; --lossless keeps every pixel"])
    print(
        "made up: rewards (0), terminations (none), truncations (at the end), the observation "
        "after the last action (the one before it)",
        flush=True,
    )
    with unfinished(job.out) as folder:
        storage = _new_storage(job, source, folder)
        exported = (_export_episode(job, source, storage, name) for name in source.names)
        results = list(
            track(exported, "Converting episodes", total=len(source.names),
                  frames_of=lambda result: result.frames)
        )  # fmt: skip
        left_out = {r.name: r.problem for r in results if r.problem is not None}
        kept = len(results) - len(left_out)
        if kept:
            with writing(folder):
                folder.rename(job.out)
    return report(job.out, kept, sum(result.frames for result in results), left_out)


def _new_storage(job: ToMinari, source: Source, folder: Path) -> Any:
    """Makes an empty Minari dataset."""
    storages = require("minari.dataset.minari_storage", "minari")
    root = source.reader.attributes
    height, width = source.size
    observed: dict[str, spaces.Space[Any]] = {
        FRAME: spaces.Box(0, 255, (height, width, 3), np.uint8)
    }
    if root.get("attributes"):
        observed[STATE] = spaces.Box(-np.inf, np.inf, (len(root["attributes"]),), np.float32)
    with writing(folder):
        storage = storages.MinariStorage.new(
            folder.resolve() / "data",  # Minari joins a relative path to itself
            observation_space=spaces.Dict(observed),
            action_space=spaces.MultiBinary(len(root["keys"])),
            # HDF5, Minari's default, dies of a full disk by a segmentation fault.
            data_format="arrow",
            jpeg_encoding=not job.lossless,
        )
        storage.update_metadata(
            {
                "dataset_id": job.out.name,
                "minari_version": require("minari", "minari").__version__,
                OURS: {**root, "color_order": "RGB"},
            }
        )
    return storage


def _export_episode(job: ToMinari, source: Source, storage: Any, name: str) -> Converted:
    """Adds one episode, if it is sound."""
    try:
        entry = find_entry(source.reader, name)
        actions, state = read_tables(entry, source.reader.attributes)
        ticks = len(actions)
        # Minari takes an episode as a whole.
        frames = np.empty((ticks + 1, *source.size, 3), np.uint8)
        at = 0
        for images in read_rgb(entry, source.color_order, source.size):
            frames[at : at + len(images)] = images
            at += len(images)
        frames[-1] = frames[-2]
        observed = {FRAME: frames, **({} if state is None else {STATE: _one_more(state)})}
        times = entry.arrays["timestamps"].read() if "timestamps" in entry.arrays else None
    except DataError as error:
        return Converted(name, problem=str(error))
    with writing(storage.data_path):
        number = storage.total_episodes
        storage.update_episodes(
            [
                require("minari.data_collector", "minari").EpisodeBuffer(
                    observations=observed,
                    actions=actions.astype(np.int8),
                    rewards=np.zeros(ticks),
                    terminations=np.zeros(ticks, bool),
                    truncations=np.arange(ticks) == ticks - 1,
                    # Minari can't read back what is an array of scalars.
                    infos=None if times is None else {TIMES: _one_more(times).tolist()},
                )
            ]
        )
        storage.update_episode_metadata([{OURS: json.dumps(entry.attributes)}], [number])
    return Converted(name, ticks)


def _one_more(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Repeats the last row, for the observation that Minari has after an episode's last action."""
    return np.concatenate([values, values[-1:]])
