"""What a run leaves to read: metrics.jsonl always, Weights & Biases and TensorBoard when asked for.

Figures are named by paths whose first part is the section of the charts: train/, val/,
val_action/ACTION/, fights/, time/, data/, gradients/.
"""

import contextlib
import json
import netrc
import os
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8

from BC_training.common import config as configs
from BC_training.common.config import Config

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
        folder: Path,
        config: Config,
        *,
        resume_from: int | None,
        facts: Mapping[str, str | None] | None = None,
    ):
        """Opens the log of a run.

        Args:
            folder: of the run.
            config: of the run; its section `logging` says who else takes part.
            resume_from: the step that the run goes on from; later lines, of steps that will be
                done again, are dropped. None starts the file anew.
            facts: what the configuration doesn't say, such as the code's revision.
        """
        self._path = folder / "metrics.jsonl"
        self._file = _open(self._path, resume_from)
        self._wandb: Any = None
        self._board: Any = None
        settings, facts = config.logging, dict(facts or {})
        if settings.use_wandb:
            with self._spared():
                self._wandb = _start_wandb(folder, config, facts, resume_from)
        if settings.tensorboard:
            self._board = _start_tensorboard(folder, config, facts, resume_from)

    @property
    def draws(self) -> bool:
        """Whether anybody takes pictures."""
        return self._wandb is not None or self._board is not None

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Adds figures, named by paths such as train/loss; None where one is undefined."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        charted = _charted(figures)
        if self._wandb is not None:
            with self._spared():
                # Steps are a figure like others: W&B's own count can't go back, and a resumed run
                # does again what came after its checkpoint.
                self._wandb.log({"step": step, **charted})
        if self._board is not None:
            for name, value in charted.items():
                self._board.add_scalar(name, value, step)

    def show(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Adds RGB pictures by their names."""
        if self._wandb is not None:
            with self._spared():
                import wandb

                images = {name: wandb.Image(picture) for name, picture in pictures.items()}
                self._wandb.log({"step": step, **images})
        if self._board is not None:
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")

    def film(self, step: int, name: str, video: Path) -> None:
        """Adds an .mp4; TensorBoard shows none."""
        if self._wandb is not None:
            with self._spared():
                import wandb

                self._wandb.log({"step": step, name: wandb.Video(str(video), format="mp4")})

    def conclude(self, figures: Mapping[str, Any]) -> None:
        """What Weights & Biases shows of the whole run, beside the latest figures."""
        if self._wandb is not None:
            with self._spared():
                self._wandb.summary.update(_charted(figures))

    def artifact(self, name: str, checkpoint: Path, figures: Mapping[str, Any]) -> None:
        """Uploads a checkpoint to Weights & Biases."""
        if self._wandb is not None:
            with self._spared():
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
            with self._spared():
                self._wandb.finish()
        if self._board is not None:
            self._board.close()

    @contextlib.contextmanager
    def _spared(self) -> Iterator[None]:
        """Whatever goes wrong with Weights & Biases is said once; the run goes on without it."""
        try:
            yield
        except Exception as error:
            self._wandb = None
            warnings.warn(f"Weights & Biases takes no further part: {error}", stacklevel=4)


def revision() -> str | None:
    """The commit that this code is at, with -dirty where files differ from it; None where there is
    no git, or no repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _charted(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in figures.items()
        if value is not None and name.rpartition("/")[2] not in NOT_CHARTED
    }


def _open(path: Path, resume_from: int | None) -> TextIO:
    kept = []
    if resume_from is not None and path.exists():
        for line in path.read_text().splitlines():
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
    folder: Path, config: Config, facts: Mapping[str, str | None], resume_from: int | None
) -> Any:
    import tensorboardX

    # Steps that will be done again are hidden.
    purge = None if resume_from is None else resume_from + 1
    board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
    # As Markdown, where four spaces make a text stand as it is.
    for name, text in (("config", configs.to_yaml(config)), ("run", json.dumps(facts, indent=2))):
        board.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), 0)
    return board


def _start_wandb(
    folder: Path, config: Config, facts: Mapping[str, str | None], resume_from: int | None
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
        "config": {**config.model_dump(mode="json"), "run": dict(facts)},
        "dir": str(folder),
        "settings": settings,
    }
    run, kept = None, folder / "wandb_id.txt"
    if os.environ.get("WANDB_MODE", "online") == "online":
        reason = "no API key (wandb login, or WANDB_API_KEY)"
        if _has_key():
            online = dict(arguments)
            if resume_from is not None and kept.exists():
                online |= {"id": kept.read_text().strip(), "resume": "allow"}
            try:
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


def _has_key() -> bool:
    """Whether W&B would find a key: in the environment, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
