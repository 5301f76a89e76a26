"""What a coarser beginning costs: the default pure CNN with stems of 2, 4 and 8.

    uv run python -m benchmarks.stem [--fights 24]

A quarter of the width of 288x512, so that a stem of 2 here sees as much of the boss at a time as
one of 8 there. Records the arena's expert, trains each on the same split for the same steps, and
has it fight the same seeds. What is measured already is kept; prints a table and writes
benchmarks/results/stem.json.
"""

import dataclasses
import json
from pathlib import Path

import jax
import tyro

from benchmarks import model_zoo
from benchmarks.model_zoo import configuration, measure, table

RESULTS = Path(__file__).parent / "results" / "stem.json"
STEMS = (2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Job(model_zoo.Job):
    """The comparison."""

    recordings: int = 48
    fights: int = 24
    folder: Path = Path("dataset/stem")
    resolution: str = "128x72"


def main(job: Job) -> None:
    """Measures what is not known yet."""
    path = model_zoo.recorded(job)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for stem in STEMS:
        name = f"stem {stem}"
        if name not in rows:
            changes = {"model": {"name": "pure_cnn", "conv_stem": stem}}
            folder = job.folder / f"stem_{stem}"
            rows[name] = measure(configuration(path, folder, job.epochs, changes), job)
        facts = {
            "recordings": job.recordings, "resolution": job.resolution,
            "device": jax.devices()[0].device_kind,
        }  # fmt: skip
        RESULTS.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    table(rows, f"default pure_cnn, {job.recordings} recorded fights at {job.resolution}")


if __name__ == "__main__":
    main(tyro.cli(Job))
