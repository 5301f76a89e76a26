"""How the commands of this package end."""

import sys
from collections.abc import Callable

from gameplay_pipeline.plumbing.errors import UserError

BEGINS_ANEW = "interrupted; nothing of it is kept, the same command begins anew"
"""What to say after Ctrl-C where the whole is written or nothing."""


def run(do: Callable[[], int | None], interrupted: str) -> int:
    """The exit status: 1 where `do` gave a number above zero or raised a UserError.

    Args:
        do: the work; how many episodes it had to leave out, or None.
        interrupted: what to say after Ctrl-C.
    """
    try:
        return 1 if do() else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def to_be_continued(out: object) -> str:
    """What to say after Ctrl-C where a dataset is written that the same command continues."""
    return f"interrupted; the complete episodes are in {out}, run the same command to continue"
