"""The configuration: its sections, their keys, what each is for, and which values it may have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import Field

from BC_training.common import metrics
from BC_training.common.types import ModelConfig, Section
from gameplay_pipeline.environments.adapter import Adapter
from gameplay_pipeline.environments.recording import RecordSettings
from gameplay_pipeline.plumbing.paths import expand
from gameplay_pipeline.plumbing.workers import usable_cores

RETIRED = {
    "system.pin_memory": "frames are handed to the device without pinning",
    "training.steps_per_dispatch": "steps go to the device one by one; the result is the same",
    "training.oversample_rare": "it made no measured policy better",
    "training.loss.class_weights": "class weights are always the inverse frequencies",
    "play.temperature": "sampling with it won no more fights",
    "play.hysteresis": "it halved the fights won",
    "play.min_hold": "it won no more fights",
    "play.min_release": "it won no more fights",
}
"""Keys of earlier versions that are ignored with a warning, and why."""

RENAMED = {
    f"dataset.record_{key}": f"record.{key}"
    for key in ("episodes", "resolution", "style", "disturb")
}
"""Keys of earlier versions that still work, with a warning, and their names of today."""


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
    path: Annotated[str | tuple[str, ...], FREE]
    """A zarr dataset: a directory or a .zip, with or without a top folder in it, or a URL of
    either: https://, hf://datasets/, s3://, gs://. Or several, as a list, a pattern such as
    dataset/corrections_*.zarr, or a list of both: they must have the same actions and state, by
    name, and are split each for itself."""
    shares: tuple[float | None, ...] | None = None
    """Share of every batch for each entry of a list in `path`; entries with null divide what is
    left as their ticks come. null: all ticks are shuffled together."""
    train_ratio: float = Field(default=0.8, ge=0, le=1)
    """Share of the episodes to train on."""
    val_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the episodes to validate on; what is left over is the test split."""
    split_seed: int = Field(default=42, ge=0)
    """Seed of the shuffle that splits the episodes; runs that are compared need the same."""
    normalize_frames: bool | Literal["imagenet"] = True
    """Standardise frames per channel with the training split's mean and deviation; false: frames
    are only scaled to [0, 1]. imagenet: with those of ImageNet, which pretrained weights expect."""
    use_state: bool = True
    """Offer the game state to models that read it."""
    validate_episodes: bool = True
    """Skip broken episodes, each named with its reason; otherwise they are an error."""
    residency: Annotated[Literal["auto", "device", "cache", "stream"], FREE] = "auto"
    """Where decoded frames live: in the accelerator's memory, in a file on disk, or decoded anew
    each time in bounded memory. auto takes the first of these that they fit in."""
    cache_dir: Annotated[str | None, FREE] = None
    """The folder in which decoded frames are kept when residency is cache; null is the user's cache
    folder."""
    stream_memory_gib: Annotated[float, FREE] = Field(default=4.0, gt=0)
    """Bound on decoded frames in memory when residency is stream."""
    shuffle_buffer: int = Field(default=4096, ge=1)
    """Ticks among which samples are shuffled where a zarr chunk of the dataset holds several
    frames; with one frame a chunk, each epoch is one shuffle of all."""
    instruction: str | None = None
    """What the player tried to do, in plain words, in episodes that don't say it themselves; only
    models that read instructions need it."""

    @pydantic.model_validator(mode="after")
    def _shares(self) -> "DatasetConfig":
        if self.path in ("", ()):
            raise ValueError("path is empty")
        if self.shares is None:
            return self
        entries = 1 if isinstance(self.path, str) else len(self.path)
        if len(self.shares) != entries:
            raise ValueError(
                f"shares has {len(self.shares)} values, but path has {entries} entries"
            )
        given = [share for share in self.shares if share is not None]
        total, is_whole = sum(given), len(given) == entries
        if not all(0 < share <= 1 for share in given):
            raise ValueError(f"shares are {given}, but each must be above 0 and at most 1")
        if abs(total - 1) > 1e-6 if is_whole else total > 1 - 1e-6:
            wanted = "up to 1" if is_whole else "up to less than 1, for the others to have the rest"
            raise ValueError(f"shares add up to {total:g}, but must add {wanted}")
        return self

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
    """Binary cross-entropy per action; focal: buttons that are predicted well already count
    less."""
    focal_gamma: float = Field(default=2.0, gt=0)
    """How much less easy actions count when type is focal."""
    onset_weight: float = Field(default=0.0, ge=0)
    """Ticks at which any button changes count 1 plus this: what a policy must get right is when to
    press."""


class MirrorConfig(Section):
    """Swaps left and right. A game must be symmetric for that: texts and bars on the screen are not
    but do little harm; animations that name a side do more."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """How probable it is that a sample is mirrored."""
    actions: tuple[tuple[str, str], ...] = ()
    """Pairs of actions that mirroring swaps, such as [move_left, move_right]."""
    state: tuple[str, ...] = ()
    """State features whose sign mirroring turns round. Those made of Elden Ring's attributes: left,
    facing_sin, npc_facing_sin, hero_speed_left, npc_speed_left."""


class AugmentationConfig(Section):
    """Random changes to training samples, on the device; a window's ticks are all changed alike.
    Where dataset.normalize_frames is false, a standard deviation is 1 and grey is black."""

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
    """Samples in a step, on all devices together."""
    intervention_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of every batch for ticks at which a policy was corrected: a person, or the expert,
    drove or would have pressed otherwise. dataset.shares then divide the rest. null: they come as
    often as others."""
    accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is worked through in, to save memory; batch norm is that of each part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a model computes in. Parameters, losses and updates are float32 in any case."""
    init_from: str | None = None
    """A checkpoint, or a run's folder for its best one, with whose parameters training begins; null
    for random ones. The architecture must be the same; a head for other actions begins anew."""
    num_epochs: Annotated[int, FREE] = Field(default=50, ge=1)
    """Passes over the training split, unless steps_per_epoch is given."""
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Steps in an epoch; null for as many as visit each tick of the training split once."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate after the warm-up."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of AdamW."""
    lr_schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    use_class_weights: bool = False
    """Weight each action's loss by the inverse of its frequency, so that rare ones count as much as
    common ones. pure_cnn, which has them as the project began, wins 36 percent of fights with them
    and 70 without (docs/results.md)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Targets y become (1 - s) y + s / 2 with this s, against overconfidence."""
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
    """Epochs from one evaluation on the validation split to the next."""
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
    chunk: Literal["replan", "ensemble"] = "replan"
    """When several ticks are predicted: press what is predicted for now, or the mean of all that
    was predicted for this tick until now."""
    ensemble_decay: float = Field(default=0.1, ge=0)
    """Predictions that are i ticks old count exp(-i times this) in that mean."""


class RecordingConfig(RecordSettings):
    episodes: int = Field(default=0, ge=0)
    """Where nothing is at `dataset.path`: record this many fights of the environment's expert
    there."""


class EnvironmentConfig(Adapter):
    id: str | None = None
    """The environment that is recorded and fought in: a Gymnasium id such as
    boss_arena:BossArena-v0; null for none."""

    def adapter(self) -> Adapter:
        """What the environment doesn't say about itself."""
        return Adapter(**self.model_dump(exclude={"id"}))


class LoggingConfig(Section):
    use_wandb: bool = False
    """Log to Weights & Biases, besides metrics.jsonl, which is always written."""
    wandb_project: str = "project-ranni"
    """The project there."""
    wandb_entity: str | None = None
    """The team or user there; null is the user's default."""
    wandb_run_name: str | None = None
    """The run's name there; null lets the service make one up."""
    wandb_artifact: bool = False
    """Upload the best checkpoint when the run ends."""
    tensorboard: bool = False
    """Write for TensorBoard, into the run's folder."""
    log_every_n_steps: int = Field(default=50, ge=1)
    """Steps from one logged training loss to the next."""
    log_gradients: bool = False
    """Log the gradient norm of each parameter array."""

    @pydantic.model_validator(mode="after")
    def _artifact(self) -> "LoggingConfig":
        if self.wandb_artifact and not self.use_wandb:
            raise ValueError("wandb_artifact needs use_wandb")
        return self


class SystemConfig(Section):
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Seed of parameters, sample order, dropout and augmentation."""
    num_workers: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Reader threads; null is one for each processor core, up to 8. Batches do not depend on it."""
    devices: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Devices that training splits each batch over, of all hosts together; null is all there are.
    What is learned does not depend on it, but for rounding: the batch stays as large as configured.
    """
    coordinator: Annotated[str | None, FREE] = None
    """HOST:PORT at which the hosts of a run meet: the first host's name and a free port of it. null
    where one host trains alone, or where Slurm or Open MPI say it."""
    process_count: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Hosts that train together, with a process on each; 1 is this one alone, whatever a launcher
    says."""
    process_id: Annotated[int | None, FREE] = Field(default=None, ge=0)
    """Which of them this host is; 0 is the one that prints, logs and writes."""
    meeting_s: Annotated[float, FREE] = Field(default=30.0, gt=0)
    """Seconds that hosts wait for one another at the beginning: one that dies before it has come is
    missed only then. More where they start one by one, as containers may."""

    @pydantic.model_validator(mode="after")
    def _hosts(self) -> "SystemConfig":
        place = (self.coordinator, self.process_count, self.process_id)
        if place == (None, self.process_count, None) and self.process_count in (None, 1):
            return self
        if self.coordinator is None or self.process_count is None or self.process_id is None:
            raise ValueError("coordinator, process_count and process_id belong together")
        if self.process_id >= self.process_count:
            raise ValueError(
                f"process_id ({self.process_id}) must be below process_count ({self.process_count})"
            )
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ValueError(f"coordinator ({self.coordinator}) must be HOST:PORT")
        return self

    @property
    def threads(self) -> int:
        """Reader threads on this machine."""
        return self.num_workers or min(usable_cores(), MOST_THREADS)


class Config(Section):
    dataset: DatasetConfig
    record: Annotated[RecordingConfig, FREE] = RecordingConfig()
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

    def run_dir(self) -> Path:
        """Where this run's checkpoints, metrics and resolved configuration go."""
        folder = self.training.checkpoint_dir.replace("{model_name}", self.model.name)
        return Path(expand(folder))
