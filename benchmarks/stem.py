"""What a coarser beginning costs: the default pure CNN with stems of 2, 4 and 8.

    uv run python -m benchmarks.stem [--fights 24]

A quarter of the width of 288x512, so that a stem of 2 here sees as much of the boss at a time as
one of 8 there. Records the arena's expert, trains each on the same split for the same steps, and
has it fight the same seeds. What is measured already is kept; prints a table and writes
benchmarks/results/stem.json.
"""

import dataclasses
from pathlib import Path

import tyro

from benchmarks import model_zoo
from benchmarks.model_zoo import compare

RESULTS = Path(__file__).parent / "results" / "stem.json"
CHANGES = {f"stem {n}": {"model": {"name": "pure_cnn", "conv_stem": n}} for n in (2, 4, 8)}


@dataclasses.dataclass(frozen=True)
class Job(model_zoo.Job):
    """The comparison."""

    recordings: int = 48
    fights: int = 24
    folder: Path = Path("dataset/stem")
    resolution: str = "128x72"


def main(job: Job) -> None:
    """Measures what is not known yet."""
    title = f"default pure_cnn, {job.recordings} recorded fights at {job.resolution}"
    compare(job, RESULTS, CHANGES, {"resolution": job.resolution}, title)


if __name__ == "__main__":
    main(tyro.cli(Job))
