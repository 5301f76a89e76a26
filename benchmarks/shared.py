"""What several benchmarks need: how long a call takes, where it is measured, where figures go."""

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from gameplay_pipeline.plumbing.workers import usable_cores

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


def machine() -> dict[str, Any]:
    """Says where and with what it is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    packages = {}
    for name in ("jax", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {"cpu": cpu, "cores": usable_cores(), "system": platform.system(), **packages}
