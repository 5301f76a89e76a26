"""From a recorded session to a policy that is replayed, by the public commands alone."""

import json

import numpy as np
import pytest

from BC_training import __main__, analyze_dataset, evaluate
from BC_training.checkpoints import store as checkpoints
from BC_training.common.episodes import Episodes
from BC_training.play.policy import Policy
from gameplay_pipeline import convert_to_zarr
from gameplay_pipeline.environments.adapter import resize
from tests.support.commands import run
from tests.support.in_play import replay
from tests.support.made_data import Made
from tests.support.made_recording import make_session, write_keybinds

SMALL = (
    *("--model.encoder.backbone.type", "conv", "--model.encoder.backbone.features", "[8, 16]"),
    *("--model.encoder.backbone.depth", "0", "--model.encoder.grid", "[2, 2]"),
    *("--model.encoder.width", "32", "--model.encoder.state_features", "[16]"),
    *("--model.dense_features", "[16]", "--training.batch_size", "16"),
)


@pytest.mark.slow
def test_a_recording_is_converted_analysed_trained_on_and_replayed(tmp_path):
    recordings, out, folder = tmp_path / "recordings", tmp_path / "out.zarr", tmp_path / "run"
    truths = [make_session(recordings / f"session_{n}", n, size=(128, 96)) for n in range(4)]
    binds = write_keybinds(tmp_path / "keybinds.json")
    done = run(
        convert_to_zarr.main, recordings, out, "--keybinds", binds, "--resolution", "64x48",
        "--workers", "1",
    )  # fmt: skip
    assert done.status == 0, done.err
    # What a player of the same fights would see live.
    seen = [np.stack([resize(frame, 64, 48) for frame in truth.frames]) for truth in truths]
    made = Made(
        out,
        [np.moveaxis(frames, -1, 1) for frames in seen],
        [truth.actions for truth in truths],
        [truth.state for truth in truths],
    )
    converted = Episodes(out).episodes
    assert len(converted) == len(truths)
    for episode, truth in zip(converted, truths, strict=True):
        assert truth.actions.any()
        assert np.array_equal(episode.actions, truth.actions)
        assert np.array_equal(episode.state, truth.state.astype(np.float32))

    done = run(analyze_dataset.main, "--dataset", out, "--strict")
    assert done.status == 0, done.out

    done = run(
        __main__.main, "--config", "configs/state_vision.yaml", *SMALL,
        "--dataset.path", out, "--dataset.train_ratio", "0.75", "--dataset.val_ratio", "0.25",
        "--training.num_epochs", "2", "--training.checkpoint_dir", folder,
    )  # fmt: skip
    assert done.status == 0, done.err

    done = run(evaluate.main, "--checkpoint", folder, "--json", tmp_path / "scores.json")
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "scores.json").read_text())["state_vision"]["rows"]
    assert rows == len(truths[0].actions)

    bundle, model = checkpoints.load_model(checkpoints.locate(folder))
    replay(Policy(bundle, model), model, made)
