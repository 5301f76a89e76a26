"""The page on adding an environment is followed word for word."""

import json

import pytest
import zarr

from tests.support.following import run_commands, write_files

PAGE = "adding_an_environment.md"


@pytest.mark.slow
def test_an_environment_can_be_added_by_following_the_page(tmp_path):
    assert write_files(PAGE, tmp_path) == ["my_games/catch.py", "my_games/catch.yaml"]
    done = run_commands(PAGE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    root = zarr.open_group(tmp_path / "dataset" / "catch.zarr", mode="r")
    assert root.attrs["keys"] == ["left", "right"]
    assert root.attrs["attributes"] == ["bat", "ball"]
    (kept,) = (tmp_path / "checkpoints" / "catch").rglob("fights.json")
    summary = json.loads(kept.read_text())["summary"]
    assert list(summary) == ["pure_cnn", "expert", "random", "nothing", "previous"]
    assert summary["expert"]["won"]["mean"] == 1
    # It learned to catch: far more than buttons that don't look.
    removed = {name: row["boss_health_removed"]["mean"] for name, row in summary.items()}
    assert removed["pure_cnn"] > 2 * max(removed["random"], removed["nothing"])
    assert (tmp_path / "checkpoints" / "catch" / "fight.mp4").stat().st_size > 1000
