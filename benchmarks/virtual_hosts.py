"""Trainings on several hosts that are processes of one machine, each with virtual devices."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class VirtualHosts:
    """The processes of one training, and what they say."""

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

    def wait(self, seconds: float) -> bool:
        """Waits for the end of all; whether it came within so many seconds."""
        until = time.monotonic() + seconds
        while self.are_running and time.monotonic() < until:
            time.sleep(0.02)
        return not self.are_running

    def kill(self) -> None:
        """Ends what runs on."""
        for process in self.processes:
            process.kill()
            process.wait()


def start(
    folder: Path,
    flags: Mapping[str, object],
    *,
    hosts: int,
    devices: int,
    port: int | None = None,
    program: str = "BC_training.train",
) -> VirtualHosts:
    """Starts a training, which goes on from an earlier one.

    Args:
        folder: where compiled programs, and what the hosts say, are kept.
        flags: keys of the configuration.
        hosts: processes.
        devices: of each.
        port: at which they meet.
        program: the module that trains.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    place = {"system.coordinator": f"127.0.0.1:{port or free_port()}"}
    place |= {"system.process_count": str(hosts)}
    command = [sys.executable, "-m", program, "--config", "configs/pure_cnn.yaml", "--resume"]
    processes, files = [], []
    for rank in range(hosts):
        keys = dict(flags)
        if hosts > 1:
            keys |= {**place, "system.process_id": rank}
        arguments = [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        file = folder / f"said.{rank}"
        with file.open("wb") as out:
            processes.append(
                subprocess.Popen(
                    [*command, *arguments], cwd=ROOT, env=environment, stdout=out, stderr=out
                )
            )
        files.append(file)
    return VirtualHosts(processes, files)
