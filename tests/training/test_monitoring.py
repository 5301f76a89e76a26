"""What a run can be watched by: fights while it trains, Weights & Biases, TensorBoard, pictures."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import warnings
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import wandb
import yaml
from scipy import stats
from sklearn import metrics as sklearn_metrics
from tensorboardX.proto.event_pb2 import Event
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from BC_training import evaluate, train
from BC_training.analysis.policy import charts
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.common import config_file, metrics
from BC_training.play import fights, summary
from BC_training.training import ranking, trainer
from BC_training.training import run_log as runlog
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record
from tests.support import wandb_file
from tests.support.commands import records, run, start

PACKAGE = Path(config_file.__file__).parent.parent
SWEEPS = sorted((PACKAGE / "configs" / "sweeps").glob("*.yaml"))
LAZY = "tests.support.toy_env:Lazy-v0"
FIGHTS = {"rollout_episodes": 2, "rollout_every_n_epochs": 1}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "toy.zarr"
    record(RecordConfig(out=folder, env=LAZY, episodes=6, resolution="40x30"))
    return folder


@pytest.fixture
def configure(recorded, tmp_path):
    def configured(run="run", env=LAZY, evaluation=FIGHTS, logging=None, **training):
        raw = {
            "dataset": {
                "path": str(recorded), "train_ratio": 0.7, "val_ratio": 0.3,
                "cache_dir": str(tmp_path / "cache"),
            },
            "model": {
                "name": "pure_cnn", "conv_stem": 2, "conv_features": [4, 8], "conv_depth": 0,
                "dense_features": [8],
            },
            "training": {
                "batch_size": 16, "num_epochs": 4, "checkpoint_dir": str(tmp_path / run),
                "learning_rate": 0.02, **training,
            },
            "evaluation": evaluation,
            "environment": {"id": env},
            "logging": logging or {},
        }  # fmt: skip
        return config_file.validate(raw, "the test")

    return configured


@pytest.fixture
def nearby(monkeypatch):
    """Fights in this process, for tests of other things than processes."""
    keep_fights = fights.keep_fights

    def here(tasks, setup, workers, file):
        return keep_fights(tasks, setup, 0, file)

    monkeypatch.setattr(fights, "keep_fights", here)


@contextlib.contextmanager
def warned():
    """The texts of all warnings."""
    texts = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield texts
    texts += [str(each.message) for each in found]


def by_step(folder):
    steps = {}
    for row in records(folder):
        steps.setdefault(row["step"], {}).update(row)
    return steps


def without_times(folder):
    timed = ("time/", "data/")
    return [
        {name: value for name, value in row.items() if not name.startswith(timed)}
        for row in records(folder)
    ]


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    for size in (2, 3, 10):
        one, other = rng.integers(0, 4, (2, size)).astype(float)
        one[:2], other[:2] = (0, 1), (1, 0)
        ours = ranking.spearman(one, other)
        assert ours == pytest.approx(stats.spearmanr(one, other).statistic)
    assert ranking.spearman(np.ones(5), np.arange(5.0)) is None
    assert ranking.spearman(np.ones(1), np.ones(1)) is None


def test_correlations_take_checkpoints_that_have_both_and_turn_what_is_good_when_low():
    removed = [0.1, 0.4, 0.3, 0.6]
    history = [
        {"val/loss": -x, "val/macro_f1": -x, "fights/boss_health_removed": x, "fights/won": None}
        for x in removed
    ]
    history += [{"val/loss": 9.0}, {"val/macro_f1": None, "fights/boss_health_removed": 0.9}]
    found, count = ranking.correlate(history)
    assert count == 5
    assert found["val/loss"]["fights/boss_health_removed"] == pytest.approx(1)
    assert found["val/macro_f1"]["fights/boss_health_removed"] == pytest.approx(-1)
    assert found["val/loss"]["fights/won"] is None
    assert found["val/exact_match"]["fights/boss_health_removed"] is None


@pytest.mark.usefixtures("nearby")
def test_checkpoints_fight_while_they_are_trained_and_fights_choose_the_best(configure, capsys):
    evaluation = {**FIGHTS, "best_metric": "boss_health_removed", "eval_every_n_epochs": 3}
    config = configure(
        evaluation=evaluation, keep_last_n_checkpoints=10, save_every_n_epochs=1, num_epochs=2
    )
    with warned() as texts:
        folder = trainer.train(config)
    assert texts == ["2 checkpoints fought: with fewer than 4, chance ranks them alike"]
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(folder) not in line) <= 100
    assert sum(line.startswith("   fights  won ") for line in out.splitlines()) == 2
    assert "Rank correlation with the fights of 2 checkpoints" in out
    fought = {step: row for step, row in by_step(folder).items() if "fights/won" in row}
    assert len(fought) == 2
    removed = {}
    for step, row in fought.items():
        # Where the policy fought it was also evaluated.
        assert row["val/exact_match"] is not None
        found = json.loads((folder / "fights" / f"{step}.json").read_text())
        (summary,) = found["summary"].values()
        assert [fight["seed"] for fight in found["fights"]] == [1_000_002, 1_000_003]
        assert row["fights/return"] == summary["reward"]["mean"]
        assert row["fights/boss_health_removed"] == summary["boss_health_removed"]["mean"]
        bundle = read_bundle(folder / str(step))
        assert bundle.fights is not None
        assert bundle.fights["seconds"] == row["fights/seconds"]
        removed[step] = row["fights/boss_health_removed"]
        with av.open(str(folder / "fights" / f"{step}.mp4")) as film:
            frames = sum(1 for _ in film.decode(video=0))
        assert frames == round(17 * found["fights"][0]["seconds"])
    best = checkpoints.locate(folder)
    assert removed[int(best.name)] == max(removed.values())
    assert not (folder / "fights" / "player").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("nearby")
def test_an_interrupted_run_fights_and_ranks_as_one_that_was_not(configure, capsys):
    evaluation = {**FIGHTS, "best_metric": "reward"}
    options = {"evaluation": evaluation, "save_every_n_epochs": 2, "num_epochs": 2}
    whole, halves = configure("whole", **options), configure("halves", **options)
    with warned():  # that two checkpoints are few
        trainer.train(whole)
    table = capsys.readouterr().out.partition("Rank correlation")[2].partition("best check")[0]
    keep_fights, done = fights.keep_fights, []

    def killed(*arguments, **options):
        done.append(1)
        if len(done) == 2:
            raise SystemExit("killed")
        return keep_fights(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fights, "keep_fights", killed)
        with pytest.raises(SystemExit):
            trainer.train(halves)
    capsys.readouterr()
    with warned():
        trainer.train(halves, resume=True)
    resumed = capsys.readouterr().out
    assert resumed.partition("Rank correlation")[2].partition("best check")[0] == table
    assert without_times(halves.run_dir()) == without_times(whole.run_dir())
    assert checkpoints.locate(halves.run_dir()).name == checkpoints.locate(whole.run_dir()).name


@pytest.mark.usefixtures("nearby")
def test_a_signal_during_fights_ends_them_at_once_and_says_what_is_kept(
    configure, monkeypatch, capsys
):
    monkeypatch.setenv("TOY_SECONDS_A_TICK", "1")  # a fight takes many seconds
    config, run_fights, sent = configure(), fights.run_fights, []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def begin(*arguments):
        threading.Timer(1.5, interrupt).start()
        return run_fights(*arguments)

    monkeypatch.setattr(fights, "run_fights", begin)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config)
    assert time.monotonic() - sent[0] < 5
    (step,) = [int(found.name) for found in config.run_dir().iterdir() if found.name.isdigit()]
    assert read_bundle(config.run_dir() / str(step)).fights is None
    said = f"the fights end; --resume goes on from the checkpoint of step {step}"
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("tests.support.toy_env:Crashing-v0", "ZeroDivisionError: the boss fell through the floor"),
        ("tests.support.toy_env:Killed-v0", "a worker process died"),
    ],
)
def test_an_environment_that_fails_does_not_end_the_run(configure, request, env, message):
    if "Crashing" in env:
        request.getfixturevalue("nearby")
    evaluation = {"rollout_episodes": 6, "rollout_every_n_epochs": 1, "best_metric": "reward"}
    config = configure(env=env, evaluation=evaluation, num_epochs=1)
    with warned() as texts:
        folder = trainer.train(config)
    assert "epoch 1 has no figures of fights: " in texts[0]
    assert message in texts[0]
    assert texts[1:] == ["0 checkpoints fought: with fewer than 4, chance ranks them alike"]
    assert read_bundle(checkpoints.locate(folder)).epoch == 1
    assert not any("fights/won" in row for row in records(folder))


@pytest.mark.usefixtures("nearby")
def test_an_environment_that_does_not_say_what_is_judged_is_warned_of(configure, monkeypatch):
    evaluation = {**FIGHTS, "best_metric": "fights_won"}
    means = summary.means
    monkeypatch.setattr(summary, "means", lambda row: means(row) | {"won": None})
    config = configure(num_epochs=2, evaluation=evaluation)
    with warned() as texts:
        folder = trainer.train(config)
    assert [text for text in texts if "Lazy-v0 does not say fights_won; the latest" in text]
    assert "2 checkpoints fought: with fewer than 4, chance ranks them alike" in texts
    assert read_bundle(checkpoints.locate(folder)).epoch == 2


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("evaluation", {"best_metric": "reward"}, "reward, which fights decide, but none are had"),
        (
            "evaluation",
            {"best_metric": "fights_won", "rollout_episodes": 9},
            "set rollout_every_n_epochs and rollout_episodes",
        ),
        ("evaluation", {"rollout_every_n_epochs": 2}, "rollout_every_n_epochs needs rollout_epi"),
        ("logging", {"wandb_artifact": True}, "logging: wandb_artifact needs use_wandb"),
        (
            "training",
            {"early_stopping_patience": 2},
            r"patience \(2\) is over before .* reward, is measured every 3 epochs",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section, values, message):
    raw = {"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}, section: values}
    if section == "training":
        raw["evaluation"] = {
            "best_metric": "reward", "rollout_episodes": 1, "rollout_every_n_epochs": 3,
        }  # fmt: skip
    with pytest.raises(UserError, match=message):
        config_file.validate(raw, "the test")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (None, r"environment\.id: missing; evaluation\.rollout_every_n_epochs needs one"),
        ("tests.support.toy_env:Unmakeable-v0", "the game is not installed"),
        ("boss_arena:BossArena-v0", "frames are at least 64x36"),
    ],
)
def test_an_environment_that_can_not_be_had_is_refused_before_training(configure, env, message):
    config = configure(env=env)
    with pytest.raises(UserError, match=message):
        trainer.train(config)
    assert not (config.run_dir() / "metrics.jsonl").exists()


@pytest.mark.usefixtures("nearby")
def test_weights_and_biases_gets_all_of_it(configure):
    logging = {
        "use_wandb": True, "wandb_artifact": True, "log_gradients": True, "wandb_project": "p",
        "log_every_n_steps": 2,
    }  # fmt: skip
    config = configure(logging=logging, num_epochs=2)
    with warned():  # that two checkpoints are few
        folder = trainer.train(config)
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = list(wandb_file.records(file))
    rows = [
        wandb_file.items(each.history.item)
        for each in found if each.WhichOneof("record_type") == "history"
    ]  # fmt: skip
    local = records(folder)
    for row in local:
        same = [each for each in rows if each["step"] == row["step"]]
        for name, value in row.items():
            counted = name.rpartition("/")[2] in runlog.NOT_CHARTED
            if value is None or counted:
                assert not any(name in each for each in same), name
            else:
                assert any(each.get(name) == pytest.approx(value) for each in same), name
    names = set().union(*rows)
    sections = {name.partition("/")[0] for name in names if "/" in name}
    assert sections == {
        "train", "val", "val_action", "fights", "time", "data", "gradients", "charts",
    }  # fmt: skip
    assert "val_action/hit/onsets/f1" in names
    assert "val_action/hit/predicted_frequency" in names
    for media in ("charts/timeline", "charts/precision_recall", "charts/frequency", "fights/video"):
        files = [row[f"{media}/path"] for row in rows if f"{media}/path" in row]
        assert len(files) == 2, media
        assert all((file.parent / "files" / each).stat().st_size > 1000 for each in files)
    (axis,) = [each.metric for each in found if each.WhichOneof("record_type") == "metric"]
    assert (axis.glob_name, axis.step_metric) == ("*", "step")

    told = {
        each.key: json.loads(each.value_json)
        for record_ in found if record_.WhichOneof("record_type") == "run"
        for each in record_.run.config.update
    }  # fmt: skip
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: told[name] for name in resolved} == resolved
    assert told["run"]["dataset_fingerprint"]
    assert told["run"]["device"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=PACKAGE, capture_output=True, text=True
    )  # fmt: skip
    assert told["run"]["code"].removesuffix("-dirty") == head.stdout.strip()

    best = checkpoints.locate(folder)
    summary = {}
    for each in found:
        if each.WhichOneof("record_type") == "summary":
            summary |= wandb_file.items(each.summary.update)
    assert summary["best/step"] == int(best.name)
    bundle = read_bundle(best)
    assert bundle.metrics is not None
    assert summary["best/val/exact_match"] == pytest.approx(bundle.metrics["exact_match"])
    correlations, _ = ranking.correlate(list(by_step(folder).values()))
    known = correlations["val/loss"]["fights/return"]
    assert summary.get("rank_correlation/val/loss/fights/return") == pytest.approx(known)
    (artifact,) = [e.artifact for e in found if e.WhichOneof("record_type") == "artifact"]
    assert artifact.name == "pure_cnn"
    assert "best" in artifact.aliases
    packed = {entry.path for entry in artifact.manifest.contents}
    assert "bundle/metadata" in packed
    assert any(path.startswith("model/") for path in packed)


@pytest.mark.parametrize("broken", ["init", "log"])
def test_weights_and_biases_never_stops_a_run(configure, monkeypatch, broken):
    def fails(*_, **__):
        raise RuntimeError("the service is on fire")

    target = wandb if broken == "init" else wandb.Run
    monkeypatch.setattr(target, broken, fails)
    logging = {"use_wandb": True, "wandb_artifact": True}
    config = configure(evaluation={}, logging=logging, num_epochs=1)
    with pytest.warns(UserWarning, match="takes no further part: the service is on fire") as found:
        folder = trainer.train(config)
    assert len(found) == 1
    assert any("val/exact_match" in row for row in records(folder))
    wandb.teardown()


def test_without_a_network_a_run_is_offline(tmp_path):
    script = (
        "from pathlib import Path; from BC_training.common import config_file;"
        "from BC_training.training import run_log; run_log.WANDB_TIMEOUT_S = 3;"
        "settings = config_file.load('configs/pure_cnn.yaml', ['--logging.use_wandb', 'true']);"
        f"log = run_log.RunLog(Path({str(tmp_path)!r}), settings, resume_from=None);"
        "log.write(7, {'train/loss': 1.5}); log.close()"
    )
    nobody = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    process = start(("-c", script), WANDB_MODE="online", HOME=str(tmp_path), **nobody)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Weights & Biases is offline for this run: " in err
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [wandb_file.items(each.history.item) for each in wandb_file.records(file)]
    assert 1.5 in [row.get("train/loss") for row in rows]


def test_a_resumed_run_goes_on_with_its_run_of_weights_and_biases(configure, monkeypatch, tmp_path):
    asked = []
    real = wandb.init

    def init(**arguments):
        asked.append(arguments)
        return real(**{**arguments, "mode": "offline", "resume": None})

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **_: True)  # asks the server
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    config = configure(evaluation={}, logging={"use_wandb": True})
    for resume_from in (None, 8, None):
        runlog.RunLog(tmp_path, config, resume_from=resume_from).close()
    first, second, third = asked
    assert "id" not in first
    assert "id" not in third
    assert second["resume"] == "allow"
    (name,) = {file.stem.removeprefix("run-") for file in tmp_path.rglob("*.wandb")
               if second["id"] in file.stem}  # fmt: skip
    assert name == second["id"]


def tensorboard(folder):
    """Events of a folder: records of a length, its checksum, the data, its checksum."""
    for file in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        raw, at = file.read_bytes(), 0
        while at < len(raw):
            length = int.from_bytes(raw[at : at + 8], "little")
            yield Event.FromString(raw[at + 12 : at + 12 + length])
            at += length + 16


def test_tensorboard_gets_figures_pictures_and_where_to_go_on(configure):
    config = configure(
        evaluation={}, num_epochs=2, logging={"tensorboard": True}, save_every_n_epochs=1
    )
    folder = trainer.train(config)
    values = {
        (event.step, value.tag): value
        for event in tensorboard(folder / "tensorboard") for value in event.summary.value
    }  # fmt: skip
    rows = by_step(folder)
    assert len(rows) == 2
    for step, row in rows.items():
        for name in ("train/loss", "val/exact_match", "val_action/hit/recall", "time/epoch_s"):
            assert values[step, name].simple_value == pytest.approx(row[name], rel=1e-5)
        encoded = values[step, "charts/timeline"].image.encoded_image_string
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] == 1200
    texts = {tag: value.tensor.string_val[0].decode() for (_, tag), value in values.items()
             if "text_summary" in tag}  # fmt: skip
    assert any("    conv_depth: 0" in text.replace("      ", "    ") for text in texts.values())

    trainer.train(config.model_copy(
        update={"training": config.training.model_copy(update={"num_epochs": 3})}
    ), resume=True)  # fmt: skip
    starts = [e.step for e in tensorboard(folder / "tensorboard") if e.HasField("session_log")]
    assert starts[-1] == max(rows) + 1


def test_precision_and_recall_are_sklearns():
    rng = np.random.default_rng(0)
    pressed = rng.random(200) < 0.3
    scores = np.round(np.clip(pressed * 0.3 + rng.random(200) * 0.7, 0, 1), 1)
    precision, recall = metrics.precision_recall(scores, pressed)
    theirs = sklearn_metrics.precision_recall_curve(pressed, scores)
    np.testing.assert_allclose(precision, theirs[0][:-1][::-1])
    np.testing.assert_allclose(recall, theirs[1][:-1][::-1])


def colors(picture):
    return {tuple(color) for color in picture.reshape(-1, 3).tolist()}


def rgb(color):
    return tuple(bytes.fromhex(color.removeprefix("#")))


@pytest.mark.parametrize(
    ("true", "predicted", "present"),
    [
        (False, False, set()),
        (True, True, {charts.TRUE, charts.RIGHT}),
        (True, False, {charts.TRUE}),
        (False, True, {charts.WRONG}),
    ],
)
def test_a_timeline_shows_what_was_right_and_what_was_not(true, predicted, present):
    names = ("dodge $1 roll/dash", "x" * 30)
    actions = np.zeros((700, 2), bool)
    actions[50:90, 0] = true
    probabilities = np.zeros((700, 2))
    probabilities[50:90, 0] = 0.3 * predicted
    drawn = charts.draw(
        probabilities, actions, np.zeros(700, int), title="episode_3", names=names,
        thresholds=np.array([0.3, 0.5]), threshold=0.5, fps=None,
    )  # fmt: skip
    seen = colors(drawn["timeline"])
    for color in (charts.TRUE, charts.RIGHT, charts.WRONG):
        assert (rgb(color) in seen) == (color in present), color
    assert drawn["frequency"].shape[1] == 800
    assert drawn["precision_recall"].shape == (500, 800, 3)


def test_a_timeline_has_a_bar_for_each_press_at_its_time():
    actions = np.zeros((40, 1), bool)
    actions[[0, 1, 5, 39], 0] = True
    figure = charts.timeline(
        np.zeros((40, 1)), actions, title="episode_3", names=("a",),
        thresholds=np.array([0.5]), fps=10.0,
    )  # fmt: skip
    assert figure.axes[0].get_title(loc="left").startswith("episode_3. Dark")
    (axes,) = figure.axes
    bars = [path.get_extents() for path in axes.collections[0].get_paths()]
    assert [(round(bar.x0, 6), round(bar.x1, 6)) for bar in bars] == [
        (0.0, 0.2), (0.5, 0.6), (3.9, 4.0),
    ]  # fmt: skip


def test_frequencies_stand_beside_each_other():
    figure = charts.frequency(np.array([0.5, 0.0]), np.array([0.25, 0.1]), ("a", "b"), 0.5)
    player, policy = figure.axes[0].containers[:2]
    assert [bar.get_width() for bar in player] == [25.0, 10.0]
    assert [bar.get_width() for bar in policy] == [50.0, 0.0]


def test_evaluate_draws_a_timeline(configure, tmp_path):
    folder = trainer.train(configure(evaluation={}, num_epochs=1))
    picture = tmp_path / "timeline.png"
    done = run(evaluate.main, "--checkpoint", folder, "--timeline", picture)
    assert done.status == 0, done.err
    assert cv2.imread(str(picture)).shape[1] == 1200
    refused = run(evaluate.main, "--checkpoint", folder, "--timeline", "timeline.bmp")
    assert refused.status == 1
    assert "--timeline: timeline.bmp does not end in .png, .svg or .pdf" in refused.err


@pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
def test_a_sweeps_command_line_is_accepted(file, monkeypatch, tmp_path):
    # As W&B reads it: 1e-4 would be a text.
    sweep = yaml.safe_load(file.read_text())
    assert f"wandb sweep BC_training/configs/sweeps/{file.name}" in file.read_text()
    assert (PACKAGE.parent / sweep["program"]).exists()
    choices = {}
    for name, parameter in sweep["parameters"].items():
        choices[name] = parameter.get("values") or [parameter["min"], parameter["max"]]
        assert all(isinstance(each, int | float) or name.startswith(("model.", "training.loss"))
                   for each in choices[name]), name  # fmt: skip
    # What the agent would run, with an echo in the place of the training.
    for values in itertools.zip_longest(*choices.values()):
        chosen = {name: {"value": choices[name][0] if value is None else value}
                  for name, value in zip(choices, values, strict=True)}  # fmt: skip
        arguments = create_sweep_command_args({"args": chosen})
        words = []
        for word in create_sweep_command(list(sweep["command"])):
            macros = {"${env}": ["/usr/bin/env"], "${args}": arguments["args"]}
            words += macros.get(word, [word])
        script = words.index("-c") + 1
        words[script] = words[script].replace("exec uv run -m BC_training", "printf '%s\\n'")
        said = subprocess.run(
            words, capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin", "WANDB_RUN_ID": "ab12"},
        )  # fmt: skip
        config, resume = train.parse(said.stdout.splitlines())
        assert not resume
        assert config.run_dir() == Path("checkpoints/sweep/ab12")
        assert config.logging.use_wandb
        for name, value in chosen.items():
            section, *rest = name.split(".")
            found = getattr(config, section)
            for key in rest:
                found = getattr(found, key)
            expected = value["value"]
            expected = tuple(json.loads(expected)) if str(expected)[0] == "[" else expected
            assert found == expected, name
    best = sweep["metric"]["name"].removeprefix("best/").partition("/")
    assert best[0] in ("val", "fights")
