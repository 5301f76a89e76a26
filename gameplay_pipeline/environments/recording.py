"""What a recording is asked for, by `gameplay_pipeline.record` or by a training that begins with
one."""

import pydantic
from pydantic import Field

from gameplay_pipeline.environments.adapter import parse_size
from gameplay_pipeline.plumbing.section import Section


class RecordSettings(Section):
    """How many fights are recorded, how large, and how the expert plays them."""

    episodes: int = Field(default=100, ge=1)
    """Episodes that the dataset shall have."""
    resolution: str = "512x288"
    """Size of the frames in pixels, WIDTHxHEIGHT."""
    style: str | None = None
    """A style in which the environment's expert can play, or mixed for all of them in turn; each
    episode then holds its style and an instruction. null: the expert plays as it does, without
    instructions."""
    disturb: float = Field(default=0.0, ge=0, lt=1)
    """Share of the ticks at which other buttons are pressed than those that were chosen, a few
    ticks in a row. The choice is recorded: how to get out of trouble that a clone gets into and the
    expert does not."""

    @pydantic.field_validator("resolution")
    @classmethod
    def _is_size(cls, resolution: str) -> str:
        parse_size(resolution)
        return resolution

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        return parse_size(self.resolution)
