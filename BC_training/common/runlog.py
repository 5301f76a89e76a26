"""What a run leaves to read: metrics.jsonl always, Weights & Biases when asked for."""

import json
import netrc
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from BC_training.common.config import Config

WANDB_TIMEOUT_S = 30


class RunLog:
    """Writes one line of figures per call, each under its step."""

    def __init__(self, folder: Path, config: Config, *, resume_from: int | None):
        """Opens the log of a run.

        Args:
            folder: of the run.
            config: of the run; its section `logging` says whether Weights & Biases takes part.
            resume_from: the step that the run goes on from; later lines, of steps that will be
                done again, are dropped. None starts the file anew.
        """
        self._file = _open(folder / "metrics.jsonl", resume_from)
        self._wandb = _start_wandb(folder, config) if config.logging.use_wandb else None

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Adds figures, named by paths such as train/loss; None where one is undefined."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in figures.items() if v is not None}, step=step)

    def close(self) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


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


def _start_wandb(folder: Path, config: Config) -> Any:
    """A run on Weights & Biases; offline where there is no key or no network."""
    import wandb  # takes a second, and over the standard output, so only where it is wanted

    settings = wandb.Settings(init_timeout=WANDB_TIMEOUT_S, silent=True)
    arguments: dict[str, Any] = {
        "project": config.logging.wandb_project,
        "entity": config.logging.wandb_entity,
        "name": config.logging.wandb_run_name,
        "config": config.model_dump(mode="json"),
        "dir": str(folder),
        "settings": settings,
    }
    if os.environ.get("WANDB_MODE", "online") == "online":
        if _has_key():
            try:
                return wandb.init(**arguments)
            except wandb.Error as error:
                reason = str(error)
        else:
            reason = "no API key (wandb login, or WANDB_API_KEY)"
        warnings.warn(f"Weights & Biases is offline for this run: {reason}", stacklevel=2)
        arguments["mode"] = "offline"
    return wandb.init(**arguments)


def _has_key() -> bool:
    """Whether W&B would find a key: in the environment, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
