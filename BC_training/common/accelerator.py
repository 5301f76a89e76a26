"""The device that a process computes on."""

import os
from typing import Any

import jax

from gameplay_pipeline.plumbing.errors import UserError


def first_device() -> Any:
    """Returns the first device of this process, a jax.Device.

    Raises:
        UserError: JAX can't start the backend that JAX_PLATFORMS names, or none at all.
    """
    try:
        return jax.local_devices()[0]
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), "this installation of JAX has none")
        requested = os.environ.get("JAX_PLATFORMS")
        if not requested:
            raise UserError(f"JAX finds no device to compute on: {reason}") from error
        raise UserError(
            f"JAX_PLATFORMS is {requested!r}, but there is no such device here: {reason}. Unset it "
            "to take what there is; on a GPU, install its wheels (uv sync --extra cuda12 or "
            "cuda13) and a driver that is new enough for them."
        ) from error
