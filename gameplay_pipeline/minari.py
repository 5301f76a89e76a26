"""Converts between Minari datasets, of any Gymnasium environment, and the project's format.

    uv run -m gameplay_pipeline.minari from MINARI OUT [--keys left,right,hit] [--fps 17]
    uv run -m gameplay_pipeline.minari to DATASET OUT [--lossless]

Observations must be an RGB image or a dictionary with one; the numbers beside it are the state.
Actions must be buttons (MultiBinary, MultiDiscrete of twos) or a choice (Discrete), each option a
button. What one format has no place for is named.
"""

import sys
from typing import Annotated

import tyro

from gameplay_pipeline.convert.from_minari import FromMinari, from_minari
from gameplay_pipeline.convert.to_minari import ToMinari, to_minari
from gameplay_pipeline.plumbing import command


def main() -> int:
    """Runs the command; returns the exit status."""
    job: FromMinari | ToMinari = tyro.cli(
        Annotated[FromMinari, tyro.conf.subcommand("from")]
        | Annotated[ToMinari, tyro.conf.subcommand("to")],  # pyright: ignore[reportArgumentType]
        prog="gameplay_pipeline.minari",
    )
    if isinstance(job, FromMinari):
        return command.run(lambda: from_minari(job), command.to_be_continued(job.out))
    return command.run(lambda: to_minari(job), command.BEGINS_ANEW)


if __name__ == "__main__":
    sys.exit(main())
