"""What recording a fight takes, whoever plays it: the play loop goes in, an episode comes out."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.play import Observer, Tick
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter


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
        state = [tick.observation[name] for name in writer.info.attributes]
        writer.append(tick.observation["frame"], tick.chosen, np.array(state, np.float32))

    return append


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
