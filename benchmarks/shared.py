"""What several benchmarks need: the time that a call takes, and where figures of a device go."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def milliseconds(call: Callable[[], Any]) -> float:
    """That a call takes, until all it returns is there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return 1000 * (time.perf_counter() - began)


def of_device(name: str) -> Path:
    """The file of a benchmark's results on the device at hand."""
    device = jax.devices()[0].device_kind.lower().replace(" ", "-")
    return RESULTS / f"{name}-{device}.json"
