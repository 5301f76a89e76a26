"""What can be shown of Windows and macOS without either: wheels in the lock, imports, paths."""

import subprocess
import sys
import tomllib
from pathlib import Path, PureWindowsPath

import pytest

from ranni_player.manifest import GOLDEN, MANIFEST, NETWORK

ROOT = Path(__file__).parents[2]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PACKAGES = {}
for _package in LOCK["package"]:
    PACKAGES.setdefault(_package["name"], []).append(_package)


def needed(group):
    """Packages of a group with all that they need, on any platform."""
    project = PACKAGES["project-ranni"][0]
    queue = [entry["name"] for entry in project["dev-dependencies"][group]]
    done = set()
    while queue:
        name = queue.pop()
        if name in done:
            continue
        done.add(name)
        for package in PACKAGES[name]:
            queue += [entry["name"] for entry in package.get("dependencies", [])]
    return sorted(done)


@pytest.mark.parametrize("platform", ["win_amd64", "macosx"])
@pytest.mark.parametrize("name", needed("play"))
def test_every_package_of_the_player_has_a_wheel(name, platform):
    if name == "opencv-python":
        pytest.skip("overridden: nothing installs it")
    for package in PACKAGES[name]:
        files = [wheel["url"].rpartition("/")[2] for wheel in package["wheels"]]
        assert any("none-any" in file or platform in file for file in files), package["version"]


HIDDEN = """
import sys
for name in ("fcntl", "termios", "pwd", "grp", "resource", "jax", "flax", "zarr", "fsspec"):
    sys.modules[name] = None
import signal
for name in ("SIGHUP", "SIGALRM", "SIGUSR1"):
    if hasattr(signal, name):
        delattr(signal, name)
import numpy as np
import ranni_player.button_decoder, ranni_player.contract, ranni_player.fight, ranni_player.manifest
import ranni_player.observations, ranni_player.remote, gameplay_pipeline.environments.play
from gameplay_pipeline.plumbing import command
decode = ranni_player.button_decoder.ButtonDecoder("threshold", np.array([0.5]), 0)
print(decode(np.array([0.7])), command.run(lambda: 0))
"""


def test_the_player_needs_nothing_that_only_posix_or_training_has():
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[", "True]", "0"]


@pytest.mark.parametrize("name", [MANIFEST, NETWORK, GOLDEN])
def test_an_exported_folder_has_names_that_windows_takes(name):
    path = PureWindowsPath("C:/games") / name
    assert path.parent == PureWindowsPath("C:/games")
    assert not set(name) & set('<>:"|?*\\/')
