"""Follows a page of docs/ word for word, as a person does who adds something to the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("BC_training", "boss_arena", "gameplay_pipeline", "ranni_player", "vizdoom_games")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block that is the content of the file named above it."""
# uv would make an environment for the temporary folder; the tests' own does as well.
UV = """#!/bin/sh
[ "$1" = run ] && shift
while case "$1" in --group|--only-group|--extra|--python) ;; *) false ;; esac; do shift 2; done
case "$1" in
    -*|*.py) exec {python} "$@" ;;
    *) program=$1; shift; exec {python} -m "$program" "$@" ;;
esac
"""


def write_files(name: str, folder: Path) -> list[str]:
    """Writes the files that docs/`name` shows into `folder`; gives their names.

    Where the page shows a block of kind `diff`, `folder` becomes a copy of the project's packages,
    and the diffs are applied there.
    """
    page = (ROOT / "docs" / name).read_text()
    diffs = [text for kind, text in BLOCK.findall(page) if kind == "diff"]
    for package in PACKAGES if diffs else ():
        if (ROOT / package).exists():
            shutil.copytree(
                ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
            )
    for diff in diffs:
        subprocess.run(["git", "apply", "-"], cwd=folder, input=diff, text=True, check=True)
    files = dict(FILE.findall(page))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return list(files)


def run_commands(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the one block of commands (kind `sh`) of docs/`name` in `folder`, up to its first error.

    `uv run` there means the Python of the tests.
    """
    page = (ROOT / "docs" / name).read_text()
    (commands,) = [text for kind, text in BLOCK.findall(page) if kind == "sh"]
    uv = folder / "bin" / "uv"
    uv.parent.mkdir(exist_ok=True)
    uv.write_text(UV.format(python=sys.executable))
    uv.chmod(0o755)
    return subprocess.run(
        ["bash", "-ec", commands], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{uv.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
