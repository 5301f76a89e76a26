"""Trainings one after the other, which also write which samples each step takes.

python -m benchmarks.traced_training JOBS.json [--system.KEY VALUE ...], where a job has the keys of
a configuration (`flags`), and by how much the parameters at the start are disturbed (`disturb`), in
which way (`disturbance`).
"""

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from BC_training import train
from BC_training.checkpoints.state import TrainState
from BC_training.common.dataset import Dataset
from BC_training.common.types import Batch
from BC_training.training import trainer
from BC_training.training.hosts import Hosts, join
from benchmarks.virtual_hosts import as_flags
from gameplay_pipeline.plumbing import command


def _digests(batch: Batch) -> list[int]:
    """A number for each sample of a batch."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(batch)]
    return [
        zlib.crc32(b"".join(leaf[row].tobytes() for leaf in leaves))
        for row in range(len(batch.weight))
    ]


def _disturbed(state: TrainState, share: float, seed: int) -> TrainState:
    """Changes every parameter by about that share of itself, as another rounding would."""
    rng = np.random.default_rng(seed)

    def change(leaf: Any) -> Any:
        noise = rng.normal(size=leaf.shape) * share
        return jax.device_put((np.asarray(leaf) * (1 + noise)).astype(leaf.dtype), leaf.sharding)

    return state._replace(params=jax.tree.map(change, state.params))


def _run(job: Mapping[str, Any], system: list[str], hosts: Hosts) -> None:
    config, _ = train.parse(["--config", job["config"], *as_flags(job["flags"]), *system])
    folder = config.run_dir()
    folder.mkdir(parents=True, exist_ok=True)
    read, init_state = Dataset.train_batches, trainer.init_state
    with (folder / f"order.{hosts.rank}.jsonl").open("a") as order:

        def traced(self: Dataset, **arguments: Any) -> Iterator[Batch]:
            for step, batch in zip(arguments["steps"], read(self, **arguments), strict=True):
                rows = dict(zip(arguments["rows"].tolist(), _digests(batch), strict=True))
                order.write(json.dumps({"step": step, "rows": rows}) + "\n")
                yield batch

        Dataset.train_batches = traced
        trainer.init_state = lambda *args: _disturbed(
            init_state(*args), job.get("disturb", 0.0), job.get("disturbance", 0)
        )
        try:
            trainer.train(config, resume=True, hosts=hosts)
        finally:
            Dataset.train_batches, trainer.init_state = read, init_state


def main() -> None:
    jobs, system = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]
    first, _ = train.parse(["--config", jobs[0]["config"], *as_flags(jobs[0]["flags"]), *system])
    with join(first.system) as hosts:
        for job in jobs:
            _run(job, system, hosts)


if __name__ == "__main__":
    sys.exit(command.run(main))
