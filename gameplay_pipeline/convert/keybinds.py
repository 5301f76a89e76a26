"""Reads which buttons press which action."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gameplay_pipeline.plumbing.errors import UserError

Button = tuple[str, str]
"""key or mouse, and its name in lower case."""


class Keybinds(NamedTuple):
    """Which buttons press which action."""

    actions: tuple[str, ...]
    columns: dict[Button, list[int]]
    """Columns of the actions that a button presses."""


def read_keybinds(path: Path) -> Keybinds:
    """Reads key bindings: {"version": "2.0", "actions": {name: {"index", "key", "mouse"}}}.

    `key` and `mouse` are a name, a list of names, or null.

    Raises:
        UserError: the file can't be read or contains something else.
    """
    actions = _read_actions(path)
    names: dict[int, str] = {}
    columns: dict[Button, list[int]] = {}
    for name, binding in actions.items():
        index = binding.get("index") if isinstance(binding, dict) else None
        if type(index) is not int:
            raise UserError(f"{path}: {name}: its index is {index!r}, not a whole number")
        if index in names:
            raise UserError(f"{path}: {name} and {names[index]} both have index {index}")
        names[index] = name
        buttons = [
            (kind, button.strip().lower())
            for kind in ("key", "mouse")
            for button in _button_names(binding.get(kind), f"{path}: {name}: its {kind}")
        ]
        if not buttons:
            raise UserError(f"{path}: {name} has neither a key nor a mouse button")
        for button in buttons:
            columns.setdefault(button, []).append(index)
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{path}: its {len(names)} actions must have the indices 0 to {len(names) - 1}, "
            f"but have {', '.join(map(str, sorted(names)))}"
        )
    return Keybinds(tuple(names[index] for index in sorted(names)), columns)


def _read_actions(path: Path) -> dict[str, Any]:
    """Reads the binding of each action, not yet checked."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as key bindings: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != "2.0":
        raise UserError(
            f'{path}: its version is {version!r}, but must be "2.0": '
            '{"version": "2.0", "actions": {"attack": {"index": 0, "key": null, "mouse": "LEFT"}}}'
        )
    actions = content.get("actions")
    if not isinstance(actions, dict) or not actions:
        raise UserError(f"{path}: 'actions' must name at least one action")
    return actions


def _button_names(value: Any, where: str) -> list[str]:
    """Returns the names in one entry of a binding."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise UserError(f"{where} is {value!r}, but must be a name, a list of names, or null")
    return names
