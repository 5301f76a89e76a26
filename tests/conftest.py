"""Fixtures that every test file may use, and the runtime check of shapes and types."""

import contextlib
import gc
import os
import signal
import tempfile
from pathlib import Path

# In the background a shell has its children ignore Ctrl-C and SIGQUIT, and nohup SIGHUP; so would
# what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Most of what tests wait for is the compiler; what it makes runs for milliseconds.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

# Every process that a test starts imports the same two thousand modules: they are compiled to
# bytecode once, also where the machine is told to write none.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault(
    "PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir(), "project_ranni_bytecode"))
)

import jax
import pytest
from jaxtyping import install_import_hook

# Before any module of the project is imported: from then on every annotated call is checked.
_hook = install_import_hook(["BC_training"], "beartype.beartype")

from gameplay_pipeline.plumbing.workers import usable_cores  # noqa: E402
from tests.support.made_data import Made, make_dataset  # noqa: E402
from tests.support.web import Ranged, serving  # noqa: E402

# Many tests compile the same small step, some in processes of their own: all share one folder,
# which stays for the next run.
CACHE = {
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or str(Path(tempfile.gettempdir(), "project_ranni_compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in CACHE.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait, for a game, a server or a signal."""
    return usable_cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _compiled_for_one_file():
    """Compiled programs of one file serve no other; kept, they would fill gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def made(tmp_path) -> Made:
    """A small dataset whose buttons can be read off its frames."""
    return make_dataset(tmp_path / "made.zarr")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def serve(tmp_path):
    """Serves the test's folder over HTTP; gives the server's address."""
    with contextlib.ExitStack() as servers:
        yield lambda handler=Ranged: servers.enter_context(serving(tmp_path, handler))
