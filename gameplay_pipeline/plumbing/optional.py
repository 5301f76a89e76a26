"""Packages that only some commands need."""

import importlib
from typing import Any

from gameplay_pipeline.plumbing.errors import UserError


def require(module: str, group: str) -> Any:
    """Imports a module of an optional dependency group.

    Raises:
        UserError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"this needs the package {module.partition('.')[0]}, which is in the group {group!r}: "
            f"uv run --group {group} -m ..."
        ) from error
