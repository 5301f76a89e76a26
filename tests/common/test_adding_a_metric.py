"""docs/adding_a_metric.md, followed word for word."""

import json

import pytest

from tests.support.following import run_commands, write_files
from tests.support.made_data import make_dataset


@pytest.mark.slow
def test_a_metric_can_be_added_by_following_the_page(tmp_path):
    write_files("adding_a_metric.md", tmp_path)
    make_dataset(tmp_path / "dataset" / "boss_arena.zarr", lengths=(60, 50, 40, 30, 40))
    done = run_commands("adding_a_metric.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("overlap") >= 2  # in the run's table and in that of evaluate
    assert "…" not in done.stdout  # one column more cuts no heading
    lines = (tmp_path / "checkpoints" / "pure_cnn" / "metrics.jsonl").read_text().splitlines()
    (overlap,) = [row["val/overlap"] for row in map(json.loads, lines) if "val/overlap" in row]
    assert 0 <= overlap <= 1
