"""The public commands, as a person runs them."""

import json
import re
import signal
import time

import numpy as np
import pytest
import zarr
from flax import nnx

from BC_training import evaluate
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.checkpoints.state import flatten
from BC_training.common import dataset as datasets
from BC_training.training import trainer
from BC_training.training.evaluator import Evaluator
from gameplay_pipeline.plumbing.errors import DataError
from tests.support.commands import (
    ROOT,
    SAMPLE,
    arguments_of,
    last,
    records,
    run,
    start,
    train,
)
from tests.support.made_data import make_dataset, zipped


def test_training_leaves_checkpoints_metrics_configuration_and_a_table(tmp_path):
    made = make_dataset(tmp_path / "d.zarr", attributes={"keys": ["left", "right", "hit[a]"]})
    folder = tmp_path / "run"
    done = train(
        made.path, folder, "--training.num_epochs", "4", "--training.save_every_n_epochs", "1",
        "--training.keep_last_n_checkpoints", "2", "--logging.log_gradients", "true",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert max(len(line) for line in done.out.splitlines() if str(tmp_path) not in line) <= 100
    for word in ("nothing", "majority", "previous", "4/4", "best checkpoint", "hit[a]"):
        assert word in done.out
    # It can't be better than holding what is held at the figure that chooses.
    assert "note: repeating the previous action reaches" in done.out
    assert "to onset_f1, or" in " ".join(done.out.split())
    assert "Traceback" not in done.err
    steps = [int(f.name) for f in folder.iterdir() if f.name.isdigit()]
    assert 2 <= len(steps) <= 3
    assert max(steps) == 4 * (max(steps) // 4)
    assert "conv_depth: 0" in (folder / "config.yaml").read_text()
    figures = records(folder)
    assert any("val/exact_match" in record for record in figures)
    assert any("gradients/head.out.kernel" in record for record in figures)
    assert {"time/frames_per_second", "data/wait_share"} <= set().union(*figures)

    scored = run(
        evaluate.main, "--checkpoint", folder, "--split", "train",
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert scored.status == 0, scored.err
    assert json.loads((tmp_path / "scores.json").read_text())["pure_cnn"]["rows"] == 135


def test_a_killed_run_resumed_equals_one_that_was_not(made, tmp_path):
    options = ("--training.num_epochs", "3", "--training.save_every_n_epochs", "1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(made.path, whole, *options).status == 0
    process = start(("-m", "BC_training", *arguments_of(made.path, killed, *options)))
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("2/3"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert not any(f.name == last(whole).name for f in killed.iterdir())
    resumed = train(made.path, killed, *options, "--resume")
    assert resumed.status == 0, resumed.err
    assert re.search(r"from step (8|16)\b", resumed.out)
    one, other = (checkpoints.load_model(last(folder))[1] for folder in (whole, killed))
    ones, others = (flatten(nnx.state(model)) for model in (one, other))
    for name in ones:
        assert np.array_equal(ones[name], others[name]), name
    steps = [record["step"] for record in records(killed)]
    assert steps == sorted(steps)


def test_ctrl_c_writes_a_checkpoint_and_exits_and_without_a_key_wandb_is_offline(tmp_path):
    """Of train.py, as it is run in its own folder."""
    made = make_dataset(tmp_path / "long.zarr", lengths=(400, 400, 40))
    folder = tmp_path / "run"
    endless = ("--training.num_epochs", "10000", "--logging.log_every_n_steps", "5")
    process = start(
        ("train.py", *arguments_of(made.path, folder, *endless), "--logging.use_wandb", "true"),
        cwd=ROOT / "BC_training", WANDB_MODE="online", WANDB_API_KEY="", HOME=str(tmp_path),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "metrics.jsonl").exists():
        time.sleep(0.2)
    while time.monotonic() < deadline and not (folder / "metrics.jsonl").stat().st_size:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "offline" in err
    assert list((folder / "wandb").glob("offline-run-*"))
    assert "--resume" in out
    bundle = read_bundle(last(folder))
    assert bundle.step > 0
    going_on = train(made.path, folder, "--training.num_epochs", str(bundle.epoch + 1), "--resume")
    assert going_on.status == 0, going_on.err
    assert f"from step {bundle.step}" in going_on.out


@pytest.mark.parametrize("chunk", [1, 16])
def test_a_chunk_that_turns_unreadable_names_itself_and_leaves_a_checkpoint(
    tmp_path, chunk, monkeypatch
):
    made = make_dataset(tmp_path / "made.zarr", lengths=(64, 64, 32), chunk=chunk)
    folder = tmp_path / "run"
    options = (
        *("--training.num_epochs", "6", "--dataset.residency", "stream"),
        *("--dataset.stream_memory_gib", "0.00055", "--dataset.shuffle_buffer", "16"),
        *("--system.num_workers", "2"),
    )
    # Otherwise all of so small a training is read before it begins.
    monkeypatch.setattr(datasets, "MAX_GROUPED", 1)
    make = trainer.TrainStep
    gone = made.path / "episode_1" / "frames" / ("40.0.0.0" if chunk == 1 else "2.0.0.0")
    kept = gone.read_bytes()

    def breaking(*arguments):
        step = make(*arguments)

        def run_step(state, batch, resident):
            state, figures = step(state, batch, resident)
            if int(state.step) == 10:
                gone.unlink(missing_ok=True)
            return state, figures

        return run_step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainStep", breaking)
        broken = train(made.path, folder, *options)
    assert broken.status == 1
    assert "Traceback" not in broken.err
    assert "episode_1/frames: tick" in broken.err
    assert "is missing" in broken.err
    assert "--resume goes on from there" in broken.err
    step = int(last(folder).name)
    assert step >= 10
    assert f"Stopped after step {step}," in broken.err
    gone.write_bytes(kept)
    resumed = train(made.path, folder, *options, "--resume")
    assert resumed.status == 0, resumed.err
    assert f"from step {step}" in resumed.out


def test_residencies_layouts_and_places_give_the_same_metrics(made, tmp_path, serve):
    """The published zip, its folder, the same over HTTP, from a cache, a stream or the device."""
    figures = []
    archive = zipped(made.path)
    places = (made.path, archive, f"{serve()}/{archive.name}")
    kinds = [(place, "auto") for place in places]
    kinds += [(made.path, "stream"), (made.path, "device"), (places[2], "stream")]
    for number, (place, residency) in enumerate(kinds):
        folder = tmp_path / f"run{number}"
        done = train(
            place, folder, "--training.num_epochs", "1", "--dataset.residency", residency,
        )  # fmt: skip
        assert done.status == 0, done.err
        assert f" {'cache' if residency == 'auto' else residency} (" in done.out
        figures.append([
            {name: value for name, value in record.items() if name.startswith(("train", "val"))}
            for record in records(folder)
        ])  # fmt: skip
    assert figures[0]
    assert all(other == figures[0] for other in figures[1:])


def test_an_epoch_that_could_not_be_judged_is_judged_when_the_run_goes_on(made, tmp_path):
    def unreadable(*_):
        raise DataError("episode_4/frames: tick 3 is missing")

    folder, options = tmp_path / "run", ("--training.num_epochs", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "predict", unreadable)
        assert "tick 3 is missing" in train(made.path, folder, *options).err
    assert read_bundle(last(folder)).metrics is None
    assert train(made.path, folder, *options, "--resume").status == 0
    assert train(made.path, tmp_path / "whole", *options).status == 0
    late, at_once = (read_bundle(last(run)) for run in (folder, tmp_path / "whole"))
    assert late.metrics == at_once.metrics is not None
    assert late.thresholds == at_once.thresholds


def test_a_second_run_keeps_the_first_and_resume_refuses_other_settings(made, tmp_path):
    folder = tmp_path / "run"
    assert train(made.path, folder, "--training.num_epochs", "1").status == 0
    again = train(made.path, folder, "--training.num_epochs", "1")
    assert again.status == 0
    assert "the earlier run" in again.out
    assert len(list(tmp_path.glob("run.*"))) == 1
    other = train(made.path, folder, "--training.learning_rate", "0.01", "--resume")
    assert other.status == 1
    assert "training.learning_rate: 0.001 then, 0.01 now" in other.err


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(made, tmp_path):
    folder = tmp_path / "run"
    options = ("--training.save_every_n_epochs", "1", "--logging.log_every_n_steps", "1")
    assert train(made.path, folder, "--training.num_epochs", "1", *options).status == 0
    kept = last(folder)
    make = trainer.TrainStep

    def exploding(*arguments):
        step = make(*arguments)

        def explode(state, batch, resident):
            state, figures = step(state, batch, resident)
            return state._replace(bad_step=np.int32(state.step - 1)), figures

        return explode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TrainStep", exploding)
        broken = train(made.path, folder, "--training.num_epochs", "3", *options, "--resume")
    assert broken.status == 1
    step = int(kept.name)
    assert f"the loss or the update of step {step} (epoch 2) is not finite" in broken.err
    assert f"the checkpoint of step {step} is kept" in broken.err
    checkpoints.load_model(kept)


@pytest.mark.parametrize("flag", [("--model.use_batch_norm", "false"), ()])
def test_a_learning_rate_that_explodes_is_found_out(made, tmp_path, flag):
    broken = train(
        made.path, tmp_path / "run", "--training.num_epochs", "3", *flag,
        "--training.learning_rate", "1e38", "--training.grad_clip_norm", "null",
    )  # fmt: skip
    assert broken.status == 1
    assert "not finite" in broken.err
    assert "Traceback" not in broken.err
    assert not list((tmp_path / "run").glob("[0-9]*"))


def test_resume_refuses_another_dataset(made, tmp_path):
    folder = tmp_path / "run"
    options = ("--training.num_epochs", "2", "--resume")
    assert train(made.path, folder, "--training.num_epochs", "1").status == 0
    longer = make_dataset(tmp_path / "longer.zarr", lengths=(80, 60, 70, 60, 60))
    other = train(longer.path, folder, *options)
    assert other.status == 1
    assert "another number" in other.err
    zarr.open_group(made.path).attrs["keys"] = ["hit", "left", "right"]
    permuted = train(made.path, folder, *options)
    assert permuted.status == 1
    assert "actions hit, left, right, trained on left, right, hit" in permuted.err


def test_a_start_that_fails_leaves_the_earlier_run_where_it_is(made, tmp_path):
    folder = tmp_path / "run"
    assert train(made.path, folder, "--training.num_epochs", "1").status == 0
    kept = last(folder)
    assert train(made.path, folder, "--training.batch_size", "100000").status == 1
    assert last(folder) == kept


def test_a_signal_during_evaluation_stops_after_it(made, tmp_path):
    predict = Evaluator.predict

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return predict(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "predict", interrupted)
        stopped = train(made.path, tmp_path / "run", "--training.num_epochs", "1")
    assert stopped.status == 130
    assert last(tmp_path / "run").name == "8"
    assert "--resume" in stopped.out
    assert "stopping after this epoch's evaluation; a checkpoint will be written" in stopped.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset.path", "nowhere.zarr"), "nowhere.zarr: no such dataset"),
        (("--dataset.path", "README.md"), "README.md: neither a folder nor a whole .zip"),
        (("--training.batch_size", "100000"), "larger than the training split"),
        (("--dataset.train_ratio", "0.0"), "no episode is left to train on"),
        (("--model.name", "brightness"), "model.name: there is no model 'brightness'"),
        (("--training.checkpoint_dir", "README.md/run"), "README.md"),
        (
            ("--environment.id", "Nope-v0", "--evaluation.rollout_episodes", "2"),
            "environment.id: Nope-v0 can't be made",
        ),
        (("--evaluation.rollout_episodes", "2"), "environment.id: missing"),
        (
            (
                "--environment.id",
                "boss_arena:BossArena-v0",
                "--evaluation.rollout_episodes",
                "2",
                "--record.resolution",
                "64",
            ),
            "record.resolution: '64' must be WIDTHxHEIGHT",
        ),
    ],
)
def test_mistakes_get_one_message_and_a_status(made, tmp_path, arguments, message):
    stop = train(made.path, tmp_path / "run", *arguments)
    assert stop.status == 1
    # Each key that the schema refuses has a line of its own after the first.
    lines = [line for line in stop.err.splitlines() if line.startswith(("error: ", "  "))]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert any(message in line for line in lines)
    assert "Traceback" not in stop.err


def test_a_checkpoint_refuses_a_dataset_with_other_actions(made, tmp_path):
    folder = tmp_path / "run"
    assert train(made.path, folder, "--training.num_epochs", "1").status == 0
    zarr.open_group(made.path).attrs["keys"] = ["left", "right", "jump"]
    scored = run(evaluate.main, "--checkpoint", folder)
    assert scored.status == 1
    assert "actions left, right, jump, trained on left, right, hit" in scored.err
    assert run(evaluate.main, "--checkpoint", tmp_path).status == 1
    lost = run(evaluate.main, "--checkpoint", folder, "--json", tmp_path / "nowhere" / "a.json")
    assert f"--json: no folder {tmp_path / 'nowhere'}" in lost.err


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of human play is not here")
def test_human_play_of_another_game_trains_straight_from_the_zip(tmp_path):
    few = ("--training.num_epochs", "1", "--training.steps_per_epoch", "8")
    done = train(SAMPLE, tmp_path / "run", *few)
    assert done.status == 0, done.err
    assert "MOVE_FORWARD" in done.out
