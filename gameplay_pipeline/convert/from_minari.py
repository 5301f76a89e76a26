"""Imports Minari datasets."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from gymnasium import spaces
from jaxtyping import Bool

from gameplay_pipeline.convert.exporting import print_not_carried_over
from gameplay_pipeline.convert.importing import (
    SOURCE_EPISODE,
    Converted,
    Import,
    as_float32,
    check_paths,
    run,
    size_of,
)
from gameplay_pipeline.convert.minari_format import OURS, TIMES
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.optional import require
from gameplay_pipeline.store.checks import is_rate
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter


@dataclasses.dataclass(frozen=True)
class FromMinari(Import):
    """Converts a Minari dataset into one of this project; rerun the same command to resume."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MINARI")]
    """The dataset's folder, the one that contains `data`."""
    keys: str | None = None
    """Names of the buttons, separated by commas; by default those of a dataset that `to` wrote, or
    else button_0, button_1, ..."""
    camera: str | None = None
    """The observation that becomes the frames; needed if several are images."""
    fps: float | None = None
    """Ticks per second, which Minari does not know; by default what `to` wrote down."""


class Plan(NamedTuple):
    """Which part of an observation becomes what."""

    camera: str | None
    """Entry of the dictionary; None if the observation is the image."""
    state: dict[str, int]
    """Entries of the dictionary that become state, with their numbers of columns."""
    buttons: int
    is_choice: bool
    """Whether an action is the number of the one button that is pressed."""


def from_minari(job: FromMinari) -> int:
    """Converts the episodes that the dataset at `out` lacks.

    Returns:
        The number of episodes that were left out.

    Raises:
        UserError: the source is no Minari dataset, can't be carried over, or the new dataset can't
            be written. Episodes that are complete by then are kept.
    """
    require("minari", "minari")
    check_paths(job, "folder of a Minari dataset")
    if job.fps is not None and not is_rate(job.fps):
        raise UserError(f"--fps is {job.fps:g}, but must be above zero")
    dataset = _open(job)
    plan = _plan(job, dataset)
    ours = _our_attributes(job, dataset)
    space = dataset.observation_space
    image = space if plan.camera is None else space[plan.camera]
    height, width, _ = image.shape
    if job.resolution is not None:
        width, height = size_of(job.resolution)
    keys = ours.get("keys") or [f"button_{number}" for number in range(plan.buttons)]
    if job.keys is not None:
        keys = [name.strip() for name in job.keys.split(",")]
    if len(keys) != plan.buttons or len(set(keys)) != len(keys) or not all(keys):
        raise UserError(
            f"--keys must name {plan.buttons} buttons, each once; "
            f"{'it names' if job.keys else 'the dataset itself names'} {', '.join(keys)}"
        )
    columns = tuple(
        name if count == 1 else f"{name}_{column}"
        for name, count in plan.state.items()
        for column in range(count)
    )
    attributes = tuple(ours.get("attributes") or columns)
    if len(attributes) != len(columns):
        raise UserError(
            f"{job.source}: its metadata names {len(attributes)} attributes, but its state has "
            f"{len(columns)} columns"
        )
    info = DatasetInfo(
        keys=tuple(keys),
        attributes=attributes,
        height=height,
        width=width,
        fps=job.fps or ours.get("fps"),
        color_order="RGB",
        resize=ours.get("resize", "none") if image.shape[:2] == (height, width) else "area",
        source={
            "minari": str(dataset.id),
            "camera": plan.camera,
            **({"source": ours["source"]} if "source" in ours else {}),
        },
    )
    _name_what_is_lost(dataset, plan, bool(ours))
    names = [str(index) for index in dataset.episode_indices]
    return run(functools.partial(_convert_episode, job, info, plan), names, job, info)


def _open(job: FromMinari) -> Any:
    """Opens the dataset with minari."""
    minari = require("minari", "minari")
    try:
        return minari.MinariDataset(job.source / "data")
    except Exception as error:  # whatever minari raises at damaged metadata
        raise UserError(f"{job.source} can't be read as a Minari dataset: {error}") from error


def _our_attributes(job: FromMinari, dataset: Any) -> dict[str, Any]:
    """Returns the attributes that `to` stored; none if another program wrote the dataset."""
    ours = dataset.storage.metadata.get(OURS, {})
    try:
        names = [*(ours.get("keys") or []), *(ours.get("attributes") or [])]
        rates = [] if ours.get("fps") is None else [ours["fps"]]
        is_sound = all(isinstance(name, str) for name in names)
        is_sound = is_sound and all(0 < rate < math.inf for rate in rates)
    except (AttributeError, TypeError):  # JSON of any other shape
        is_sound = False
    if not is_sound:
        raise UserError(f"{job.source}: what its metadata has under {OURS!r} is damaged")
    return ours


def _plan(job: FromMinari, dataset: Any) -> Plan:
    """Decides by the dataset's spaces what becomes what."""
    space, action = dataset.observation_space, dataset.action_space
    entries: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {}
    cameras = [name for name, entry in entries.items() if _is_image(entry)]
    camera = job.camera if job.camera is not None or len(cameras) != 1 else cameras[0]
    if not (camera in cameras or (camera is None and _is_image(space))):
        raise UserError(
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
    raise UserError(
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


def _name_what_is_lost(dataset: Any, plan: Plan, is_ours: bool) -> None:
    lost = ["rewards, terminations, truncations, infos", "the observation after the last action"]
    if is_ours:  # those are made up; what is true in the infos is kept
        lost = [f"{SOURCE_EPISODE}, where episodes have one: it is now their number in Minari"]
    if isinstance(dataset.observation_space, spaces.Dict):
        kept = {plan.camera, *plan.state}
        if others := sorted(set(dataset.observation_space.spaces) - kept):
            lost.append(f"observations: {', '.join(others)}")
    print_not_carried_over(lost)
    if dataset.storage.jpeg_encoding:
        print("the frames, where Minari recognizes them as images, are JPEG: lossy", flush=True)


def _convert_episode(
    job: FromMinari, info: DatasetInfo, plan: Plan, item: tuple[str, int]
) -> Converted:
    """Writes one episode, if it can be."""
    name, number = item
    try:
        try:
            dataset = _open(job)
            episode = dataset[int(name)]
            (metadata,) = dataset.storage.get_episode_metadata([int(name)])
            attributes = dict(json.loads(metadata.get(OURS, "{}")))
            times = (episode.infos or {}).get(TIMES) if OURS in metadata else None
            times = None if times is None else np.asarray(times, np.float64)
        except Exception as error:  # whatever minari and HDF5 raise at damaged data
            raise DataError(f"it can't be read: {error!r}") from error
        actions = _pressed(np.asarray(episode.actions), plan)
        observed = episode.observations
        frames = observed if plan.camera is None else observed[plan.camera]
        ticks = len(actions)
        tables = [np.asarray(observed[k]).reshape(len(observed[k]), -1) for k in plan.state]
        for what, table in zip(
            (plan.camera or "frames", *plan.state), (frames, *tables), strict=True
        ):
            if len(table) != ticks + 1:
                raise DataError(f"{ticks} actions but {len(table)} {what}; should be one more")
        values = np.concatenate([np.zeros((ticks + 1, 0)), *tables], axis=1)[:ticks]
        state, notes = as_float32(values, info.attributes)
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for tick in range(ticks):
                writer.append(
                    resize(np.asarray(frames[tick]), info.width, info.height),
                    actions[tick],
                    state[tick],
                )
            if job.fps is not None:
                attributes.pop("fps", None)
            writer.finish(
                {**attributes, SOURCE_EPISODE: name},
                timestamps=None if times is None else times[:ticks],
            )
    except DataError as error:
        return Converted(name, problem=str(error))
    return Converted(name, ticks, notes=tuple(notes))


def _pressed(actions: npt.NDArray[Any], plan: Plan) -> Bool[np.ndarray, "T A"]:
    """Tells from Minari's actions which buttons are pressed."""
    if plan.is_choice:
        return actions.reshape(-1, 1) == np.arange(plan.buttons)
    return actions.reshape(-1, plan.buttons) == 1
