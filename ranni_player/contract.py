"""What a policy was trained on against what it is about to get."""

from collections.abc import Mapping
from typing import Any

from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.plumbing.errors import UserError

FRAME_KEYS = ("height", "width", "channels", "color_order", "resize", "fps")


def require_same(trained: Mapping[str, Any], offered: Mapping[str, Any], source: str) -> None:
    """Compares key by key. What one side does not know differs from nothing.

    Raises:
        UserError: something differs; each difference is named.
    """
    different = [
        f"{key} {_listed(offered[key])}, trained on {_listed(trained[key])}"
        for key in trained
        if trained[key] != offered[key] and not {None, "unknown"} & {trained[key], offered[key]}
    ]
    if different:
        raise UserError(f"{source} does not fit the policy: {'; '.join(different)}")


def offered_by(env: Environment) -> dict[str, Any]:
    """Returns what an environment offers, under the names of a frame contract."""
    space: Any = env.observation_space
    height, width, channels = space["frame"].shape
    values = (height, width, channels, env.color_order, env.resize_method, env.fps)
    return {"actions": env.action_names, **dict(zip(FRAME_KEYS, values, strict=True))}


def _listed(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)
