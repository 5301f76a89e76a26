"""What must be the same on all hosts of a run; compared before the first step."""

import hashlib
import json
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from BC_training.checkpoints.bundle import revision, versions
from BC_training.common.config import Config
from BC_training.common.dataset import Data
from BC_training.training.hosts import Hosts
from BC_training.training.run_folder import OWNER, flat
from gameplay_pipeline.plumbing.errors import UserError

OWN = ("system.coordinator", "system.process_id")
"""Keys that each host may have otherwise."""

SHOWN_WITHIN_S = 30.0
"""Seconds that a shared disk may take to show on one host what another has written."""

FRAMES = 16
"""Frames that are compared."""


def require_same_program(config: Config, hosts: Hosts, *, resume: bool) -> None:
    """Compares configurations, whether a run goes on, versions and source files.

    Raises:
        UserError: a host differs; it and each key are named.
    """
    if hosts.count == 1:
        return
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for package in ("BC_training", "gameplay_pipeline", "ranni_player"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.read_bytes())
    settings = flat(config.model_dump(mode="json"))
    hosts.require_same(
        {key: value for key, value in settings.items() if key not in OWN}
        | {"--resume": resume, "code revision": revision(), "source files": digest.hexdigest()[:16]}
        | versions()
    )


def require_same_data(data: Data, hosts: Hosts) -> None:
    """Compares datasets, which may be copies, and where their frames are.

    Raises:
        UserError: a host differs.
    """
    if hosts.count == 1:
        return
    train = data.splits["train"]
    some = train.frames(np.linspace(0, len(train) - 1, FRAMES).astype(int))
    hosts.require_same(
        {
            "dataset": data.content,
            "dataset, ticks that were judged": zlib.crc32(train.targets.tobytes()),
            "dataset, some of its frames": zlib.crc32(some.tobytes()),
            "dataset.residency is device": data.opened.residency == "device",
        }
    )


def require_same_arrays(tree: Any, hosts: Hosts) -> None:
    """Compares what the hosts begin with, which files on each may decide.

    Raises:
        UserError: a host differs.
    """
    if hosts.count > 1:
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(tree):
            digest.update(np.asarray(leaf).tobytes())
        hosts.require_same({"parameters at the start": digest.hexdigest()[:16]})


def require_shared(folder: Path, hosts: Hosts) -> None:
    """Finds out whether a run's folder is the same on all hosts.

    Raises:
        UserError: it isn't.
    """
    if hosts.count == 1:
        return
    file = folder.resolve() / OWNER
    expected = hosts.gather(json.loads(file.read_text()) if hosts.is_first else None)[0]
    until, shown = time.monotonic() + SHOWN_WITHIN_S, hosts.is_first
    while not shown and time.monotonic() < until:
        shown = file.exists() and json.loads(file.read_text() or "null") == expected
        if not shown:
            time.sleep(0.5)
    for rank, is_shared in enumerate(hosts.gather(shown)):
        if not is_shared:
            raise UserError(
                f"training.checkpoint_dir: {folder} on {hosts.name(rank)} is not that of "
                f"{hosts.name(0)}; all hosts need one folder, on a shared disk"
            )
