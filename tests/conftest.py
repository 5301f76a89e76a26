"""Fixtures that every test file may use, and the runtime check of shapes and types."""

import jax
import pytest
from jaxtyping import install_import_hook

# Before any module of the project is imported: from then on every annotated call is checked.
_hook = install_import_hook(["BC_training"], "beartype.beartype")

from tests.made_data import Made, make_dataset  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def made(tmp_path) -> Made:
    """A small dataset whose buttons can be read off its frames."""
    return make_dataset(tmp_path / "made.zarr")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
