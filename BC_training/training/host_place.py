"""Where a process stands among the hosts of a run, and how it comes to the first of them."""

import dataclasses
import os
import socket
import time

from jax._src.clusters import ClusterEnv

from BC_training.common.config import SystemConfig
from BC_training.training.host_hub import keep_alive
from gameplay_pipeline.plumbing.errors import UserError

LAUNCHERS = {"slurm": "SLURM_NTASKS", "ompi": "OMPI_COMM_WORLD_SIZE"}
"""Launchers that JAX knows by these names, and where each says how many processes it started."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of a run."""

    coordinator: str
    """HOST:PORT of host 0."""
    count: int
    rank: int
    patience_s: float = 30.0
    """Seconds that it waits for the others."""


def find_place(system: SystemConfig) -> Place | None:
    """This process's place among those of a run; None where it trains alone.

    Raises:
        UserError: a launcher started several processes and does not say where the first one is.
    """
    if system.coordinator is not None and system.process_count != 1:
        assert system.process_count is not None
        assert system.process_id is not None
        return Place(system.coordinator, system.process_count, system.process_id, system.meeting_s)
    for launcher, size in LAUNCHERS.items():
        if system.process_count is None and int(os.environ.get(size, "1")) > 1:
            try:
                address, count, rank, _ = ClusterEnv.auto_detect_unset_distributed_params(
                    None, None, None, None, launcher, int(system.meeting_s)
                )
            except (KeyError, RuntimeError) as error:
                raise UserError(
                    f"{size} is {os.environ[size]}, but not where the first process is ({error}): "
                    "set system.coordinator, process_count and process_id, or process_count to 1 "
                    "if each process is a run of its own"
                ) from error
            return Place(str(address), int(count or 1), int(rank or 0), system.meeting_s)
    return None


def listen(place: Place) -> socket.socket:
    """Opens the port at which the hosts meet.

    Raises:
        UserError: it can't be opened.
    """
    port = _split(place.coordinator)[1]
    try:
        return socket.create_server(("", port), backlog=place.count)
    except OSError as error:
        raise UserError(
            f"system.coordinator: port {port} can't be opened here, on {socket.gethostname()}: "
            f"{error.strerror}"
        ) from error


def connect(place: Place) -> socket.socket:
    """A connection to host 0, as soon as that is there.

    Raises:
        UserError: it is not there in time.
    """
    host, port = _split(place.coordinator)
    address = ("127.0.0.1" if place.rank == 0 else host, port)
    until = time.monotonic() + place.patience_s
    while True:
        try:
            connection = socket.create_connection(address, timeout=max(until - time.monotonic(), 1))
            connection.settimeout(None)
            keep_alive(connection)
            return connection
        except OSError as error:
            if time.monotonic() >= until:
                raise UserError(
                    f"host 0 can't be reached at {place.coordinator} (system.coordinator) from "
                    f"{socket.gethostname()} within {place.patience_s:g} s (system.meeting_s): "
                    f"{error}"
                ) from error
            time.sleep(0.2)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
