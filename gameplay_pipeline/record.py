"""Records a Gymnasium environment, played by a policy, as a dataset.

    uv run -m gameplay_pipeline.record --env boss_arena:BossArena-v0 --policy expert \\
        --episodes 100 --resolution 512x288 --out dataset/boss_arena.zarr

Frame and state t are what the policy saw when it chose action t; what follows the last action is
not stored. Episode i depends on `seed + i` alone, not on the workers or on interruptions: a run
that is stopped continues when repeated, and gives what it would have given.

An environment needs a MultiBinary action space and observations that are an RGB image or a
dictionary with one as `frame`. What it may offer besides: scalar entries in that dictionary (the
state); `action_names`, `attribute_names`, `color_order`, `resize_method`; `make_expert(seed)`,
giving an object with `reset()` and `act(observation)`; `metadata["render_fps"]`; arguments `width`
and `height`, without which frames are resized.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import tyro
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from rich.console import Console
from rich.table import Table

from gameplay_pipeline.progress import track
from gameplay_pipeline.workers import in_processes
from gameplay_pipeline.writer import (
    DatasetInfo,
    EpisodeWriter,
    RecordError,
    ZarrFormat,
    discard_partial,
    episode_attributes,
    open_dataset,
    size_on_disk,
)

PolicyName = Literal["expert", "random"]

LISTED = 10
"""Failed episodes that a message names."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Records a Gymnasium environment, played by a policy, as a dataset."""

    out: Path
    """The dataset; one recorded with the same settings is continued."""
    env: str = "boss_arena:BossArena-v0"
    """Gymnasium id, with the module that registers it."""
    policy: PolicyName = "expert"
    """The environment's own expert, or random buttons."""
    episodes: int = 100
    """Episodes that the dataset shall have."""
    resolution: str = "512x288"
    """Size of the frames in pixels, WIDTHxHEIGHT."""
    seed: int = 0
    """Episode i is played with this plus i."""
    zarr_format: ZarrFormat = 3
    """3 (sharded), or 2 for readers that know no other."""
    workers: int | None = None
    """Processes that record at the same time; the usable cores if not given."""

    def __post_init__(self) -> None:
        """Refuses what can't be recorded with a ValueError."""
        for name, least in (("episodes", 1), ("seed", 0), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be {least} or more")
        if re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.resolution) is None:
            raise ValueError(
                f"resolution is {self.resolution!r}, but must be WIDTHxHEIGHT, such as 512x288"
            )
        if not self.out.name:
            raise ValueError(f"out is {str(self.out)!r}, but must name the dataset to be made")
        for name, known in (("policy", PolicyName), ("zarr_format", ZarrFormat)):
            if getattr(self, name) not in get_args(known):
                choices = " or ".join(map(str, get_args(known)))
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {choices}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        width, height = self.resolution.split("x")
        return int(width), int(height)


class Summary(NamedTuple):
    """What a dataset holds after recording."""

    episodes: int
    frames: int
    seconds: float | None
    """Of play; None where the environment doesn't say how many ticks a second has."""
    size: int
    """Bytes on disk."""
    frames_per_second: float | None
    """Recorded by this run; None where nothing was left to record."""
    won: int | None
    """Episodes with the outcome "won"; None where no episode has an outcome."""


class Failure(NamedTuple):
    """An episode that was not written because the environment or the policy raised."""

    number: int
    reason: str


class Policy(Protocol):
    """What plays an episode."""

    def reset(self) -> None: ...

    def act(self, observation: Any) -> npt.NDArray[np.int8]: ...


def record(
    env: str,
    policy: str,
    episodes: int,
    resolution: str,
    out: Path,
    seed: int = 0,
    zarr_format: ZarrFormat = 3,
    workers: int | None = None,
) -> None:
    """Records the episodes that the dataset at `out` lacks; the arguments are `Recording`'s.

    Shows its progress, and at the end what the dataset holds. An episode in which the environment
    or the policy fails is not written; the others are recorded all the same.

    Raises:
        RecordError: an argument is no good, the environment can't be made, doesn't fit or failed,
            the dataset at `out` was recorded with other settings, or it can't be written. Episodes
            that are complete by then are kept.
        KeyboardInterrupt: likewise.
    """
    try:
        recording = Recording(
            out, env, cast(PolicyName, policy), episodes, resolution, seed, zarr_format, workers
        )
    except ValueError as error:
        raise RecordError(str(error)) from error
    _record(recording)


def _record(recording: Recording) -> None:
    info = _inspect(recording)
    done = open_dataset(recording.out, info, recording.zarr_format)
    pending = [number for number in range(recording.episodes) if number not in done]
    if done:
        print(
            f"{recording.out}: {recording.episodes - len(pending)} of {recording.episodes} "
            f"episodes are recorded already, {len(pending) or 'none'} left",
            flush=True,
        )
    began = time.monotonic()
    frames = 0
    failures: list[Failure] = []
    play = functools.partial(_record_episode, recording, info)
    results = in_processes(play, pending, recording.workers)
    try:
        # Closed before anything is discarded: until then its processes write.
        with contextlib.closing(results):
            for result in track(
                results,
                "recording",
                total=recording.episodes,
                pending=len(pending),
                frames_of=lambda result: 0 if isinstance(result, Failure) else result,
            ):
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    frames += result
    finally:
        discard_partial(recording.out)
    speed = frames / (time.monotonic() - began) if pending else None
    print(f"{recording.out}:")
    Console(highlight=False).print(_table(_summarise(recording.out, info, speed)))
    if failures:
        failures.sort()
        raise RecordError(
            f"{recording.env} failed in {len(failures)} of {len(pending)} episodes, "
            f"which are missing from {recording.out}:\n"
            + "\n".join(f"  episode_{each.number}: {each.reason}" for each in failures[:LISTED])
            + ("\n  ..." if len(failures) > LISTED else "")
        )


def _inspect(recording: Recording) -> DatasetInfo:
    """What the environment says about itself."""
    env = _make(recording)
    try:
        game: Any = env.unwrapped
        actions, observations = env.action_space, env.observation_space
        if not isinstance(actions, spaces.MultiBinary) or len(actions.shape) != 1:
            raise RecordError(
                f"{recording.env}: its action space is {actions}; only MultiBinary(n), a button a "
                "column, can be recorded"
            )
        attributes: tuple[str, ...] = ()
        image = observations
        if isinstance(observations, spaces.Dict):
            image = observations.get("frame")
            scalars = tuple(name for name, space in observations.items() if space.shape == ())
            attributes = tuple(getattr(game, "attribute_names", scalars))
            if missing := set(attributes) - set(scalars):
                raise RecordError(
                    f"{recording.env}: its observations lack the attributes {sorted(missing)}"
                )
        shape = image.shape if isinstance(image, spaces.Box) and image.dtype == np.uint8 else ()
        if len(shape) != 3 or shape[2] != 3:
            raise RecordError(
                f"{recording.env}: its observation space is {observations}; only an image (a Box "
                "of uint8, height x width x 3) or a Dict with one as 'frame' can be recorded"
            )
        if recording.policy == "expert" and not hasattr(game, "make_expert"):
            raise RecordError(
                f"{recording.env} brings no expert (make_expert); record it with --policy random"
            )
        width, height = recording.size
        fps = env.metadata.get("render_fps")
        buttons = actions.shape[0]
        names = tuple(getattr(game, "action_names", [f"button_{i}" for i in range(buttons)]))
        if len(names) != buttons:
            raise RecordError(
                f"{recording.env}: its action space has {buttons} buttons, "
                f"but its action_names are {', '.join(names)}"
            )
        resized = shape[:2] != (height, width)
        return DatasetInfo(
            keys=names,
            attributes=attributes,
            height=height,
            width=width,
            fps=None if fps is None else float(fps),
            # Gymnasium's own convention for images.
            color_order=getattr(game, "color_order", "RGB"),
            resize="area" if resized else getattr(game, "resize_method", "none"),
            source={"env": recording.env, "policy": recording.policy, "seed": recording.seed},
        )
    finally:
        env.close()


def _make(recording: Recording) -> gymnasium.Env:
    """Makes the environment, drawing at the wanted size if it can."""
    try:
        module, _, name = recording.env.rpartition(":")
        if module:
            importlib.import_module(module)
        entry = gymnasium.spec(name).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        size = dict(zip(("width", "height"), recording.size, strict=True))
        accepted = (
            creator is not None and size.keys() <= inspect.signature(creator).parameters.keys()
        )
        # The checker is for those who write environments, and costs time on every step.
        return gymnasium.make(recording.env, disable_env_checker=True, **(size if accepted else {}))
    except Exception as error:  # whatever importing and building somebody's environment may raise
        raise RecordError(f"{recording.env} can't be made: {error}") from error


def _record_episode(recording: Recording, info: DatasetInfo, number: int) -> int | Failure:
    """Plays and writes one episode; returns its ticks, or why it could not be played.

    The environment is made anew, so that nothing of an earlier episode can matter.
    """
    seed = recording.seed + number
    env = _make(recording)
    try:
        observation, _ = env.reset(seed=seed)
        policy = _make_policy(env, recording.policy, seed)
        policy.reset()
        with EpisodeWriter(recording.out, number, info, recording.zarr_format) as writer:
            over = False
            last: dict[str, Any] = {}
            while not over:
                action = policy.act(observation)
                writer.append(*_tick(observation, action, info))
                observation, _, terminated, truncated, last = env.step(action)
                over = terminated or truncated
            return writer.finish({**_plain(last), "seed": seed, "policy": recording.policy})
    except RecordError:
        raise
    except Exception as error:  # whatever somebody's environment or policy may raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(
            number,
            f"seed {seed}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})",
        )
    finally:
        env.close()


class _RandomPolicy:
    """Any buttons, evenly."""

    def __init__(self, space: gymnasium.Space, seed: int):
        self._space = space
        self._seed = seed

    def reset(self) -> None:
        self._space.seed(self._seed)

    def act(self, observation: Any) -> npt.NDArray[np.int8]:
        return self._space.sample()


def _make_policy(env: gymnasium.Env, name: PolicyName, seed: int) -> Policy:
    # Not the episode's seed itself: the environment draws from that one.
    derived = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    if name == "random":
        return _RandomPolicy(env.action_space, derived)
    game: Any = env.unwrapped
    return game.make_expert(derived)


def _tick(
    observation: Any, action: npt.NDArray[np.int8], info: DatasetInfo
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """The frame [H, W, 3], action [A] and state [S] to be written."""
    frame = observation["frame"] if isinstance(observation, dict) else observation
    if frame.shape[:2] != (info.height, info.width):
        frame = cv2.resize(frame, (info.width, info.height), interpolation=cv2.INTER_AREA)
    state = np.array([observation[name] for name in info.attributes], np.float32)
    return frame, np.asarray(action, np.bool_), state


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    """Those entries that JSON can hold."""
    found = {}
    for key, value in info.items():
        value = value.item() if isinstance(value, np.generic) else value
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            continue
        found[key] = value
    return found


def _summarise(path: Path, info: DatasetInfo, frames_per_second: float | None) -> Summary:
    episodes = episode_attributes(path).values()
    frames = sum(episode["frame_count"] for episode in episodes)
    outcomes = [episode["outcome"] for episode in episodes if "outcome" in episode]
    return Summary(
        episodes=len(episodes),
        frames=frames,
        seconds=None if info.fps is None else frames / info.fps,
        size=size_on_disk(path),
        frames_per_second=frames_per_second,
        won=outcomes.count("won") if outcomes else None,
    )


def _table(summary: Summary) -> Table:
    table = Table(show_header=False)
    rows = {
        "episodes": f"{summary.episodes:,}",
        "frames": f"{summary.frames:,}",
        "seconds of play": None if summary.seconds is None else f"{summary.seconds:,.0f}",
        "size on disk": f"{summary.size / 2**20:,.1f} MiB "
        f"({summary.size / max(summary.frames, 1) / 2**10:,.1f} KiB a frame)",
        "recorded": None
        if summary.frames_per_second is None
        else f"{summary.frames_per_second:,.0f} frames/s",
        "won": None if summary.won is None else f"{summary.won:,}",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, value)
    return table


def main() -> int:
    """The command; returns the exit status."""
    recording = tyro.cli(Recording, prog="gameplay_pipeline.record")
    try:
        _record(recording)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"interrupted; the complete episodes are in {recording.out}, "
            "run the same command to continue",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
