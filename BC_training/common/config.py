"""YAML and command-line overrides in, a frozen and validated configuration out."""

import copy
import dataclasses
import difflib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import pydantic
import tyro
import yaml
from pydantic import BaseModel, Field, ValidationError
from tyro.constructors import PrimitiveConstructorSpec

from BC_training import models
from BC_training.common import metrics
from BC_training.common.types import ModelConfig, Section
from gameplay_pipeline.environments.adapter import Adapter
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.plumbing.workers import usable_cores

RETIRED = {
    "system.pin_memory": "frames are handed to the device without pinning",
    "training.steps_per_dispatch": "steps go to the device one by one; the result is the same",
    "training.oversample_rare": "it made no measured policy better",
    "training.loss.class_weights": "class weights are always the inverse frequencies",
}
"""Keys of earlier versions that are ignored with a warning, and why."""


class FreeOnResume:
    """Marks a key, or a section, that a resumed run may change: of these only num_epochs decides
    what is computed, since a run may go on for longer, with its cosine stretched."""


FREE = FreeOnResume()

MOST_THREADS = 8
"""Reader threads unless told otherwise; each reads a batch ahead, which takes memory."""

BY_FIGHTS = {
    "fights_won": "won",
    "boss_health_removed": "boss_health_removed",
    "reward": "return",
}
"""The values of evaluation.best_metric that fights decide, and what a checkpoint's `fights` call
them."""

if TYPE_CHECKING:
    BestMetric = str
else:
    BestMetric = Literal[(*metrics.CHOOSING, *BY_FIGHTS)]


class DatasetConfig(Section):
    path: Annotated[str, FREE]
    """A zarr dataset: a directory or a .zip, with or without a top folder in it, or a URL of
    either: https://, hf://datasets/, s3://, gs://."""
    train_ratio: float = Field(default=0.8, ge=0, le=1)
    """Share of the episodes to train on."""
    val_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the episodes to validate on; what is left over is the test split."""
    split_seed: int = Field(default=42, ge=0)
    """Seed of the shuffle that splits the episodes."""
    normalize_frames: bool = True
    """Standardise frames per channel with the training split's mean and deviation; otherwise
    frames are only scaled to [0, 1]."""
    use_state: bool = True
    """Offer the game state to models that read it."""
    validate_episodes: bool = True
    """Skip broken episodes, each named with its reason; otherwise they are an error."""
    residency: Annotated[Literal["auto", "device", "cache", "stream"], FREE] = "auto"
    """Where decoded frames live: in the accelerator's memory, in a file on disk, or decoded anew
    each time in bounded memory. auto takes the first of these that they fit in."""
    cache_dir: Annotated[str | None, FREE] = None
    """Where decoded frames are kept; null is the user's cache folder."""
    stream_memory_gib: Annotated[float, FREE] = Field(default=4.0, gt=0)
    """Bound on decoded frames in memory when residency is stream."""
    shuffle_buffer: int = Field(default=4096, ge=1)
    """Ticks among which samples are shuffled where a chunk of the dataset holds several frames;
    with one frame a chunk, each epoch is one shuffle of all."""
    instruction: str | None = None
    """What the player tried to do, in plain words, in episodes that don't say it themselves; only
    models that read instructions need it."""
    record_episodes: Annotated[int, FREE] = Field(default=0, ge=0)
    """When `path` does not exist: record this many fights of the environment's expert there."""
    record_resolution: Annotated[str, FREE] = "512x288"
    """Width x height of such a recording."""
    record_style: Annotated[str | None, FREE] = None
    """Style in which the expert plays there, or mixed for all of the environment's in turn; each
    fight then holds an instruction. null: the expert as it is, without instructions."""
    record_disturb: Annotated[float, FREE] = Field(default=0.0, ge=0, lt=1)
    """Share of the ticks there at which other buttons are pressed than the expert chose. Its choice
    is recorded: how to get out of trouble that a clone gets into and the expert does not."""

    @pydantic.model_validator(mode="after")
    def _ratios(self) -> "DatasetConfig":
        if self.train_ratio + self.val_ratio > 1 + 1e-9:
            raise ValueError(
                f"train_ratio ({self.train_ratio:g}) and val_ratio ({self.val_ratio:g}) "
                "add up to more than 1"
            )
        return self


class ScheduleConfig(Section):
    type: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs of linear warm-up from zero."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Where the cosine ends."""


class LossConfig(Section):
    type: Literal["bce", "focal"] = "bce"
    """Binary cross-entropy per action; focal: what is easy already counts less."""
    focal_gamma: float = Field(default=2.0, gt=0)
    """How much less, when type is focal."""
    onset_weight: float = Field(default=0.0, ge=0)
    """Ticks at which any button changes count 1 plus this."""


class MirrorConfig(Section):
    """Swaps left and right. A game must be symmetric for that: texts and bars on the screen are not
    but do little harm; animations that name a side do more."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """Of a sample being mirrored."""
    actions: tuple[tuple[str, str], ...] = ()
    """Pairs of actions that mirroring swaps, such as [move_left, move_right]."""
    state: tuple[str, ...] = ()
    """State features whose sign mirroring turns. Those made of Elden Ring's attributes: left,
    facing_sin, npc_facing_sin, hero_speed_left, npc_speed_left."""


class AugmentationConfig(Section):
    """Random changes to training samples, on the device; a window's ticks are all changed alike."""

    shift: float = Field(default=0.0, ge=0, lt=0.5)
    """Largest move of the picture, as a share of its height and width; edges are repeated."""
    brightness: float = Field(default=0.0, ge=0)
    """Largest offset of each channel, in standard deviations of its values."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """Values are multiplied by 1 plus or minus at most this."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise on each pixel, in standard deviations of its values."""
    cutout: float = Field(default=0.0, ge=0, lt=1)
    """Height and width of a rectangle that is greyed out, at most, as a share of the picture's."""
    mirror: MirrorConfig = MirrorConfig()


class TrainingConfig(Section):
    batch_size: int = Field(default=32, ge=1)
    accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is worked through in, one after the other, to save memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a model computes in. Parameters, losses and updates are float32 in any case."""
    num_epochs: Annotated[int, FREE] = Field(default=50, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    lr_schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    use_class_weights: bool = True
    """Weight each action's loss by the inverse of its frequency, so that rare ones count as much as
    common ones."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Targets become (1 - s) y + s / 2."""
    grad_clip_norm: float | None = Field(default=1.0, gt=0)
    """Global norm that gradients are clipped to; null for none."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Evaluate and play a moving average of the parameters that keeps this share at each step, such
    as 0.999; null for the parameters themselves."""
    augmentation: AugmentationConfig = AugmentationConfig()
    early_stopping_patience: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Epochs without a better evaluation.best_metric after which a run ends; null for never."""
    checkpoint_dir: Annotated[str, FREE] = "checkpoints/{model_name}"
    """Where the run is kept; {model_name} stands for model.name."""
    save_every_n_epochs: Annotated[int, FREE] = Field(default=5, ge=1)
    """The best epoch and the last one are saved besides."""
    keep_last_n_checkpoints: Annotated[int, FREE] = Field(default=3, ge=1)
    """Checkpoints that are kept besides the best one."""

    @pydantic.model_validator(mode="after")
    def _parts(self) -> "TrainingConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size ({self.batch_size}) can't be split into accumulation "
                f"({self.accumulation}) equal parts"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _min_lr(self) -> "TrainingConfig":
        if self.lr_schedule.min_lr > self.learning_rate:
            raise ValueError(
                f"lr_schedule.min_lr ({self.lr_schedule.min_lr:g}) is above "
                f"learning_rate ({self.learning_rate:g})"
            )
        return self


class EvaluationConfig(Section):
    eval_every_n_epochs: Annotated[int, FREE] = Field(default=1, ge=1)
    metrics_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which the metrics count a button as pressed. Play uses thresholds that
    are calibrated per action on the validation split and saved in the checkpoint."""
    onset_tolerance: int = Field(default=2, ge=0)
    """Ticks by which a predicted onset or offset may miss the true one."""
    best_metric: BestMetric = "exact_match"
    """What chooses the best checkpoint: a validation figure, or, with rollout_every_n_epochs, the
    mean of its fights. onset_f1 counts the moments at which a button goes down, where exact_match
    rewards holding what is held. boss_health_removed tells apart policies that never win."""
    rollout_episodes: Annotated[int, FREE] = Field(default=0, ge=0)
    """Fights of each policy in the environment after training; 0 for none."""
    rollout_every_n_epochs: Annotated[int, FREE] = Field(default=0, ge=0)
    """While training, the policy of every n-th epoch and of the last one fights as often, in
    processes on the CPU, on the seeds that follow those of the fights after training; 0 for never.
    """
    rollout_seed: Annotated[int, FREE] = Field(default=1_000_000, ge=0)
    """Seed of the first fight, the next is one higher; far from those of recordings."""

    @pydantic.model_validator(mode="after")
    def _fights(self) -> "EvaluationConfig":
        if self.rollout_every_n_epochs and not self.rollout_episodes:
            raise ValueError("rollout_every_n_epochs needs rollout_episodes, the number of fights")
        if self.best_metric in BY_FIGHTS and not self.rollout_every_n_epochs:
            raise ValueError(
                f"best_metric is {self.best_metric}, which fights decide, but none are had while "
                "training: set rollout_every_n_epochs and rollout_episodes"
            )
        return self

    def scored_every(self) -> int:
        """Epochs from one that best_metric judges to the next."""
        by_fights = self.best_metric in BY_FIGHTS
        return self.rollout_every_n_epochs if by_fights else self.eval_every_n_epochs


class PlayConfig(Section):
    """How a checkpoint decides when it plays."""

    rule: Literal["threshold", "sample"] = "threshold"
    """threshold: press what is as probable as the action's threshold, which is calibrated on the
    validation split. sample: press with the probability itself."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling: below 1 what is likely becomes likelier."""
    hysteresis: float = Field(default=0.0, ge=0, lt=1)
    """A button that is down stays so until its probability is this share below its threshold."""
    min_hold: int = Field(default=1, ge=1)
    """Ticks for which a button that went down stays down."""
    min_release: int = Field(default=1, ge=1)
    """Ticks for which a button that was let go of stays up."""
    chunk: Literal["replan", "ensemble"] = "replan"
    """When several ticks are predicted: press what is predicted for now, or the mean of all that
    was predicted for this tick until now."""
    ensemble_decay: float = Field(default=0.1, ge=0)
    """Predictions that are i ticks old count exp(-i times this) in that mean."""


class EnvironmentConfig(Section):
    id: str | None = None
    """A Gymnasium id such as boss_arena:BossArena-v0, or null."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""
    frame: str = "frame"
    """The entry of its observation that is the image."""
    color_order: Literal["RGB", "BGR"] | None = None
    """Of that image; null is what the environment says, or else RGB."""
    state: tuple[str, ...] | None = None
    """Attributes that make the state, entry.1 being the second value of an entry; null is those
    that the environment names, or else all its scalars."""
    actions: dict[str, str] = Field(default_factory=dict)
    """Our name of each button, and the environment's (button_0, ... where it has no names). Those
    left out are never pressed; {} is all of them, by the environment's names."""
    fps: float | None = Field(default=None, gt=0)
    """Ticks a second; null is what the environment says."""

    def adapter(self) -> Adapter:
        """What the environment doesn't say about itself.

        Raises:
            UserError: the keys contradict one another.
        """
        try:
            return Adapter(**self.model_dump(exclude={"id"}))
        except ValueError as error:
            raise UserError(f"environment: {error}") from error


class LoggingConfig(Section):
    use_wandb: bool = False
    wandb_project: str = "project-ranni"
    wandb_entity: str | None = None
    wandb_run_name: str | None = None
    wandb_artifact: bool = False
    """Upload the best checkpoint when the run ends."""
    tensorboard: bool = False
    """Write for TensorBoard, into the run's folder."""
    log_every_n_steps: int = Field(default=50, ge=1)
    log_gradients: bool = False
    """Log the gradient norm of each parameter array."""

    @pydantic.model_validator(mode="after")
    def _artifact(self) -> "LoggingConfig":
        if self.wandb_artifact and not self.use_wandb:
            raise ValueError("wandb_artifact needs use_wandb")
        return self


class SystemConfig(Section):
    seed: int = Field(default=42, ge=0, lt=2**31)
    num_workers: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Reader threads; null is one for each processor core, up to 8. Batches do not depend on it."""

    @property
    def threads(self) -> int:
        """Reader threads on this machine."""
        return self.num_workers or min(usable_cores(), MOST_THREADS)


class Config(Section):
    dataset: DatasetConfig
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    play: Annotated[PlayConfig, FREE] = PlayConfig()
    environment: Annotated[EnvironmentConfig, FREE] = EnvironmentConfig()
    logging: Annotated[LoggingConfig, FREE] = LoggingConfig()
    system: SystemConfig = SystemConfig()

    @pydantic.model_validator(mode="after")
    def _patience(self) -> "Config":
        patience, every = self.training.early_stopping_patience, self.evaluation.scored_every()
        if patience is not None and patience < every:
            raise ValueError(
                f"training.early_stopping_patience ({patience}) is over before the next epoch is "
                f"judged: evaluation.best_metric, {self.evaluation.best_metric}, is measured every "
                f"{every} epochs"
            )
        return self

    def dataset_location(self) -> str | Path:
        """dataset.path; one that is no URL is looked up from the current folder, then from the
        repository's root."""
        if is_url(self.dataset.path):
            return self.dataset.path
        path = Path(self.dataset.path)
        from_root = Path(__file__).parents[2] / path
        return from_root if not path.exists() and from_root.exists() else path

    def run_dir(self) -> Path:
        """Where this run's checkpoints, metrics and resolved configuration go."""
        return Path(self.training.checkpoint_dir.replace("{model_name}", self.model.name))


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands twice", node.start_mark
            )
        return mapping


# YAML 1.1, which PyYAML follows, wants a dot in every float.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def find_file(path: str) -> Path:
    """A configuration file, looked up from the current folder, then from BC_training/.

    Raises:
        UserError: it is in neither; the configurations that ship with the project are listed.
    """
    package = Path(__file__).parent.parent
    for candidate in (Path(path), package / path):
        if candidate.is_file():
            return candidate
    shipped = sorted(f"configs/{file.name}" for file in (package / "configs").glob("*.yaml"))
    raise UserError(
        f"--config: no file {path}, neither from the current folder nor from {package.name}/. "
        f"Shipped: {', '.join(shipped)}."
    )


def load(path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies overrides spelled `--section.key VALUE`.

    Raises:
        UserError: the file can't be found, read, or holds what the schema refuses.
        SystemExit: tyro refused an override (it has printed why), or printed the help.
    """
    file = find_file(path)
    try:
        raw = parse_yaml(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file}: expected sections such as dataset: and model:, found {raw!r}")
    _drop_retired(raw, str(file))
    overrides = _drop_retired_flags(overrides)
    model = raw.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{file}: the section model, with at least a name, is missing")
    name = _flag_value(overrides, "--model.name") or model.get("name")
    if not isinstance(name, str):
        raise UserError(
            f"{file}: model.name must be a text, one of {', '.join(models.available())}"
        )
    # Set early, so that the file's other keys are judged by the class of the model that will run.
    raw = {**raw, "model": {**model, "name": name}}
    _set_types(raw, overrides)
    config = validate(raw, str(file))
    flags = tyro.cli(
        type(mirror := _flags(config)),
        default=mirror,
        args=list(overrides),
        prog="python -m BC_training --config FILE [--resume]",
        description="Train a policy. Values below are those of the file; each can be overridden.",
        use_underscores=True,
    )
    return validate(dataclasses.asdict(flags), f"{file} with the command line")


def validate(raw: Mapping[str, Any], source: str) -> Config:
    """Plain data, as YAML or JSON give it, to a configuration whose class knows the model's own.

    Raises:
        UserError: every key that the schema refuses, with what is wrong with it.
    """
    schema = _schema(raw)
    try:
        # By way of JSON, where strict validation takes a list for a tuple.
        return schema.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = [f"  {_explain(schema, detail)}" for detail in error.errors()]
        raise UserError("\n".join([f"{source}:", *lines])) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}; values must be plain YAML") from error


def stored(raw: Mapping[str, Any], source: str) -> Config:
    """The configuration that an earlier run, perhaps of an earlier version, wrote.

    Raises:
        UserError: as `validate`.
    """
    current = copy.deepcopy(dict(raw))
    for key in RETIRED:
        _drop(current, key)
    return validate(current, source)


def free_on_resume(schema: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of the keys and sections that a resumed run may change."""
    free = set()
    for name, field in schema.model_fields.items():
        if FREE in field.metadata:
            free.add(prefix + name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            free |= free_on_resume(field.annotation, f"{prefix}{name}.")
    return free


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _schema(raw: Mapping[str, Any]) -> type[Config]:
    model = models.load(raw.get("model", {}).get("name", "")).Config
    return cast(type[Config], pydantic.create_model("Config", __base__=Config, model=(model, ...)))


def _kinds(schema: type[BaseModel], prefix: str = "") -> dict[str, dict[str, type[BaseModel]]]:
    """The classes that a section may have by its `type`, for each section that has several."""
    found = {}
    for name, field in schema.model_fields.items():
        key = prefix + name
        if field.discriminator == "type":
            members = get_args(field.annotation)
            found[key] = {get_args(m.model_fields["type"].annotation)[0]: m for m in members}
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _kinds(field.annotation, f"{key}.")
    return found


def _set_types(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets overridden types of sections early, as the file's other keys are judged by them."""
    for key in _kinds(_schema(raw)):
        kind = _flag_value(overrides, f"--{key}.type")
        if kind is None:
            continue
        section: Any = raw
        for name in key.split("."):
            section = section.setdefault(name, {}) if isinstance(section, dict) else None
        if isinstance(section, dict):  # validation has a word for what is none
            section["type"] = kind


def _explain(schema: type[BaseModel], detail: Any) -> str:
    location, kinds, members, kind = [], _kinds(schema), None, None
    for part in map(str, detail["loc"]):
        if members is not None and kind is None:
            kind = part  # not a key: pydantic tells the type by which it judged
            continue
        location.append(part)
        members = members or kinds.get(".".join(location))
    key = ".".join(location)
    if members is not None and detail["type"] == "union_tag_not_found":
        return f"{key}.type: missing; one of {', '.join(members)}"
    if members is not None and detail["type"] == "union_tag_invalid":
        return f"{key}.type: one of {', '.join(members)}, not {detail['ctx']['tag']!r}"
    if members is not None and kind is not None and detail["type"] == "extra_forbidden":
        known = ", ".join(name for name in members[kind].model_fields if name != "type")
        return f"{key}: no key of the type {kind}, whose keys are {known}"
    if detail["type"] == "extra_forbidden":
        known = _keys(schema)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f"; the nearest known one is {near[0]}" if near else ""
        return f"{key}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    return f"{key}: {detail['msg']}, not {detail['input']!r}"


def _keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all sections and keys of a schema."""
    found = []
    for name, field in schema.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys(field.annotation, f"{prefix}{name}.")
    return found


def _drop_retired(raw: dict[str, Any], source: str) -> None:
    for key, reason in RETIRED.items():
        if _drop(raw, key):
            warnings.warn(f"{source}: {key} is retired and ignored: {reason}", stacklevel=3)


def _drop(raw: dict[str, Any], key: str) -> bool:
    """Removes a dotted key from nested plain data; whether it was there."""
    *sections, name = key.split(".")
    section: Any = raw
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or name not in section:
        return False
    del section[name]
    return True


def _drop_retired_flags(arguments: Sequence[str]) -> list[str]:
    kept = list(arguments)
    for key, reason in RETIRED.items():
        flags = [at for at, word in enumerate(kept) if word.split("=")[0] == f"--{key}"]
        for at in reversed(flags):
            del kept[at : at + (1 if "=" in kept[at] else 2)]
            warnings.warn(f"--{key} is retired and ignored: {reason}", stacklevel=3)
    return kept


def _flag_value(arguments: Sequence[str], flag: str) -> str | None:
    for at, argument in enumerate(arguments):
        if argument == flag and at + 1 < len(arguments):
            return arguments[at + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _flags(section: BaseModel) -> Any:
    """A dataclass with a section's fields and values, for tyro to offer as flags.

    tyro only splits the command line: values are read as YAML, so that an override is spelled as
    in the file, and judged by `validate`, so that it is refused in the same words.
    """
    fields, values = [], {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            value = _flags(value)
            annotation = type(value)
        else:
            is_text = field.annotation in (str, str | None)
            annotation = Annotated[Any, _yaml_flag(is_text), tyro.conf.arg(help=field.description)]
        default = dataclasses.field(default_factory=lambda value=value: value)
        fields.append((name, annotation, default))
        values[name] = value
    return dataclasses.make_dataclass(type(section).__name__, fields, frozen=True)(**values)


def _yaml_flag(is_text: bool) -> PrimitiveConstructorSpec[Any]:
    def parse(arguments: list[str]) -> Any:
        try:
            value = parse_yaml(arguments[0])
        except yaml.YAMLError as error:
            raise ValueError(f"{arguments[0]!r} is not valid YAML") from error
        # A name such as 2026-11-23 stays a name.
        return arguments[0] if is_text and value is not None else value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="VALUE",
        instance_from_str=parse,
        is_instance=lambda _: True,
        str_from_instance=lambda value: [json.dumps(value).strip('"')],
    )
