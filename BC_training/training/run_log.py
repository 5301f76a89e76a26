"""What a run leaves to read: metrics.jsonl always, Weights & Biases and TensorBoard when asked for.

Figures are named by paths whose first part is the section of the charts: train/, val/,
val_action/ACTION/, fights/, time/, data/, gradients/.
"""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jaxtyping import Array, UInt8

from BC_training.checkpoints.bundle import revision, versions
from BC_training.common import config_file
from BC_training.common.config import Config
from BC_training.common.episodes import Episodes
from BC_training.training.run_folder import flat
from gameplay_pipeline.plumbing.errors import UserError

WANDB_TIMEOUT_S = 30

WANDB_FINISH_TIMEOUT_S = 300
"""What is not uploaded by then is left to `wandb sync`."""

NOT_CHARTED = ("true", "predicted", "matched", "rows", "support")
"""Last parts of names whose figures only metrics.jsonl holds: counts that the others follow from.
"""


class RunLog:
    """Writes figures and pictures, each under its step."""

    def __init__(
        self,
        folder: Path | None,
        config: Config,
        *,
        resume_from: int | None,
        metadata: Mapping[str, str | None] | None = None,
    ):
        """Opens the log of a run.

        Args:
            folder: of the run; None for a log that nobody reads.
            config: of the run; its section `logging` says who else takes part.
            resume_from: the step that the run goes on from; later lines, of steps that will be
                done again, are dropped. None starts the file anew.
            metadata: what the configuration doesn't say, such as the code's revision.
        """
        self._wandb: Any = None
        self._board: Any = None
        if folder is None:
            self._path = Path(os.devnull)
            self._file = self._path.open("a")
            return
        self._path = folder / "metrics.jsonl"
        self._file = _open(self._path, resume_from)
        settings, metadata = config.logging, dict(metadata or {})
        if settings.use_wandb:
            with self._wandb_optional():
                self._wandb = _start_wandb(folder, config, metadata, resume_from)
        if settings.tensorboard:
            self._board = _start_tensorboard(folder, config, metadata, resume_from)

    @property
    def draws(self) -> bool:
        """Whether anybody takes pictures."""
        return self._wandb is not None or self._board is not None

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Adds figures, named by paths such as train/loss; None where one is undefined.

        Raises:
            UserError: the file can't be written.
        """
        try:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: can't be written: {error.strerror}") from error
        charted = _charted(figures)
        if self._wandb is not None:
            with self._wandb_optional():
                # Steps are a figure like others: W&B's own count can't go back, and a resumed run
                # does again what came after its checkpoint.
                self._wandb.log({"step": step, **charted})
        if self._board is not None:
            for name, value in charted.items():
                self._board.add_scalar(name, value, step)

    def show(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Adds RGB pictures by their names."""
        if self._wandb is not None:
            with self._wandb_optional():
                import wandb

                images = {name: wandb.Image(picture) for name, picture in pictures.items()}
                self._wandb.log({"step": step, **images})
        if self._board is not None:
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")

    def film(self, step: int, name: str, video: Path) -> None:
        """Adds an .mp4; TensorBoard shows none."""
        if self._wandb is not None:
            with self._wandb_optional():
                import wandb

                self._wandb.log({"step": step, name: wandb.Video(str(video), format="mp4")})

    def conclude(self, figures: Mapping[str, Any]) -> None:
        """What Weights & Biases shows of the whole run, beside the latest figures."""
        if self._wandb is not None:
            with self._wandb_optional():
                self._wandb.summary.update(_charted(figures))

    def artifact(self, name: str, checkpoint: Path, figures: Mapping[str, Any]) -> None:
        """Uploads a checkpoint to Weights & Biases."""
        if self._wandb is not None:
            with self._wandb_optional():
                import wandb

                artifact = wandb.Artifact(name, type="model", metadata=_charted(figures))
                artifact.add_dir(str(checkpoint))
                self._wandb.log_artifact(artifact, aliases=["best"])

    def history(self) -> list[dict[str, Any]]:
        """All figures of each step, in order, those before a resumption included."""
        steps: dict[int, dict[str, Any]] = {}
        for line in self._path.read_text().splitlines():
            figures = json.loads(line)
            steps.setdefault(figures["step"], {}).update(figures)
        return [steps[step] for step in sorted(steps)]

    def close(self) -> None:
        self._file.close()
        if self._wandb is not None:
            with self._wandb_optional():
                self._wandb.finish()
        if self._board is not None:
            self._board.close()

    @contextlib.contextmanager
    def _wandb_optional(self) -> Iterator[None]:
        """Whatever goes wrong with Weights & Biases is said once; the run goes on without it."""
        try:
            yield
        except Exception as error:
            self._wandb = None
            warnings.warn(f"Weights & Biases takes no further part: {error}", stacklevel=4)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self._began


class Meter:
    """Figures of an epoch's steps, and the time that they took."""

    def __init__(self) -> None:
        self._stopwatch, self._waited = Stopwatch(), 0.0
        self._unread: list[Mapping[str, Array]] = []
        self._losses: list[float] = []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for a batch."""
        stopwatch = Stopwatch()
        yield
        self._waited += stopwatch.seconds()

    def add(self, figures: Mapping[str, Array]) -> None:
        """A step's figures, which may not be computed yet."""
        self._unread.append(figures)

    def read(self) -> dict[str, float]:
        """Means of the figures since the last reading; waits for the device."""
        rows = jax.device_get(self._unread)
        self._unread = []
        self._losses += [float(row["train/loss"]) for row in rows]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def mean_loss(self) -> float:
        """Over all steps that were read; NaN where there are none."""
        return float(np.mean(self._losses)) if self._losses else float("nan")

    def costs(self, frames: int) -> dict[str, float]:
        """Speed and waiting, for so many frames."""
        seconds = self._stopwatch.seconds()
        return {
            "time/frames_per_second": frames / seconds,
            "time/epoch_s": seconds,
            "data/wait_share": self._waited / seconds,
        }


def metadata(config: Config, episodes: Episodes) -> dict[str, str | None]:
    """What tells two runs of one configuration apart; empty where nobody takes it."""
    if not config.logging.use_wandb and not config.logging.tensorboard:
        return {}
    return {
        "code": revision(),
        "dataset": str(episodes.path),
        "dataset_fingerprint": episodes.fingerprint(),
        "device": jax.devices()[0].device_kind,
        **versions(),
    }


def _charted(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in figures.items()
        if value is not None and name.rpartition("/")[2] not in NOT_CHARTED
    }


def _open(path: Path, resume_from: int | None) -> TextIO:
    kept = []
    if resume_from is not None and path.exists():
        # Earlier versions called onsets presses, and offsets releases.
        text = path.read_text().replace("/presses/", "/onsets/").replace("/releases/", "/offsets/")
        for line in text.splitlines():
            try:
                step = json.loads(line)["step"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the line that a killed run was writing
            if step <= resume_from:
                kept.append(line + "\n")
    rewritten = path.with_suffix(".tmp")
    rewritten.write_text("".join(kept))
    rewritten.replace(path)
    return path.open("a")


def _start_tensorboard(
    folder: Path, config: Config, metadata: Mapping[str, str | None], resume_from: int | None
) -> Any:
    import tensorboardX

    # Steps that will be done again are hidden.
    purge = None if resume_from is None else resume_from + 1
    board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
    # As Markdown, where four spaces make a text stand as it is.
    for name, text in (
        ("config", config_file.to_yaml(config)),
        ("run", json.dumps(metadata, indent=2)),
    ):
        board.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), 0)
    return board


def _start_wandb(
    folder: Path, config: Config, metadata: Mapping[str, str | None], resume_from: int | None
) -> Any:
    """A run on Weights & Biases; offline where there is no key or no network."""
    import wandb  # takes a second, and over the standard output, so only where it is wanted

    settings = wandb.Settings(
        init_timeout=WANDB_TIMEOUT_S, finish_timeout=WANDB_FINISH_TIMEOUT_S, silent=True
    )
    arguments: dict[str, Any] = {
        "project": config.logging.wandb_project,
        "entity": config.logging.wandb_entity,
        "name": config.logging.wandb_run_name,
        "config": {**config.model_dump(mode="json"), "run": dict(metadata)},
        "dir": str(folder),
        "settings": settings,
    }
    run, kept = None, folder / "wandb_id.txt"
    if os.environ.get("WANDB_MODE", "online") == "online":
        reason = "no API key (wandb login, or WANDB_API_KEY)"
        online = dict(arguments)
        if resume_from is not None and kept.exists():
            online |= {"id": kept.read_text().strip(), "resume": "allow"}
        try:
            # W&B's own search for a key: in the environment, a netrc of any host, its settings.
            if wandb.login(prompt=False):
                run = wandb.init(**online)
                kept.write_text(run.id + "\n")
        except Exception as error:  # W&B's own, or of the network beneath it
            reason = str(error)
        if run is None:
            warnings.warn(f"Weights & Biases is offline for this run: {reason}", stacklevel=3)
            arguments["mode"] = "offline"
    run = run or wandb.init(**arguments)
    # The axis of every chart.
    run.define_metric("*", step_metric="step")
    return run


def named(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a bundle's metrics as the log names them: val/..., and val_action/NAME/... of each
    action."""
    whole = {name: value for name, value in figures.items() if name != "actions"}
    # A slash in an action's name would make a section of its own.
    actions = {name.replace("/", "_"): row for name, row in figures.get("actions", {}).items()}
    return flat({"val": whole, "val_action": actions}, "/")
