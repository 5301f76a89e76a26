"""What is said of corrections: counted slowly, and scored apart."""

import json

import numpy as np
import pytest
import zarr

from BC_training import analyze_dataset, evaluate
from BC_training.analysis.dataset import interventions
from BC_training.common.episodes import Episodes
from tests.support.commands import run
from tests.support.made_data import ACTIONS, add_corrections
from tests.support.made_policy import made_bundle, save_policy


def test_figures_are_those_of_a_slow_count(made, tmp_path):
    assert interventions.summarize(Episodes(made.path), 0) is None
    drove, _ = add_corrections(made)
    root = zarr.open_group(made.path)
    root.attrs["attributes"] = ["NpcAnimId", "hint"]
    for name in root.group_keys():
        state = root[f"{name}/state"]
        state[:, 0] = 3000 + np.arange(state.shape[0]) // 7 % 3
    times, shown, began, lengths = 0, {}, {}, []
    for pressed in drove:
        before = None
        for tick, is_driven in enumerate(pressed):
            animation = 3000 + tick // 7 % 3
            if tick % 7 == 0:
                shown[animation] = shown.get(animation, 0) + 1
            if is_driven and not before:
                times, began[animation] = times + 1, began.get(animation, 0) + 1
                lengths.append(0)
            if is_driven:
                lengths[-1] += 1
            before = is_driven
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    done = run(analyze_dataset.main, "--dataset", made.path, "--html", page, "--json", figures)
    assert done.status == 0, done.err
    said = json.loads(figures.read_text())["interventions"]
    ticks = sum(map(len, drove))
    assert (said["times"], said["longest_ticks"]) == (times, max(lengths))
    assert said["median_ticks"] == np.median(lengths)
    assert said["times_a_minute"] == pytest.approx(times / (ticks / 17 / 60))
    assert said["driven"] == said["judged"] == pytest.approx(sum(map(np.sum, drove)) / ticks)
    assert said["attribute"] == "NpcAnimId"
    assert said["animations"] == {
        str(animation): {"times": shown[animation], "corrected": count}
        for animation, count in began.items()
    }
    for text in (done.out, page.read_text()):
        assert f"corrected in 5 episodes, {times} times" in " ".join(text.split())


def test_corrected_ticks_are_scored_apart_and_unjudged_ones_not_at_all(made, tmp_path):
    drove, _ = add_corrections(made)
    zarr.open_group(made.path)["episode_2"].attrs["judged"] = "all"
    bundle = made_bundle(ACTIONS, height=24, width=32)
    checkpoint = save_policy(tmp_path / "policy", bundle)
    file = tmp_path / "scores.json"
    where = ("--dataset", made.path, "--split", "train")
    done = run(evaluate.main, "--checkpoint", checkpoint, *where, "--json", file)
    assert done.status == 0, done.err
    rows = json.loads(file.read_text())
    whole, corrected, others = (
        rows[name] for name in ("pure_cnn", "corrected ticks", "other ticks")
    )
    assert whole["rows"] == corrected["rows"] + others["rows"]
    # Four of five episodes are trained on; only the one that was judged throughout has others.
    assert others["rows"] == len(drove[2]) - drove[2].sum()
    assert corrected["rows"] in {
        sum(drove[n].sum() for n in range(5)) - drove[left].sum() for left in range(5)
    }
    parts = [(row["rows"], row["exact_match"]) for row in (corrected, others)]
    assert whole["exact_match"] == pytest.approx(sum(n * e for n, e in parts) / whole["rows"])
    assert "corrected ticks" in done.out
