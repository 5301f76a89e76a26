"""The configuration: YAML, overrides, and what is refused."""

from pathlib import Path

import pytest

from BC_training import models
from BC_training.checkpoints.bundle import build
from BC_training.common import config as configs
from BC_training.common import config_file
from BC_training.common.dataset_paths import locate_datasets
from gameplay_pipeline.plumbing.errors import UserError
from tests.support import config_reads
from tests.support.made_policy import made_bundle

PACKAGE = Path(configs.__file__).parent.parent
MINIMAL = "dataset:\n  path: d.zarr\nmodel:\n  name: pure_cnn\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return str(file)

    return write


def test_the_predecessors_file_runs_and_retired_keys_warn(write):
    file = write(
        """
dataset: {path: ./d.zarr, train_ratio: 0.8, val_ratio: 0.2, split_seed: 42,
          normalize_frames: true, use_state: false, validate_episodes: true}
model: {name: pure_cnn, conv_features: [32, 64, 128, 256], dense_features: [512, 256],
        dropout_rate: 0.1, use_batch_norm: true}
training:
  batch_size: 32
  num_epochs: 50
  learning_rate: 1e-3
  weight_decay: 0.0001
  lr_schedule: {type: cosine, warmup_epochs: 5, min_lr: 0.00001}
  loss: {type: bce}
  use_class_weights: true
  label_smoothing: 0.0
  grad_clip_norm: 1.0
  checkpoint_dir: ./checkpoints/pure_cnn
  save_every_n_epochs: 5
  keep_last_n_checkpoints: 3
evaluation: {eval_every_n_epochs: 1, metrics_threshold: 0.5}
logging: {use_wandb: true, wandb_project: P, wandb_entity: E, wandb_run_name: N,
          log_every_n_steps: 50, log_gradients: false}
system: {seed: 42, num_workers: 4, pin_memory: false}
"""
    )
    with pytest.warns(UserWarning, match=r"system\.pin_memory is retired"):
        config = config_file.load(file)
    assert config.training.learning_rate == 1e-3
    assert config.model.conv_features == (32, 64, 128, 256)
    assert config.run_dir() == Path("checkpoints/pure_cnn")


def test_overrides_are_spelled_as_in_the_file(write):
    config = config_file.load(
        write(MINIMAL),
        [
            *("--training.learning_rate", "1e-4", "--model.conv_features", "[8, 16]"),
            *("--logging.use_wandb", "true", "--training.grad_clip_norm", "null"),
            *("--dataset.path", "a b.zarr", "--training.lr_schedule.type", "constant"),
            "--system.seed=7",
        ],
    )
    assert config.training.learning_rate == 1e-4
    assert config.model.conv_features == (8, 16)
    assert config.logging.use_wandb is True
    assert config.training.grad_clip_norm is None
    assert config.dataset.path == "a b.zarr"
    assert config.training.lr_schedule.type == "constant"
    assert config.system.seed == 7


def test_the_resolved_file_loads_as_the_same_configuration(write):
    config = config_file.load(write(MINIMAL), ["--training.batch_size", "8"])
    again = config_file.load(write(config_file.to_yaml(config)))
    assert again.model_dump() == config.model_dump()


@pytest.mark.parametrize("path", sorted((PACKAGE / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_load_from_anywhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_file.load(f"configs/{path.name}")
    assert path.read_text().startswith("#")
    assert f"--config configs/{path.name}" in path.read_text()
    assert config.model.name in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "training: {lerning_rate: 1}", r"lerning_rate: unknown key.*g\.learning_rate"),
        (MINIMAL + "trainin: {}", r"trainin: unknown key.*nearest known one is training"),
        (MINIMAL + "training: {batch_size: many}", r"training\.batch_size: .*integer, not 'many'"),
        (MINIMAL + "training: {batch_size: 0}", r"batch_size: .*greater than or equal to 1"),
        (MINIMAL + "training: {use_class_weights: 1}", r"training\.use_class_weights: .*boolean"),
        (MINIMAL + "training: {learning_rate: .nan}", r"training\.learning_rate: .*not nan"),
        (MINIMAL + "training: {lr_schedule: {type: step}}", r"type: .*'cosine' or 'constant'"),
        (MINIMAL + "training: {learning_rate: 1e-6}", r"min_lr .* above learning_rate"),
        (MINIMAL.replace("d.zarr", "d.zarr\n  train_ratio: 0.9\n  val_ratio: 0.2"), r"more than 1"),
        (MINIMAL.replace("d.zarr", "d.zarr\n  train_ratio: 1.2"), r"dataset\.train_ratio"),
        (MINIMAL.replace("d.zarr", "d.zarr\n  path: e.zarr"), r"'path' is given twice"),
        (MINIMAL.replace("pure_cnn", "pure_cn"), r"no model 'pure_cn'.*'pure_cnn'.*Known"),
        ("dataset: {path: d}", r"section model, .* is missing"),
        ("model: {name: pure_cnn}", r"dataset: missing"),
        ("- a", r"expected sections"),
        ("a: [", r"not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(write, text, message):
    with pytest.raises(UserError, match=message):
        config_file.load(write(text))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.lerning_rate", "1"], r"lerning_rate: unknown key.*training\.learning_rate"),
        (["--training.batch_size"], r"--training\.batch_size: a value is missing"),
        (
            ["--training.batch_size", "--system.seed=1"],
            r"--training\.batch_size: a value is missing",
        ),
        (["training.batch_size", "1"], r"training\.batch_size: expected --section\.key VALUE"),
        (["--model.conv_features", "[8"], r"--model\.conv_features: '\[8' is not valid YAML"),
        (["--training.batch_size.more", "1"], r"training\.batch_size: .*integer"),
    ],
)
def test_flags_that_are_none_are_named(write, flags, message):
    with pytest.raises(UserError, match=message):
        config_file.load(write(MINIMAL), flags)


def test_help_shows_each_key_with_the_value_in_force(write, capsys):
    with pytest.raises(SystemExit) as stop:
        config_file.load(write(MINIMAL), ["--training.batch_size", "8", "-h"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    for key, field in config_file.keys(config_file.schema_of("pure_cnn")):
        assert key in help_text, field
    assert "--training.batch_size 8\n" in help_text
    assert "Share of the episodes to train on" in help_text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.batch_size", "many"], r"training\.batch_size: .*integer, not 'many'"),
        (["--logging.use_wandb", "yes please"], r"logging\.use_wandb: .*boolean"),
        (["--dataset.train_ratio", "0.95"], "more than 1"),
        (["--training.learning_rate", ".inf"], r"training\.learning_rate: .*finite"),
        (["--model.conv_features", "[0]"], r"model\.conv_features\.0: .*greater than 0"),
        (["--system.seed", "99999999999"], r"system\.seed: .*less than"),
    ],
)
def test_wrong_overrides_are_refused_in_the_words_of_the_file(write, flags, message):
    with pytest.raises(UserError, match=message):
        config_file.load(write(MINIMAL), flags)


YAML = """
dataset: {path: d.zarr}
model: {name: pure_cnn}
training:
  <<: &fast {batch_size: 010, num_epochs: 1_000, learning_rate: 1e-3}
  num_epochs: 2
  lr_schedule:
logging:
system:
  num_workers: ~
environment:
  actions: {on: x, no: y, 1: z}
  arguments: {at: 12:30, day: 2026-11-23}
"""


def test_yaml_is_read_as_its_writer_meant_it(write):
    config = config_file.load(write(YAML))
    assert (config.training.batch_size, config.training.num_epochs) == (10, 2)
    assert config.training.learning_rate == 1e-3
    assert config.training.lr_schedule == configs.ScheduleConfig()
    assert config.logging == configs.LoggingConfig()
    assert config.environment.actions == {"on": "x", "no": "y", "1": "z"}
    assert config.environment.arguments == {"at": "12:30", "day": "2026-11-23"}


def test_an_alias_is_a_copy(write):
    file = write(MINIMAL + "training: {lr_schedule: &x {type: constant}}\n"
                 "environment: {arguments: *x}\n")  # fmt: skip
    config = config_file.load(file, ["--training.lr_schedule.type", "cosine"])
    assert config.environment.arguments == {"type": "constant"}


def test_a_partial_section_keeps_the_models_other_defaults(write):
    text = MINIMAL.replace("pure_cnn", "state_vision\n  encoder: {}")
    whole = config_file.load(write(text))
    assert whole.model.encoder.state
    partial = config_file.load(write(text.replace("{}", "{backbone: {type: conv}}")))
    assert partial.model.encoder == whole.model.encoder


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases stand for more than"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}"), "not valid YAML"),
        ("a: &a {b: *a}", "aliases stand for more than"),
        ("[" * 5_000, "nested too deep"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "a single document"),
        ("[a, b]: c", "a key must be a text"),
        ("\x00", "not valid YAML"),
        (MINIMAL + "environment: {arguments: {a: !!binary YQ==}}", "values must be plain YAML"),
        (MINIMAL + "logging: {wandb_project: no}", "not False; put a text in quotes"),
        ("", "expected sections"),
    ],
)
def test_hostile_yaml_is_refused_at_once(write, text, message):
    with pytest.raises(UserError, match=message):
        config_file.load(write(text))


def test_names_stay_names_and_retired_flags_warn(write):
    flags = ["--logging.wandb_run_name", "2026-11-23", "--system.pin_memory=true"]
    with pytest.warns(UserWarning, match=r"system\.pin_memory is retired"):
        config = config_file.load(write(MINIMAL), flags)
    assert config.logging.wandb_run_name == "2026-11-23"


def test_keys_under_their_earlier_names_work_and_warn(write):
    file = write(MINIMAL)
    with pytest.warns(UserWarning, match=r"record_episodes is now called record\.episodes"):
        config = config_file.load(file, ["--dataset.record_episodes", "7"])
    assert config.record.episodes == 7
    both = ["--dataset.record_episodes", "7", "--record.episodes", "8"]
    with pytest.raises(UserError, match=r"is now called record\.episodes, and both are given"):
        config_file.load(file, both)
    # As an earlier version wrote it into a checkpoint, where nobody can be warned.
    raw = config.model_dump(mode="json")
    raw["dataset"] |= {f"record_{key}": value for key, value in raw.pop("record").items()}
    assert config_file.stored(raw, "the bundle").model_dump() == config.model_dump()


def test_a_dataset_path_is_looked_up_from_the_repository_too(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_file.load(write(MINIMAL), ["--dataset.path", "tests"])
    assert locate_datasets(config.dataset) == [[PACKAGE.parent / "tests"]]
    (tmp_path / "tests").mkdir()
    assert locate_datasets(config.dataset) == [[Path("tests")]]


def test_every_path_may_name_the_home_folder_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "scratch")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "config.yaml").write_text(MINIMAL)
    keys = {key for key, _ in config_file.keys(config_file.schema_of("resnet"))}
    paths = {key for key in keys if key.endswith(("path", "dir", "file", "folder"))}
    # The cache's is opened in tests/common/test_frame_stores.py.
    assert paths == {"dataset.path", "dataset.cache_dir", "training.checkpoint_dir"}
    flags = [
        "--dataset.path",
        "~/$DISK/d.zarr",
        "--training.checkpoint_dir",
        "${DISK}/{model_name}",
    ]
    config = config_file.load("~/$DISK/config.yaml", flags)
    assert locate_datasets(config.dataset) == [[tmp_path / "scratch" / "d.zarr"]]
    assert config.run_dir() == Path("scratch/pure_cnn")
    backbone = [
        ("--model.name", "resnet"),
        ("--model.backbone.weights", "~/$DISK/none.safetensors"),
    ]
    resnet = config_file.load("~/$DISK/config.yaml", [f for pair in backbone for f in pair])
    with pytest.raises(UserError, match=f"{tmp_path}/scratch/none.safetensors"):
        build(resnet, made_bundle().spec).load_pretrained("RGB")
    with pytest.raises(UserError, match="the environment variable NO_DISK is not set"):
        config_file.load("$NO_DISK/config.yaml")


def test_a_missing_file_lists_the_shipped_ones():
    with pytest.raises(UserError, match=r"no file nope\.yaml.*configs/pure_cnn\.yaml"):
        config_file.load("nope.yaml")


@pytest.fixture(scope="module")
def read():
    return config_reads.reads(PACKAGE)


@pytest.mark.parametrize("model", models.available())
def test_every_accepted_key_is_read_from_its_section(read, model):
    assert [*config_reads.unread(config_file.schema_of(model), read)] == []


def test_a_key_that_only_other_sections_have_read_counts_as_dead(read):
    class Planted(configs.DatasetConfig):
        width: int = 1

    assert [*config_reads.unread(Planted, read)] == ["width"]


@pytest.mark.parametrize(("cores", "given", "threads"), [(2, None, 2), (64, None, 8), (64, 20, 20)])
def test_reader_threads_follow_the_cores_unless_given(write, monkeypatch, cores, given, threads):
    monkeypatch.setattr(configs, "usable_cores", lambda: cores)
    given = "null" if given is None else str(given)
    config = config_file.load(write(MINIMAL), ["--system.num_workers", given])
    assert config.system.threads == threads
