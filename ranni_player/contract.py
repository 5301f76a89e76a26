"""What a policy was trained on against what it is about to get."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gameplay_pipeline.plumbing.errors import UserError


class Contract(NamedTuple):
    """What a policy needs of an environment."""

    actions: tuple[str, ...]
    """The A buttons, in the order of its probabilities."""
    attributes: tuple[str, ...]
    """The S attributes of the game's state that it reads."""
    frame: Mapping[str, Any]
    """The frame contract: height, width, channels, color_order, resize, fps."""


def require_same(trained: Mapping[str, Any], offered: Mapping[str, Any], source: str) -> None:
    """Compares key by key. What one side does not know differs from nothing.

    Args:
        trained: what the policy was trained on, by name.
        offered: what it is about to get, under the same names.
        source: who offers it, for the message.

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


def _listed(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)
