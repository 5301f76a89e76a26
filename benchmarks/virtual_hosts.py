"""Trainings on several hosts that are processes of one machine, each with virtual devices."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class VirtualHosts:
    """The processes of one training, and what they say. A context manager that leaves none."""

    processes: list[subprocess.Popen[bytes]]
    files: list[Path]

    @property
    def are_running(self) -> bool:
        """Whether any of them has not ended."""
        return any(process.poll() is None for process in self.processes)

    @property
    def statuses(self) -> list[int | None]:
        """Exit statuses; None where a process runs on."""
        return [process.poll() for process in self.processes]

    def said(self, host: int) -> str:
        """What a host has printed, errors included."""
        return self.files[host].read_text(errors="replace")

    @property
    def all_said(self) -> str:
        """What each host has printed, one below the other."""
        return "\n".join(f"--- {n}\n{self.said(n)}" for n in range(len(self.files)))

    def wait(self, seconds: float) -> bool:
        """Waits for the end of all; whether it came within so many seconds."""
        until = time.monotonic() + seconds
        while self.are_running and time.monotonic() < until:
            time.sleep(0.02)
        return not self.are_running

    def __enter__(self) -> "VirtualHosts":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def start(
    folder: Path,
    program: Sequence[str],
    *,
    hosts: int,
    devices: int,
    port: int | None = None,
) -> VirtualHosts:
    """Starts a process for each host.

    Args:
        folder: where compiled programs, and what the hosts say, are kept.
        program: a module and its arguments, to which those are added that say where a host stands.
        hosts: processes.
        devices: of each.
        port: at which they meet; one that is free if not given.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        # Most of the time goes into compiling.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    address = f"127.0.0.1:{port or free_port()}"
    processes, files = [], []
    for rank in range(hosts):
        command = [sys.executable, "-m", *program]
        if hosts > 1:
            place = {"coordinator": address, "process_count": hosts, "process_id": rank}
            command += as_flags({f"system.{key}": value for key, value in place.items()})
        file = folder / f"said.{rank}"
        with file.open("wb") as out:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
            )
        files.append(file)
    return VirtualHosts(processes, files)


def as_flags(values: Mapping[str, object]) -> list[str]:
    """Values by their keys as a command line has them."""
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]
