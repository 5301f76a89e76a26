"""Minari datasets, recorded from any Gymnasium environment, from and to.

    uv run -m gameplay_pipeline.minari from MINARI OUT [--keys left,right,hit] [--fps 17]
    uv run -m gameplay_pipeline.minari to DATASET OUT [--lossless]

Observations must be an RGB image or a dictionary with one; the numbers beside it are the state.
Actions must be buttons (MultiBinary, MultiDiscrete of twos) or a choice among some (Discrete), each
choice a button. What one format knows and the other doesn't is named.
"""

import dataclasses
import functools
import json
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
    require,
    run,
    size_of,
)
from gameplay_pipeline.environments.adapter import resize
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter

FRAME, STATE, TIMES = "frame", "state", "timestamps"
"""What we write: two observations, and one of the infos."""

OURS = "project_ranni"
"""Key of Minari's metadata, of the dataset and of each episode, under which our attributes are."""


@dataclasses.dataclass(frozen=True)
class FromMinari(Import):
    """Turns a Minari dataset into one of ours; what is stopped goes on when repeated."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MINARI")]
    """The dataset's folder, the one that holds `data`."""
    keys: str | None = None
    """Names of the buttons, with commas between; if not given, those of a dataset that `to` wrote,
    else button_0, button_1, ..."""
    camera: str | None = None
    """The observation that becomes the frames; needed where several are images."""
    fps: float | None = None
    """Ticks a second, which Minari does not know; if not given, as `to` wrote them down."""


@dataclasses.dataclass(frozen=True)
class ToMinari(Export):
    """Turns one of our datasets into a Minari dataset; what is stopped begins anew."""


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
        UserError: it is no such dataset, it can't be carried over, or the new one can't be
            written. Episodes that are complete by then are kept.
    """
    require("minari", "minari")
    check_places(job, "a Minari dataset")
    if job.fps is not None and not 0 < job.fps < float("inf"):
        raise UserError(f"--fps is {job.fps:g}, but must be above zero")
    dataset = _open(job)
    plan = _plan(job, dataset)
    ours = dataset.storage.metadata.get(OURS, {})
    space = dataset.observation_space
    image = space if plan.camera is None else space[plan.camera]
    height, width, _ = image.shape
    if job.resolution is not None:
        width, height = size_of(job.resolution)
    keys = ours.get("keys") or [f"button_{number}" for number in range(plan.buttons)]
    if job.keys is not None:
        keys = [name.strip() for name in job.keys.split(",")]
    if len(keys) != plan.buttons or len(set(keys)) != len(keys) or not all(keys):
        raise UserError(f"--keys is {job.keys!r}, but must name {plan.buttons} buttons")
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
    _say_what_stays_behind(dataset, plan, bool(ours))
    names = [str(index) for index in dataset.episode_indices]
    do = functools.partial(_convert_episode, job, info, plan)
    return run(do, names, job, info)


def _open(job: FromMinari) -> Any:
    """The dataset as minari gives it."""
    minari = require("minari", "minari")
    try:
        return minari.MinariDataset(job.source / "data")
    except Exception as error:  # whatever minari raises at damaged metadata
        raise UserError(f"{job.source} can't be read as a Minari dataset: {error}") from error


def _plan(job: FromMinari, dataset: Any) -> Plan:
    """What becomes what, by the dataset's spaces."""
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


def _say_what_stays_behind(dataset: Any, plan: Plan, is_ours: bool) -> None:
    lost = ["rewards, terminations, truncations, infos", "what was seen after the last action"]
    if is_ours:  # those are not real; what is true in the infos is kept
        lost = [f"{SOURCE}, where episodes have one: it is now their number in Minari"]
    if isinstance(dataset.observation_space, spaces.Dict):
        kept = {plan.camera, *plan.state}
        if others := sorted(set(dataset.observation_space.spaces) - kept):
            lost.append(f"observations: {', '.join(others)}")
    say_what_is_lost(lost)
    if dataset.storage.jpeg_encoding:
        print("the frames are JPEG where Minari takes them for images: lossy", flush=True)


def _convert_episode(job: FromMinari, info: DatasetInfo, plan: Plan, item: tuple[str, int]) -> Done:
    """Writes one episode, if it can be."""
    name, number = item
    try:
        try:
            dataset = _open(job)
            episode = dataset[int(name)]
            (metadata,) = dataset.storage.get_episode_metadata([int(name)])
            own = json.loads(metadata.get(OURS, "{}"))
            times = (episode.infos or {}).get(TIMES) if OURS in metadata else None
        except Exception as error:  # whatever minari and HDF5 raise at damaged data
            raise DataError(f"it can't be read: {error!r}") from error
        actions = _pressed(np.asarray(episode.actions), plan)
        seen = episode.observations
        frames = seen if plan.camera is None else seen[plan.camera]
        ticks = len(actions)
        tables = [np.asarray(seen[key]).reshape(len(seen[key]), -1) for key in plan.state]
        for what, table in zip(
            (plan.camera or "frames", *plan.state), (frames, *tables), strict=True
        ):
            if len(table) != ticks + 1:
                raise DataError(f"{ticks} actions but {len(table)} {what}; should be one more")
        if ticks == 0:
            raise DataError("it is empty")
        values = np.concatenate([np.zeros((ticks + 1, 0)), *tables], axis=1)[:ticks]
        if bad := np.flatnonzero(~np.isfinite(values).all(axis=0)).tolist():
            raise DataError(f"its {info.attributes[bad[0]]} is not finite")
        state, notes = as_float32(values, info.attributes)
        with EpisodeWriter(job.out, number, info, job.zarr_format) as writer:
            for tick in range(ticks):
                writer.append(
                    resize(np.asarray(frames[tick]), info.width, info.height),
                    actions[tick],
                    state[tick],
                )
            writer.finish(
                {**own, SOURCE: name}, timestamps=None if times is None else times[:ticks]
            )
    except DataError as error:
        return Done(name, problem=str(error))
    return Done(name, ticks, notes=tuple(notes))


def _pressed(actions: npt.NDArray[Any], plan: Plan) -> Bool[np.ndarray, "T A"]:
    """Buttons from whole numbers."""
    if plan.is_choice:
        return actions.reshape(-1, 1) == np.arange(plan.buttons)
    return actions.reshape(-1, plan.buttons) == 1


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
        say_what_is_lost(["frames: JPEG is lossy; --lossless keeps every pixel"])
    print(
        "made up: rewards (0), terminations (none), truncations (at the end), what was seen after "
        "the last action (what was seen before it)",
        flush=True,
    )
    with unfinished(job.out) as folder:
        storage = _new_storage(job, source, folder)
        exported = (_export_episode(job, source, storage, name) for name in source.names)
        done = list(
            track(exported, "converting", total=len(source.names), pending=len(source.names),
                  frames_of=lambda each: each.frames)
        )  # fmt: skip
        left_out = {each.name: each.problem for each in done if each.problem is not None}
        kept = len(done) - len(left_out)
        if kept:
            with writing(folder):
                folder.rename(job.out)
    return report(job.out, kept, sum(each.frames for each in done), left_out)


def _new_storage(job: ToMinari, source: Opened, folder: Path) -> Any:
    """An empty Minari dataset."""
    storages = require("minari.dataset.minari_storage", "minari")
    root = source.reader.attributes
    height, width = source.size
    seen: dict[str, spaces.Space[Any]] = {FRAME: spaces.Box(0, 255, (height, width, 3), np.uint8)}
    if root.get("attributes"):
        seen[STATE] = spaces.Box(-np.inf, np.inf, (len(root["attributes"]),), np.float32)
    with writing(folder):
        storage = storages.MinariStorage.new(
            folder.resolve() / "data",  # Minari joins a relative path to itself
            observation_space=spaces.Dict(seen),
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


def _export_episode(job: ToMinari, source: Opened, storage: Any, name: str) -> Done:
    """Adds one episode, if it is sound."""
    try:
        entry = find_entry(source.reader, name)
        actions, state = read_tables(entry, source.reader.attributes)
        ticks = len(actions)
        # Minari takes an episode as a whole.
        frames = np.empty((ticks + 1, *source.size, 3), np.uint8)
        at = 0
        for block in read_rgb(entry, source.color_order, source.size):
            frames[at : at + len(block)] = block
            at += len(block)
        frames[-1] = frames[-2]
        seen = {FRAME: frames} if state is None else {FRAME: frames, STATE: _one_more(state)}
        times = entry.arrays["timestamps"].read() if "timestamps" in entry.arrays else None
    except DataError as error:
        return Done(name, problem=str(error))
    with writing(storage.data_path):
        number = storage.total_episodes
        storage.update_episodes(
            [
                require("minari.data_collector", "minari").EpisodeBuffer(
                    observations=seen,
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
    return Done(name, ticks)


def _one_more(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """With the last row again: an episode of Minari's ends with what was seen after the last
    action."""
    return np.concatenate([values, values[-1:]])


def main() -> int:
    """The command; returns the exit status."""
    job: FromMinari | ToMinari = tyro.cli(
        Annotated[FromMinari, tyro.conf.subcommand("from")]
        | Annotated[ToMinari, tyro.conf.subcommand("to")],  # pyright: ignore[reportArgumentType]
        prog="gameplay_pipeline.minari",
    )
    if isinstance(job, FromMinari):
        return command.run(lambda: from_minari(job), command.to_be_continued(job.out))
    return command.run(lambda: to_minari(job), command.BEGINS_ANEW)


if __name__ == "__main__":
    sys.exit(main())
