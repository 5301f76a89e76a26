"""What a policy is, besides its arrays: configuration, data contract, preprocessing, thresholds."""

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from flax import nnx
from pydantic import BeforeValidator, Field, SerializeAsAny

from BC_training import models
from BC_training.common import config_file
from BC_training.common.config import Config
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, Section
from BC_training.networks.model import Model
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import is_url
from ranni_player import contract

FORMAT = 2
"""Version of the bundles that are written. Format 1, which is still read, has no digests."""


MAX_PIXELS = 2**26
"""Pixels of a frame above which a bundle must be damaged."""


def _as_config(raw: Any) -> Config:
    if isinstance(raw, Config):
        return raw
    if not isinstance(raw, dict):
        raise ValueError("its configuration is no JSON object")
    return config_file.stored(raw, "the checkpoint's configuration")


class Bundle(Section):
    """What a policy is, besides its arrays."""

    format: int = FORMAT
    config: Annotated[SerializeAsAny[Config], BeforeValidator(_as_config)]
    """The resolved configuration."""
    spec: DataSpec
    preprocess: Preprocess
    thresholds: tuple[float, ...]
    """Probability from which play presses each action."""
    step: int
    epoch: int
    """Whole epochs done."""
    metrics: dict[str, Any] | None
    """Figures of the validation split, where this epoch was evaluated."""
    fights: dict[str, float | None] | None = None
    """Means over its fights while it was trained, where it had any: `won`, `boss_health_removed`,
    `seconds`, `return`, `presses` a second; None where the environment doesn't say."""
    versions: dict[str, str]
    dataset: str | None = None
    """A digest of the episodes' names, lengths and actions; older ones have none."""
    digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each array of each item, in hexadecimal."""

    @pydantic.model_validator(mode="after")
    def _counts(self) -> "Bundle":
        channels = self.spec.frame.channels
        counts = {
            "thresholds": (len(self.thresholds), len(self.spec.actions)),
            "preprocess.frame_mean": (len(self.preprocess.frame_mean), channels),
            "preprocess.frame_std": (len(self.preprocess.frame_std), channels),
        }
        for name, (count, wanted) in counts.items():
            if count != wanted:
                raise ValueError(f"{name} holds {count} values, not {wanted}")
        if self.spec.features != self.preprocess.features():
            raise ValueError("spec.features is not what its preprocessing makes")
        frame = self.spec.frame
        if not 0 < frame.height * frame.width <= MAX_PIXELS or min(frame.height, frame.width) < 0:
            raise ValueError(f"spec.frame is {frame.width}x{frame.height}, which can't be meant")
        return self

    def with_play(self, play: Mapping[str, Any]) -> "Bundle":
        """The same policy, but for these keys of the section `play`.

        Raises:
            UserError: there is no such key, or its value is none.
        """
        raw = self.config.model_dump(mode="json")
        config = config_file.validate({**raw, "play": {**raw["play"], **play}}, "--play")
        return self.model_copy(update={"config": config})

    def config_here(self, dataset: str | None, cache_dir: str | None) -> Config:
        """The configuration, without what it says about the machine on which it was made: a
        checkpoint may come from a stranger, who is not to choose what is written or asked here.

        Args:
            dataset: the dataset to use; None for the one that it was trained on.
            cache_dir: where decoded frames are kept; None for the user's cache folder.

        Raises:
            UserError: the checkpoint's own dataset is on the network.
        """
        paths = self.config.dataset.path
        for path in (paths,) if isinstance(paths, str) else paths:
            if dataset is None and is_url(path):
                raise UserError(
                    f"the checkpoint was trained on {path}, which is only asked for if you say so: "
                    f"--dataset {path}"
                )
        raw = self.config.model_dump(mode="json")
        raw["dataset"]["path"] = dataset or raw["dataset"]["path"]
        raw["dataset"]["shares"] = raw["training"]["intervention_share"] = None  # of batches
        raw["dataset"]["cache_dir"] = cache_dir
        for key, name in (("dataset", "stream_memory_gib"), ("system", "num_workers")):
            del raw[key][name]
        return config_file.validate(raw, "the checkpoint's configuration")

    def to_json(self) -> dict[str, Any]:
        """Plain data, with a digest of all of it."""
        raw = self.model_dump(mode="json")
        return {**raw, "sha256": _digest(raw)}


def read_bundle(folder: Path) -> Bundle:
    """The bundle of the checkpoint in a folder.

    Raises:
        DataError: it is damaged.
        UserError: it is of another format.
    """
    file = folder / "bundle" / "metadata"
    try:
        raw = json.loads(file.read_text())
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        if raw.get("format") not in (1, FORMAT):
            raise UserError(
                f"{folder}: its format is {raw.get('format')!r}, this version reads 1 and {FORMAT};"
                " use the version of the project that wrote it, or train again"
            )
        digest = raw.pop("sha256", None)
        if raw["format"] > 1 and digest != _digest(raw):
            raise ValueError("its checksum is wrong")
        _rename_metrics(raw.get("metrics"))
        return Bundle.model_validate_json(json.dumps(raw))
    except UserError:
        raise
    except Exception as error:  # not UTF-8, no JSON, refused, or figures of any kind
        raise DataError(f"{folder}: this checkpoint is damaged: {error}") from error


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint computes."""
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}


def revision() -> str | None:
    """The commit that this code is at, with -dirty where files differ from it; None where there is
    no git, or no repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() if described.returncode == 0 else None


def build(config: Config, spec: DataSpec) -> Model:
    """A freshly initialised model for a dataset; its parameters are a pure function of the seed."""
    module = models.load(config.model.name)
    return module.create_model(config.model, spec, nnx.Rngs(config.system.seed))


def require_same(bundle: Bundle, offered: DataSpec, source: str) -> None:
    """Compares what a checkpoint was trained on with what it is about to get.

    What one side does not know differs from nothing, nor does game state that the model ignores.

    Raises:
        UserError: something differs; each difference is named.
    """
    then, now = (
        {"actions": spec.actions, "state": spec.state, **spec.frame.model_dump()}
        for spec in (bundle.spec, offered)
    )
    if not bundle.config.model.window().state:
        del then["state"]
    contract.require_same(then, now, source)


def _digest(raw: Any) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def _rename_metrics(figures: Any) -> None:
    """Gives the figures of format 1 the names of today."""
    if isinstance(figures, dict) and "presses" in figures:
        for row in (figures, *figures.get("actions", {}).values()):
            row["onsets"], row["offsets"] = row.pop("presses"), row.pop("releases")
