"""Where data may lie."""

import os
import re
from pathlib import Path
from typing import TypeVar

from gameplay_pipeline.plumbing.errors import UserError

Location = TypeVar("Location", str, Path)


def is_url(location: str | Path) -> bool:
    """Whether a dataset lies behind a URL such as https://, s3://, gs:// or hf://."""
    return "://" in str(location)


def require_folders(**files: Path | None) -> None:
    """Refuses files that could not be written once they are done, by the flags that name them.

    Raises:
        UserError: the folder of one is not there.
    """
    for flag, file in files.items():
        if file is not None and not file.parent.is_dir():
            raise UserError(f"--{flag}: no folder {file.parent}")


def expand(location: Location) -> Location:
    """Replaces a leading `~` and environment variables in a path or a URL.

    A file that is really called `$name` or `~name` is left alone.

    Raises:
        UserError: a variable is not set, or there is no such home folder.
    """
    whole = os.path.expandvars(os.path.expanduser(location))  # noqa: PTH111 (URLs are no paths)
    if not os.path.exists(whole):  # noqa: PTH110
        if unset := re.search(r"\$\{?([A-Za-z_]\w*)", whole):
            raise UserError(f"{location}: the environment variable {unset[1]} is not set")
        if whole.startswith("~"):
            raise UserError(f"{location}: there is no home folder {Path(whole).parts[0]}")
    return type(location)(whole)
