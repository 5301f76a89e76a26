"""The description of a dataset against what was put into it."""

import json

import numpy as np
import pytest
import zarr

from BC_training import analyze_dataset
from BC_training.common.episodes import Episodes
from tests.made_data import ACTIONS
from tests.test_commands import SAMPLE, run


def test_the_figures_are_those_of_the_data(made):
    summary = analyze_dataset.summarize(Episodes(made.path))
    actions = np.concatenate(made.actions)
    assert summary["episodes"] == 5
    assert summary["frames"] == len(actions) == 175
    assert summary["frame_shape"] == [3, 24, 32]
    assert summary["lengths"] == {"min": 20, "median": 35, "max": 50}
    for column, name in enumerate(ACTIONS):
        row = summary["actions"][name]
        assert row["frequency"] == pytest.approx(actions[:, column].mean())
        starts = sum(
            int(pressed[0, column]) + int((pressed[1:, column] & ~pressed[:-1, column]).sum())
            for pressed in made.actions
        )
        assert row["presses"] == starts
    both = {tuple(pair["actions"]): pair["frequency"] for pair in summary["co_pressed"]}
    assert both["left", "right"] == pytest.approx((actions[:, 0] & actions[:, 1]).mean())
    hp = np.concatenate(made.state)[:, 0]
    assert summary["state"]["hp"]["min"] == pytest.approx(hp.min())
    assert summary["state"]["hp"]["distinct"] == len(np.unique(hp))
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("pressed", "lengths"),
    [([], []), ([0, 0], []), ([1], [1]), ([1, 1, 0, 1], [2, 1]), ([0, 1, 1, 1], [3])],
)
def test_press_lengths(pressed, lengths):
    assert analyze_dataset.press_lengths(np.array(pressed, bool)) == lengths


def test_the_command_names_invalid_episodes_and_writes_json(made, tmp_path):
    group = zarr.open_group(made.path)["episode_3"]
    state, short = group["state"][:], group["actions"][:7]
    state[3, 0] = np.nan
    zarr.open_group(made.path)["episode_0/state"][3, 0] = np.nan
    del group["actions"]
    group.create_array("actions", data=short)
    file = tmp_path / "figures.json"
    done = run(analyze_dataset.main, "--dataset", made.path, "--json", file)
    assert done.status == 0, done.err
    assert "episode_3: 20 frames but 7 actions" in done.out
    summary = json.loads(file.read_text())
    assert summary["invalid"] == [
        {"episode": "episode_0", "reason": "its state hp is nan"},
        {"episode": "episode_3", "reason": "20 frames but 7 actions"},
    ]


def test_animation_ids_are_listed_as_a_vocabulary(made):
    root = zarr.open_group(made.path)
    root.attrs["attributes"] = ["NpcAnimId", "hint"]
    for name in root.group_keys():
        state = root[f"{name}/state"]
        state[:, 0] = 3000.0
        state[0, 0] = 3001.0
    row = analyze_dataset.summarize(Episodes(made.path))["state"]["NpcAnimId"]
    assert row["vocabulary"] == {"3000": 170, "3001": 5}


def test_a_missing_dataset_is_one_message(tmp_path):
    done = run(analyze_dataset.main, "--dataset", tmp_path / "nowhere")
    assert done.status == 1
    assert "nowhere: no such dataset. Set dataset.path, or record" in done.err


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of human play is not here")
def test_human_play_is_described():
    done = run(analyze_dataset.main, "--dataset", SAMPLE)
    assert done.status == 0, done.err
    assert "6 episodes, 2,400 frames of 100x160x3" in done.out
    assert max(map(len, done.out.splitlines())) <= 100
