"""What recording a fight takes, whoever plays it: the play loop goes in, an episode comes out."""

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float32

from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.play import Observer, Tick
from gameplay_pipeline.store.writer import SHARD, DatasetInfo, EpisodeWriter


def dataset_info(env: Environment, source: Mapping[str, Any]) -> DatasetInfo:
    """Returns what all episodes have in common that are recorded in an environment.

    Args:
        env: the environment.
        source: how they are recorded, as plain JSON.
    """
    height, width, _ = env.observation_space["frame"].shape  # pyright: ignore[reportIndexIssue]
    return DatasetInfo(
        keys=env.action_names,
        attributes=env.attribute_names,
        height=height,
        width=width,
        fps=env.fps,
        color_order=env.color_order,
        resize=env.resize_method,
        source=dict(source),
    )


def writing(writer: EpisodeWriter) -> Observer:
    """Returns an observer that appends each tick of a fight to an episode: the frame, the state,
    and what the player chose."""

    def append(tick: Tick) -> None:
        writer.append(tick.observation["frame"], tick.chosen, _state(tick, writer))

    return append


@contextlib.contextmanager
def writing_aside(writer: EpisodeWriter) -> Iterator[Observer]:
    """Gives `writing` with a thread of its own: a tick with a person in it can't wait until a shard
    is compressed. At the end all is appended."""
    pending: deque[Future[None]] = deque()

    def append(tick: Tick) -> None:
        while pending and (pending[0].done() or len(pending) > SHARD):
            pending.popleft().result()
        # The environment may draw the next frame into the same memory.
        frame = tick.observation["frame"].copy()
        pending.append(pool.submit(writer.append, frame, tick.chosen, _state(tick, writer)))

    with ThreadPoolExecutor(1) as pool:
        yield append
        for appended in pending:
            appended.result()


def _state(tick: Tick, writer: EpisodeWriter) -> Float32[np.ndarray, "S"]:
    state = [tick.observation[name] for name in writer.info.attributes]
    return np.array(state, np.float32)


def storable(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries that JSON can hold."""
    kept = {}
    for key, value in info.items():
        value = value.item() if isinstance(value, np.generic) else value
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            continue
        kept[key] = value
    return kept
