"""What can be shown of Windows and macOS without either: wheels in the lock, imports, paths."""

import subprocess
import sys
import tomllib
from pathlib import Path, PureWindowsPath

import pytest

from gameplay_pipeline.plumbing.paths import expand, is_url
from ranni_player.manifest import GOLDEN, MANIFEST, NETWORK
from tests.support.exported import ARENA, EXPORTED

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


WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import asyncio, platformdirs  # which look at the system, and take what it should have
for name in ("fcntl termios pwd grp resource tty pty syslog uvloop", *sys.argv[1:]):
    sys.modules.update(dict.fromkeys(name.split()))
for name in ("SIGHUP", "SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGPIPE", "SIGCHLD",
             "alarm", "setitimer", "pthread_kill", "pthread_sigmask", "siginterrupt"):
    vars(signal).pop(name, None)
for name in ("fork", "forkpty", "getuid", "geteuid", "sched_getaffinity", "killpg", "setsid",
             "mkfifo", "sysconf", "statvfs", "getloadavg"):
    vars(os).pop(name, None)
from gameplay_pipeline.plumbing import command
"""
PLAYER = """
import ranni_player
for module in pkgutil.iter_modules(ranni_player.__path__, "ranni_player."):
    importlib.import_module(module.name)
from ranni_player.__main__ import main
sys.argv[1:] = {arguments}
sys.exit(command.run(main))
"""
COMMANDS = """
for name in ("repack", "convert_to_zarr", "record", "page.server", "page.fights"):
    importlib.import_module(f"gameplay_pipeline.{{name}}")
for name in ("evaluate", "rollout", "serve", "export", "analyze_dataset", "correct"):
    importlib.import_module(f"BC_training.{{name}}")
from gameplay_pipeline import record, repack
sys.argv[1:] = ["--env", "boss_arena:BossArena-v0", "--out", {folder!r} + "/a.zarr",
                "--episodes", "1", "--workers", "1", "--resolution", "64x36"]
assert command.run(record.main) == 0
sys.argv[1:] = [{folder!r} + "/a.zarr", {folder!r} + "/b.zarr", "--workers", "1"]
sys.exit(command.run(repack.main))
"""


def run_without_posix(code, *hidden):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + code, *hidden],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_player_needs_nothing_that_only_posix_or_training_has():
    pytest.importorskip("onnxruntime", reason="needs the group: uv run --group export pytest")
    arguments = ["--policy", str(EXPORTED), *ARENA, "--check"]
    code = PLAYER.format(arguments=arguments)
    done = run_without_posix(code, "jax jaxlib flax orbax zarr fsspec numcodecs")
    assert done.returncode == 0, done.stderr
    assert "seed 1000000: " in done.stdout


def test_commands_need_nothing_that_only_posix_has(tmp_path):
    done = run_without_posix(COMMANDS.format(folder=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} >= {"a.zarr", "b.zarr"}


@pytest.mark.parametrize(
    "path", [r"C:\data\margit.zarr", "C:/data/margit.zarr", r"\\nas\margit.zarr"]
)
def test_a_path_of_windows_is_no_url_and_stays_as_it_is(path):
    assert not is_url(path)
    assert not is_url(PureWindowsPath(path))
    assert expand(path) == path


@pytest.mark.parametrize("name", [MANIFEST, NETWORK, GOLDEN])
def test_an_exported_folder_has_names_that_windows_takes(name):
    path = PureWindowsPath("C:/games") / name
    assert path.parent == PureWindowsPath("C:/games")
    assert not set(name) & set('<>:"|?*\\/')
