"""The notebook runs on any dataset, and what is committed of it is what it gives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import zarr
from nbclient import NotebookClient

from tests.support.made_data import make_dataset

NOTEBOOK = Path(__file__).parents[2] / "gameplay_pipeline" / "explore_zarr_dataset.ipynb"
FIGURES = 8
"""Where a dataset has all that can be drawn."""


def opened() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def replace(notebook: Any, old: str, new: str) -> None:
    (cell,) = [cell for cell in code(notebook) if old in cell.source]
    cell.source = cell.source.replace(old, new)


def text(notebook: Any, stream: str = "stdout") -> str:
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == stream)


def images(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {})
               for cell in code(notebook) for output in cell.outputs)  # fmt: skip


@pytest.fixture(scope="module")
def fonts(tmp_path_factory) -> Path:
    """What Matplotlib knows of the fonts here: it looks for them once, and where that takes long
    it says so, which is no output of the notebook."""
    folder = tmp_path_factory.mktemp("matplotlib")
    environment = {**os.environ, "MPLCONFIGDIR": str(folder)}
    look = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(look, env=environment, capture_output=True, check=True)
    return folder


@pytest.fixture
def execute(tmp_path, monkeypatch, fonts):
    """Runs a notebook with a folder of the test's as its own; a cell that raises fails the test."""
    monkeypatch.setenv("MPLCONFIGDIR", str(fonts))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def run(notebook: Any) -> Any:
        NotebookClient(notebook, timeout=300, startup_timeout=300).execute(cwd=folder)
        return notebook

    return run


def pointed_at(dataset: Path) -> Any:
    """The notebook, to be run on another dataset."""
    notebook = opened()
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    cell.source = f"dataset = {str(dataset)!r}"
    return notebook


@pytest.mark.slow
def test_it_records_fights_where_there_are_none_and_shows_them(execute, tmp_path):
    notebook = opened()
    replace(notebook, "episodes=6", "episodes=2")
    replace(notebook, "256x144", "64x36")
    execute(notebook)
    assert sorted(zarr.open_group(tmp_path / "dataset" / "explore.zarr").group_keys()) == [
        "episode_0", "episode_1"
    ]  # fmt: skip
    assert images(notebook) == FIGURES
    assert text(notebook, "stderr") == ""
    assert "HeroAnimId" in text(notebook)
    # What is committed is of these cells; only the recording itself is not in it.
    for fresh, committed in zip(code(notebook)[2:], code(opened())[2:], strict=True):
        kinds = [[(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs]
                 for cell in (fresh, committed)]  # fmt: skip
        assert kinds[0] == kinds[1], fresh.source


def test_it_goes_on_without_a_state(execute, tmp_path):
    made = make_dataset(tmp_path / "made.zarr")
    root = zarr.open_group(made.path)
    del root.attrs["attributes"], root.attrs["fps"]
    for name in root.group_keys():
        del root[f"{name}/state"]
    notebook = execute(pointed_at(made.path))
    assert "This dataset has no state." in text(notebook)
    assert "Without state there is nothing to draw here." in text(notebook)
    assert "This needs a button for dodging" in text(notebook)
    assert images(notebook) == FIGURES - 2
    assert text(notebook, "stderr") == ""


def test_it_draws_other_games_attributes_and_names_what_it_leaves_out(execute, tmp_path):
    made = make_dataset(tmp_path / "made.zarr", attributes={"color_order": "BGR"})
    root = zarr.open_group(made.path)
    for name in root.group_keys():
        root[f"{name}/actions"][:, 1] = False  # a button that is never pressed
    del root["episode_1/actions"]
    root["episode_0"].create_array("intervention", data=np.arange(40) // 10 % 2 == 1)
    root["episode_0"].create_array("policy_actions", data=np.arange(120).reshape(40, 3) % 2 == 0)
    notebook = execute(pointed_at(made.path))
    assert "left out episode_1: it has no actions" in text(notebook)
    assert re.search(r"^hint +-?\d", text(notebook), re.MULTILINE)
    assert images(notebook) == FIGURES - 1 + 1  # no dodges, but corrections
    assert "No policy was corrected" not in text(notebook)
    assert text(notebook, "stderr") == ""


def test_what_is_committed_was_run_from_top_to_bottom():
    notebook = opened()
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run the notebook anew"
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert images(notebook) == FIGURES
    assert text(notebook, "stderr") == ""
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}


def test_what_is_committed_says_nothing_of_the_machine():
    raw = NOTEBOOK.read_text()
    assert len(raw) < 1_500_000
    notebook = json.loads(raw)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    said = json.dumps(notebook)
    assert not re.search(
        r"(?<![\w.])/(home|root|tmp|usr|work|mnt|Users|opt|var)\b|[A-Z]:\\\\", said
    )
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
