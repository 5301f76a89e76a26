"""Checkpoints: bundles that need nothing else to be played, and everything to go on training.

A run's folder holds one folder per checkpoint, named by its step, with `bundle` (JSON), `model`
(parameters and batch statistics) and `optimizer`. Arrays are stored under their dotted names.
"""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pydantic
from absl import logging as absl_logging
from flax import nnx
from jaxtyping import Array, Int
from orbax.checkpoint.checkpoint_managers import preservation_policy

from BC_training import models
from BC_training.common import config as configs
from BC_training.common.config import BY_FIGHTS, Config
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec, Section
from BC_training.networks.model import Model
from gameplay_pipeline.plumbing.errors import UserError

FORMAT = 1

# Orbax reports its progress through absl at levels meant for clusters.
absl_logging.set_verbosity(absl_logging.ERROR)


class TrainState(NamedTuple):
    """All that training changes. Randomness is folded from the seed and `step`, not stored."""

    step: Int[Array, ""]
    params: Any
    rest: Any
    """Batch statistics."""
    opt_state: Any
    bad_step: Int[Array, ""]
    """The first step whose loss was not finite; -1 while there is none."""
    average: Any
    """Moving average of `params` and `rest`, a pair; None where none is kept."""

    def played(self) -> tuple[Any, Any]:
        """Parameters and batch statistics to evaluate and to play."""
        return (self.params, self.rest) if self.average is None else self.average


class Bundle(Section):
    """What a policy is, besides its arrays."""

    format: int
    config: dict[str, Any]
    """The resolved configuration."""
    spec: DataSpec
    preprocess: Preprocess
    thresholds: tuple[float, ...]
    """Probability from which play presses each action."""
    step: int
    epoch: int
    """Whole epochs done."""
    metrics: dict[str, Any] | None
    """Of the validation split, where this epoch was evaluated."""
    fights: dict[str, float | None] | None = None
    """Means over its fights while it was trained, where it had any: `won`, `boss_health_removed`,
    `seconds`, `return`, `presses` a second; None where the environment doesn't say."""
    versions: dict[str, str]

    def resolved_config(self) -> Config:
        """The configuration in its own classes."""
        return configs.validate(self.config, "the checkpoint's configuration")

    def decided_by(self, play: Mapping[str, Any]) -> "Bundle":
        """The same policy, but for these keys of the section `play`.

        Raises:
            UserError: there is no such key, or its value is none.
        """
        config = {**self.config, "play": {**self.config.get("play", {}), **play}}
        configs.validate(config, "--play")
        return self.model_copy(update={"config": config})


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint computes."""
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}


def create_model(config: Config, spec: DataSpec) -> Model:
    """A freshly initialised model; its parameters are a pure function of the seed."""
    module = models.load(config.model.name)
    return module.create_model(config.model, spec, nnx.Rngs(config.system.seed))


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, *, keep_last: int, best_metric: str):
        """Opens a run's folder, creating it if need be.

        Args:
            folder: of the run.
            keep_last: how many of the newest checkpoints are kept.
            best_metric: evaluation.best_metric, whose best checkpoint is kept besides.
        """
        self.folder = folder
        self._metric = best_metric
        folder.mkdir(parents=True, exist_ok=True)
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep_last),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics["score"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            item_names=("bundle", "model", "optimizer"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def save(self, state: TrainState, bundle: Bundle) -> None:
        """Writes a checkpoint, atomically, and drops those that need not be kept.

        Raises:
            UserError: it can't be written; earlier ones are unharmed.
        """
        if bundle.step in self._manager.all_steps():
            return
        parts, score = _parts(state), _score(bundle, self._metric)
        try:
            self._manager.save(
                bundle.step,
                args=ocp.args.Composite(
                    bundle=ocp.args.JsonSave(bundle.model_dump(mode="json")),
                    **{name: ocp.args.StandardSave(flatten(part)) for name, part in parts.items()},
                ),
                metrics=None if score is None else {"score": score},
            )
        except Exception as error:  # Orbax raises many kinds; all mean the same to a person
            raise UserError(
                f"{self.folder}: the checkpoint of step {bundle.step} can't be written: {error}. "
                f"The newest one is that of step {self.latest()}; --resume goes on from there."
            ) from error

    def save_player(self, folder: Path, state: TrainState, bundle: Bundle) -> None:
        """Writes what play needs of a checkpoint, and nothing else, into a folder of its own."""
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(
                folder.resolve(),
                args=ocp.args.Composite(
                    bundle=ocp.args.JsonSave(bundle.model_dump(mode="json")),
                    model=ocp.args.StandardSave(flatten(_parts(state)["model"])),
                ),
                force=True,
            )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """A state to go on from, with the structure and shapes of `like`."""
        source = self.folder / str(step)
        fields = {}
        for name, part in _parts(like).items():
            fields |= unflatten(part, _read_arrays(source / name), str(source))
        played = fields.pop("params"), fields.pop("rest")
        if like.average is not None:
            fields["average"], played = played, (fields.pop("live_params"), fields.pop("live_rest"))
        params, rest = played
        return like._replace(step=jnp.int32(step), params=params, rest=rest, **fields)

    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return self._manager.latest_step()

    def is_best(self, bundle: Bundle) -> bool:
        """Whether a bundle was judged, and better than every checkpoint so far."""
        score = _score(bundle, self._metric)
        if score is None:
            return False
        scores = _scores(_folders(self.folder), self._metric).values()
        return not scores or score > max(scores)

    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint; None while none was judged."""
        scores = _scores(_folders(self.folder), self._metric)
        return read_bundle(max(scores, key=lambda each: scores[each])).epoch if scores else None

    def close(self) -> None:
        self._manager.close()


def locate(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, or the best one of a run's folder.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(path)
    if (path / "bundle").is_dir():
        return path
    found = _folders(path)
    if not found:
        raise UserError(
            f"{path}: no checkpoint here; expected a run's folder such as checkpoints/pure_cnn, or "
            "one of the folders in it that are named by step"
        )
    metric = read_bundle(found[-1]).resolved_config().evaluation.best_metric
    scores = _scores(found, metric)
    return max(found, key=lambda folder: (scores.get(folder, -np.inf), int(folder.name)))


def read_bundle(folder: Path) -> Bundle:
    """The bundle of one checkpoint.

    Raises:
        UserError: it is damaged, or of another format.
    """
    file = folder / "bundle" / "metadata"
    try:
        raw = json.loads(file.read_text())
        if raw.get("format") != FORMAT:
            raise UserError(
                f"{folder}: its format is {raw.get('format')!r}, this version reads {FORMAT}; "
                "use the version of the project that wrote it, or train again"
            )
        return Bundle.model_validate_json(json.dumps(raw))
    except (OSError, json.JSONDecodeError, pydantic.ValidationError) as error:
        raise UserError(f"{folder}: this checkpoint is damaged: {error}") from error


def load_model(folder: Path) -> tuple[Bundle, Model]:
    """The bundle of one checkpoint and its model with the trained parameters.

    Raises:
        UserError: it is damaged, of another format, or fits no model of this version.
    """
    bundle = read_bundle(folder)
    config = bundle.resolved_config()
    # Only its structure: drawing the parameters of a large model takes longer than reading them.
    model = nnx.eval_shape(lambda: create_model(config, bundle.spec))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    arrays = _read_arrays(folder / "model")
    restored = unflatten({"params": params, "rest": rest}, arrays, str(folder))
    return bundle, nnx.merge(graph, restored["params"], restored["rest"])


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
    if not bundle.resolved_config().model.window().state:
        del then["state"]
    different = [
        f"{key} {_listed(now[key])}, trained on {_listed(then[key])}"
        for key in then
        if then[key] != now[key] and not {None, "unknown"} & {then[key], now[key]}
    ]
    if different:
        raise UserError(f"{source} does not fit the checkpoint: {'; '.join(different)}")


def _listed(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def flatten(tree: Any) -> dict[str, Any]:
    """Arrays of a tree by their dotted names."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {
        name.removesuffix(".value"): leaf for name, (_, leaf) in zip(names, leaves, strict=True)
    }


def _folders(run: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    if not run.is_dir():
        return []
    found = [folder for folder in run.iterdir() if folder.name.isdigit()]
    return sorted(found, key=lambda folder: int(folder.name))


def _score(bundle: Bundle, metric: str) -> float | None:
    """Higher is better; None where the figure was not measured."""
    if metric in BY_FIGHTS:
        return None if bundle.fights is None else bundle.fights[BY_FIGHTS[metric]]
    if bundle.metrics is None:
        return None
    value = bundle.metrics[metric]
    if value is None:
        return -np.inf
    return -float(value) if metric == "loss" else float(value)


def _scores(folders: Sequence[Path], metric: str) -> dict[Path, float]:
    """Scores of those checkpoints that were judged."""
    return {
        folder: score
        for folder in folders
        if (score := _score(read_bundle(folder), metric)) is not None
    }


def _parts(state: TrainState) -> dict[str, dict[str, Any]]:
    """The fields of a state by the item of a checkpoint that holds them: what is played, and what
    only training needs."""
    params, rest = state.played()
    training = {"opt_state": state.opt_state, "bad_step": state.bad_step}
    if state.average is not None:
        training |= {"live_params": state.params, "live_rest": state.rest}
    return {"model": {"params": params, "rest": rest}, "optimizer": training}


def _read_arrays(folder: Path) -> dict[str, Any]:
    """Arrays as they were stored, on this machine's first device, whichever wrote them."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored: Any = checkpointer.metadata(folder.resolve()).item_metadata
            target = {
                name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=here)
                for name, array in stored.tree.items()
            }
            return checkpointer.restore(folder.resolve(), target)
    except Exception as error:  # Orbax raises many kinds; all mean the same to a person
        raise UserError(f"{folder}: this checkpoint is damaged: {error}") from error


def unflatten(like: Any, arrays: Mapping[str, Any], source: str) -> Any:
    """Puts arrays back into the structure of `like`.

    Raises:
        UserError: an array is missing, left over, or has another shape; each is named.
    """
    wanted = flatten(like)
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    problems += [f"{name} is not known" for name in arrays if name not in wanted]
    problems += [
        f"{name} has shape {arrays[name].shape}, not {leaf.shape}"
        for name, leaf in wanted.items()
        if name in arrays and arrays[name].shape != leaf.shape
    ]
    if problems:
        raise UserError(
            f"{source}: its arrays do not fit the model:\n  " + "\n  ".join(problems[:20])
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
