"""Turns a Minari dataset, recorded from any Gymnasium environment, into one of ours.

    uv run -m gameplay_pipeline.minari MINARI OUT [--keys left,right,hit] [--fps 17]

Its observations must be an RGB image or a dictionary with one; the numbers beside it become the
state. Its actions must be buttons (MultiBinary, MultiDiscrete of twos) or a choice among some
(Discrete), each choice a button. What can't be carried over is named.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from gymnasium import spaces
from jaxtyping import Bool

from gameplay_pipeline import command
from gameplay_pipeline.conversion import (
    SOURCE,
    Done,
    EpisodeError,
    as_float32,
    check_places,
    require,
    run,
    size_of,
)
from gameplay_pipeline.environment import resize
from gameplay_pipeline.writer import DatasetInfo, EpisodeWriter, RecordError, ZarrFormat


@dataclasses.dataclass(frozen=True)
class FromMinari:
    """Turns a Minari dataset into one of ours; what is stopped goes on when repeated."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MINARI")]
    """The dataset's folder, the one that holds `data`."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The new dataset; one begun with the same settings is continued."""
    keys: str | None = None
    """Names of the buttons, with commas between; button_0, button_1, ... if not given."""
    camera: str | None = None
    """The observation that becomes the frames; needed where several are images."""
    fps: float | None = None
    """Ticks a second, which Minari does not know."""
    resolution: str | None = None
    """Size of the frames in pixels, WIDTHxHEIGHT, by an area filter; theirs if not given."""
    zarr_format: ZarrFormat = 3
    """3 (sharded), or 2 for readers that know no other."""
    workers: int | None = None
    """Episodes that are converted at the same time; the usable cores if not given."""


class Plan(NamedTuple):
    """Which part of an observation becomes what."""

    camera: str | None
    """Of the dictionary; None where the observation is the image."""
    state: dict[str, int]
    """The entries of the dictionary that become state, with their columns."""
    buttons: int
    is_choice: bool
    """Whether an action is the number of the one button that is pressed."""


def from_minari(job: FromMinari) -> int:
    """Converts the episodes that the dataset at `out` lacks.

    Returns:
        The number of episodes that were left out.

    Raises:
        RecordError: it is no such dataset, it can't be carried over, or the new one can't be
            written. Episodes that are complete by then are kept.
    """
    require("minari", "minari")
    check_places(job.source, job.out, "a Minari dataset")
    if job.fps is not None and not 0 < job.fps < float("inf"):
        raise RecordError(f"--fps is {job.fps:g}, but must be above zero")
    dataset = _open(job)
    plan = _plan(job, dataset)
    space = dataset.observation_space
    image = space if plan.camera is None else space[plan.camera]
    height, width, _ = image.shape
    if job.resolution is not None:
        width, height = size_of(job.resolution)
    keys = [f"button_{number}" for number in range(plan.buttons)]
    if job.keys is not None:
        keys = [name.strip() for name in job.keys.split(",")]
    if len(keys) != plan.buttons or len(set(keys)) != len(keys) or not all(keys):
        raise RecordError(f"--keys is {job.keys!r}, but must name {plan.buttons} buttons")
    info = DatasetInfo(
        keys=tuple(keys),
        attributes=tuple(
            name if columns == 1 else f"{name}_{column}"
            for name, columns in plan.state.items()
            for column in range(columns)
        ),
        height=height,
        width=width,
        fps=job.fps,
        color_order="RGB",
        resize="none" if image.shape[:2] == (height, width) else "area",
        source={"minari": str(dataset.id), "camera": plan.camera},
    )
    _say_what_is_lost(dataset, plan)
    names = [str(index) for index in dataset.episode_indices]
    do = functools.partial(_convert_episode, job, info, plan)
    return run(do, names, job.out, info, job.zarr_format, job.workers)


def _open(job: FromMinari) -> Any:
    """The dataset as minari gives it."""
    minari = require("minari", "minari")
    try:
        return minari.MinariDataset(job.source / "data")
    except Exception as error:  # whatever minari raises at damaged metadata
        raise RecordError(f"{job.source} can't be read as a Minari dataset: {error}") from error


def _plan(job: FromMinari, dataset: Any) -> Plan:
    """What becomes what, by the dataset's spaces."""
    space, action = dataset.observation_space, dataset.action_space
    entries: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {}
    cameras = [name for name, entry in entries.items() if _is_image(entry)]
    camera = job.camera if job.camera is not None or len(cameras) != 1 else cameras[0]
    if not (camera in cameras or (camera is None and _is_image(space))):
        raise RecordError(
            f"--camera is {job.camera}; the observations of {job.source} are {space}, of which "
            f"{', '.join(cameras) or 'nothing'} is an RGB image (uint8, height x width x 3)"
        )
    state = {
        name: math.prod(entry.shape or ())
        for name, entry in entries.items()
        if (isinstance(entry, spaces.Box) and len(entry.shape) < 2)
        or isinstance(entry, spaces.Discrete | spaces.MultiBinary)
    }
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return Plan(camera, state, int(action.n), True)
    if isinstance(action, spaces.MultiBinary) and len(action.shape) == 1:
        return Plan(camera, state, action.shape[0], False)
    if (
        isinstance(action, spaces.MultiDiscrete)
        and (action.nvec == 2).all()
        and action.nvec.ndim == 1
    ):
        return Plan(camera, state, len(action.nvec), False)
    raise RecordError(
        f"{job.source}: its actions are {action}; only buttons (MultiBinary, MultiDiscrete of "
        "twos, Discrete from 0) can be carried over"
    )


def _is_image(space: Any) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )


def _say_what_is_lost(dataset: Any, plan: Plan) -> None:
    lost = ["rewards, terminations, truncations, infos", "what was seen after the last action"]
    if isinstance(dataset.observation_space, spaces.Dict):
        kept = {plan.camera, *plan.state}
        if others := sorted(set(dataset.observation_space.spaces) - kept):
            lost.append(f"observations: {', '.join(others)}")
    for each in lost:
        print(f"not carried over: {each}", flush=True)
    if dataset.storage.jpeg_encoding:
        print("the frames are JPEG where Minari takes them for images: lossy", flush=True)


def _convert_episode(job: FromMinari, info: DatasetInfo, plan: Plan, item: tuple[str, int]) -> Done:
    """Writes one episode, if it can be."""
    name, number = item
    try:
        try:
            episode = _open(job)[int(name)]
        except Exception as error:  # whatever minari and HDF5 raise at damaged data
            raise EpisodeError(f"it can't be read: {error!r}") from error
        actions = _pressed(np.asarray(episode.actions), plan)
        seen = episode.observations
        frames = seen if plan.camera is None else seen[plan.camera]
        ticks = len(actions)
        tables = [np.asarray(seen[key]).reshape(len(seen[key]), -1) for key in plan.state]
        for what, table in zip(
            (plan.camera or "frames", *plan.state), (frames, *tables), strict=True
        ):
            if len(table) != ticks + 1:
                raise EpisodeError(f"{ticks} actions but {len(table)} {what}; should be one more")
        if ticks == 0:
            raise EpisodeError("it is empty")
        values = np.concatenate([np.zeros((ticks + 1, 0)), *tables], axis=1)[:ticks]
        if bad := np.flatnonzero(~np.isfinite(values).all(axis=0)).tolist():
            raise EpisodeError(f"its {info.attributes[bad[0]]} is not finite")
        state, notes = as_float32(values, info.attributes)
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for tick in range(ticks):
                writer.append(
                    resize(np.asarray(frames[tick]), info.width, info.height),
                    actions[tick],
                    state[tick],
                )
            writer.finish({SOURCE: name})
    except EpisodeError as error:
        return Done(name, problem=str(error))
    return Done(name, ticks, notes=tuple(notes))


def _pressed(actions: npt.NDArray[Any], plan: Plan) -> Bool[np.ndarray, "T A"]:
    """Buttons from whole numbers."""
    if plan.is_choice:
        return actions.reshape(-1, 1) == np.arange(plan.buttons)
    return actions.reshape(-1, plan.buttons) == 1


def main() -> int:
    """The command; returns the exit status."""
    job = tyro.cli(FromMinari, prog="gameplay_pipeline.minari")
    return command.run(lambda: from_minari(job), command.to_be_continued(job.out))


if __name__ == "__main__":
    sys.exit(main())
