"""Trainings in processes of their own, one for each host of a run."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from BC_training.training.host_hub import Hub
from BC_training.training.host_place import Place, connect, listen
from BC_training.training.hosts import Together
from tests.support.commands import Done
from tests.support.small_models import SMALL

ROOT = Path(__file__).parents[2]


def configured(root, data, kind, name, **training):
    """The plain configuration of a tiny model's training, kept in the folder `kind`."""
    return {
        "dataset": {
            "path": str(data), "val_ratio": 0.2, "cache_dir": str(root / "cache"),
            "instruction": "press what is bright",
        },
        "model": {"name": name, **SMALL[name]},
        "training": {
            # Small: where rounding turns a gradient that is next to zero, Adam makes a whole step
            # of it.
            "batch_size": 16, "learning_rate": 2e-4, "save_every_n_epochs": 100,
            "lr_schedule": {"type": "constant", "min_lr": 0.0},
            "checkpoint_dir": str(root / kind / name), **training,
        },
        "evaluation": {"eval_every_n_epochs": 100}, "logging": {"log_every_n_steps": 1},
        "system": {},
    }  # fmt: skip


def free_port():
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def started(jobs, *, devices, hosts=1):
    """Processes that do the jobs, pairs of a configuration and whether to resume; none is left."""
    folder = Path(jobs[0][0]["training"]["checkpoint_dir"]).parent
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "jobs.json"
    place = {"coordinator": f"127.0.0.1:{free_port()}", "process_count": hosts, "process_id": 0}
    for raw, _ in jobs:
        raw["system"] = place if hosts > 1 else {}
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.support.on_devices", str(devices), str(file)]
    ranks = [[str(rank)] for rank in range(hosts)] if hosts > 1 else [[]]
    processes = [
        subprocess.Popen(
            [*command, *rank], cwd=ROOT, env=os.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ranks
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ends(processes, seconds):
    """How the processes end, all within so many seconds."""
    return [
        Done(process.wait(), *texts)
        for process in processes
        for texts in [process.communicate(timeout=seconds)]
    ]


def side_by_side(do, count):
    """What `do` comes to on each of so many hosts, which are threads here: a result or an error."""
    place = f"127.0.0.1:{free_port()}"
    hub = Hub(listen(Place(place, count, 0)), count)
    outcomes = [None] * count

    def be(rank):
        host = Together(Place(place, count, rank), connect(Place(place, count, rank)))
        try:
            host.meet()
            outcomes[rank] = do(host)
        except Exception as error:
            outcomes[rank] = error
        finally:
            host.close()

    threads = [threading.Thread(target=be, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    hub.wait_for_others(10.0)
    return outcomes
