"""Converts between LeRobot datasets (version 3: parquet and mp4) and the project's format.

    uv run -m gameplay_pipeline.lerobot from LEROBOT OUT [--camera observation.images.screen]
    uv run -m gameplay_pipeline.lerobot to DATASET OUT [--lossless]

Buttons are the feature `action`, each 0 or 1; the game's state is `observation.state`; the screen
is `observation.images.screen`. What one format has no place for is named.
"""

import sys
from typing import Annotated

import tyro

from gameplay_pipeline.convert.from_lerobot import FromLeRobot, from_lerobot
from gameplay_pipeline.convert.to_lerobot import ToLeRobot, to_lerobot
from gameplay_pipeline.plumbing import command


def main() -> int:
    """Runs the command; returns the exit status."""
    job: FromLeRobot | ToLeRobot = tyro.cli(
        Annotated[FromLeRobot, tyro.conf.subcommand("from")]
        | Annotated[ToLeRobot, tyro.conf.subcommand("to")],  # pyright: ignore[reportArgumentType]
        prog="gameplay_pipeline.lerobot",
    )
    if isinstance(job, FromLeRobot):
        return command.run(lambda: from_lerobot(job), command.to_be_continued(job.out))
    return command.run(lambda: to_lerobot(job), command.BEGINS_ANEW)


if __name__ == "__main__":
    sys.exit(main())
