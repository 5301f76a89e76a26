"""A run's folder: who writes it, how it is configured, and what was there before."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from BC_training.common import config_file
from BC_training.common.config import FREE, Config
from gameplay_pipeline.plumbing.errors import UserError

LOCK = "writer.lock"
OWNER = "writer.json"
"""Host and process of the writer, for whoever finds the folder locked."""


@contextlib.contextmanager
def claimed(folder: Path, config: Config, *, resume: bool) -> Iterator[None]:
    """Makes a run's folder this process's own, in which config.yaml says how the run is configured.

    An earlier run there is moved aside on its own disk, unless it is to be resumed.

    Raises:
        UserError: another process is writing the run, or the one that is to be resumed was
            configured otherwise.
    """
    place = folder.resolve()  # of a link, where it leads: the link stays
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(folder, place))
        resolved = place / "config.yaml"
        if resume and resolved.exists():
            _require_same(resolved, folder, config)
        elif resume:
            print(f"--resume: there is no run in {folder} yet, starting from the beginning")
        elif resolved.exists():
            aside = place.with_name(f"{place.name}.{datetime.now():%Y-%m-%d_%H-%M-%S}")
            place.rename(aside)
            print(f"the earlier run in {folder} is now {aside} (--resume would have continued it)")
            stack.close()
            place.mkdir()
            stack.enter_context(_locked(folder, place))
        write_atomically(resolved, config_file.to_yaml(config))
        yield


def write_atomically(file: Path, text: str) -> None:
    """Writes a file that is never half there.

    Raises:
        UserError: it can't be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"{file}: can't be written: {error.strerror}") from error


def flat(tree: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested plain data under joined names."""
    values = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, separator, f"{prefix}{key}{separator}")
        else:
            values[prefix + key] = value
    return values


@contextlib.contextmanager
def _locked(folder: Path, place: Path) -> Iterator[None]:
    # Where a network's disk knows no flock, filelock makes a file instead that names its process.
    lock = FileLock(place / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"{folder}: {_owner(place)} is writing this run; wait for its end, or choose another "
            "training.checkpoint_dir"
        ) from error
    try:
        owner = {"host": socket.gethostname(), "process": os.getpid()}
        write_atomically(place / OWNER, json.dumps(owner))
        yield
    finally:
        lock.release()


def _owner(place: Path) -> str:
    try:
        owner = json.loads((place / OWNER).read_text())
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _require_same(resolved: Path, folder: Path, config: Config) -> None:
    """Compares how a run was configured with how it is to go on."""
    try:
        before = config_file.parse_yaml(resolved.read_text())
        then = flat(config_file.stored(before, str(resolved)).model_dump(mode="json"))
    except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"--resume: {resolved} is damaged: {error}") from error
    now = flat(config.model_dump(mode="json"))
    free = {key for key, field in config_file.keys(type(config)) if FREE in field.metadata}
    changed = [
        f"{key}: {then.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in free)
    ]
    if changed:
        raise UserError(
            f"--resume: the run in {folder} was started with another configuration:\n  "
            + "\n  ".join(changed)
            + "\nGive these as they were then, or begin anew without --resume."
        )
