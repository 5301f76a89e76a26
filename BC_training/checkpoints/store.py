"""Checkpoints on disk: everything that is needed to play, and to go on training.

A run's folder holds one folder per checkpoint, named by its step, with `bundle` (JSON), `model`
(parameters and batch statistics) and `optimizer`. Arrays are stored under their dotted names.
Orbax writes a checkpoint beside its place and renames it into it when it is whole.
"""

import contextlib
import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from flax import nnx

from BC_training.checkpoints import state as states
from BC_training.checkpoints.bundle import Bundle, build, read_bundle
from BC_training.checkpoints.state import TrainState, flatten, unflatten
from BC_training.common import metrics
from BC_training.common.accelerator import first_device
from BC_training.common.config import BY_FIGHTS
from BC_training.networks.model import Model
from gameplay_pipeline.plumbing.errors import DataError, UserError

DELETED = "deleted"
"""Folder of a run that checkpoints are moved into before they are deleted, so that none is ever
half there under its own name."""

OVERHEAD = 2**17
"""Bytes of a checkpoint besides its arrays."""

# Orbax reports its progress through absl at levels meant for clusters.
absl_logging.set_verbosity(absl_logging.ERROR)


class Checkpoints:
    """The checkpoints of one run, for the one process that writes them and others that read."""

    def __init__(self, folder: Path, *, keep_last: int, best_metric: str, writes: bool = True):
        """Opens a run's folder; who writes there creates it if need be, and removes what a killed
        run left.

        Args:
            folder: of the run.
            keep_last: how many of the newest checkpoints are kept.
            best_metric: evaluation.best_metric, whose best checkpoint is kept besides.
            writes: whether this process is the one that writes.
        """
        self.folder = folder
        self._keep_last, self._metric = keep_last, best_metric
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._empty_deleted()
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def save(self, state: TrainState, bundle: Bundle) -> None:
        """Writes a checkpoint, atomically, and deletes those that need not be kept.

        Raises:
            UserError: it can't be written; earlier ones are unharmed.
        """
        target = self.folder / str(bundle.step)
        if target in _sound(self.folder):  # one that can't be read is written anew
            return
        try:
            _write(target, states.to_items(state), bundle)
        except Exception as error:  # Orbax raises many kinds; all mean the same to a person
            newest = self.latest()
            left = "There is no earlier one." if newest is None else (
                f"The newest one is that of step {newest.step}; --resume goes on from there."
            )  # fmt: skip
            raise UserError(
                f"{self.folder}: the checkpoint of step {bundle.step} can't be written: {error}. "
                f"{left}"
            ) from error
        self._delete_old()

    def rewrite(self, bundle: Bundle) -> None:
        """Writes what was found out about a saved checkpoint, such as its fights, into it."""
        file = self.folder / str(bundle.step) / "bundle" / "metadata"
        digests = read_bundle(file.parent.parent).digests
        written = file.with_name(".metadata.partial")
        written.write_text(json.dumps(bundle.model_copy(update={"digests": digests}).to_json()))
        written.replace(file)
        self._delete_old()

    def restore(self, bundle: Bundle, like: TrainState) -> TrainState:
        """The state to go on from, with the structure, shapes and placement of `like`.

        Raises:
            DataError: the checkpoint is damaged.
            UserError: it does not fit.
        """
        folder = self.folder / str(bundle.step)
        items = {
            name: _read_item(folder, name, item, bundle)
            for name, item in states.to_items(like).items()
        }
        step = jax.device_put(jnp.int32(bundle.step), like.step.sharding)
        return states.from_items(items, step)

    def set_aside(self, bundle: Bundle, reason: UserError) -> None:
        """Renames a checkpoint that can't be restored, so that its step can be done again."""
        folder = self.folder / str(bundle.step)
        folder.rename(_free(folder.with_name(f"{folder.name}.damaged")))
        warnings.warn(f"skipped and renamed to {folder.name}.damaged: {reason}", stacklevel=2)

    def latest(self) -> Bundle | None:
        """The newest checkpoint, or None where there is none."""
        return max(_sound(self.folder).values(), key=lambda bundle: bundle.step, default=None)

    def is_best(self, bundle: Bundle) -> bool:
        """Whether a bundle was judged, and better than every checkpoint so far."""
        judged = score(bundle, self._metric)
        best = self._best()
        least = -math.inf if best is None else score(best, self._metric)
        return judged is not None and judged > least

    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint; None while none was judged."""
        best = self._best()
        return None if best is None else best.epoch

    def _best(self) -> Bundle | None:
        scored = [(score(b, self._metric), -b.step, b) for b in _sound(self.folder).values()]
        judged = [row for row in scored if row[0] is not None and row[0] > -math.inf]
        return max(judged, default=(None, None, None))[2]

    def _delete_old(self) -> None:
        bundles = sorted(_sound(self.folder).values(), key=lambda bundle: bundle.step)
        best = self._best()
        for bundle in bundles[: -self._keep_last]:
            if best is None or bundle.step != best.step:
                folder = self.folder / str(bundle.step)
                (self.folder / DELETED).mkdir(exist_ok=True)
                folder.rename(_free(self.folder / DELETED / folder.name))
        self._empty_deleted()

    def _empty_deleted(self) -> None:
        shutil.rmtree(self.folder / DELETED, ignore_errors=True)


def save_policy(folder: Path, state: TrainState, bundle: Bundle) -> None:
    """Writes what play needs of a checkpoint, and nothing else, into a folder of its own."""
    items = states.to_items(state)
    _write(folder, {"model": items["model"]}, bundle)


def locate(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, or the best one of a run's folder; of several that
    are equally good, the first, as nothing after it was better.

    Checkpoints of a run that can't be read are named in a warning and passed over.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(path)
    if (path / "bundle").is_dir():
        return path
    bundles = _sound(path, warn=True)
    if not bundles:
        raise UserError(
            f"{path}: no checkpoint here that can be read; expected a run's folder such as "
            "checkpoints/pure_cnn, or one of the folders in it that are named by step"
        )
    newest = max(bundles.values(), key=lambda bundle: bundle.step)
    metric = newest.config.evaluation.best_metric

    def rank(folder: Path) -> tuple[float, int]:
        judged, step = score(bundles[folder], metric), bundles[folder].step
        return (-math.inf, step) if judged in (None, -math.inf) else (judged, -step)

    for folder in sorted(bundles, key=rank, reverse=True):
        try:
            load_model(folder)
            return folder
        except DataError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    raise UserError(f"{path}: none of its checkpoints can be read")


def load_model(folder: Path) -> tuple[Bundle, Model]:
    """The bundle of one checkpoint and its model with the trained parameters.

    Raises:
        UserError: it is damaged, of another format, or fits no model of this version.
    """
    bundle = read_bundle(folder)
    # Only its structure: drawing the parameters of a large model takes longer than reading them.
    try:
        model = nnx.eval_shape(lambda: build(bundle.config, bundle.spec))
    except UserError:
        raise
    except Exception as error:  # whatever a layer makes of numbers that nobody chose
        raise DataError(f"{folder}: its configuration makes no model: {error}") from error
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    item = _read_item(folder, "model", {"params": params, "rest": rest}, bundle)
    return bundle, nnx.merge(graph, item["params"], item["rest"])


def score(bundle: Bundle, metric: str) -> Any:
    """A number that is higher for a better checkpoint; None where the figure was not measured."""
    if metric in BY_FIGHTS:
        return None if bundle.fights is None else bundle.fights[BY_FIGHTS[metric]]
    if bundle.metrics is None:
        return None
    value = metrics.by_key(metric).read(bundle.metrics)
    if value is None:
        return -math.inf
    return value if metrics.by_key(metric).higher_is_better else -value


def _sound(run: Path, *, warn: bool = False) -> dict[Path, Bundle]:
    """The checkpoints in a run's folder whose bundles can be read."""
    bundles = {}
    for folder in run.iterdir() if run.is_dir() else ():
        if folder.name.isdigit():
            try:
                bundles[folder] = read_bundle(folder)
            except UserError as error:
                if warn:
                    warnings.warn(f"skipped: {error}", stacklevel=3)
    return bundles


def _write(folder: Path, items: Mapping[str, Any], bundle: Bundle) -> None:
    arrays = {name: flatten(item) for name, item in items.items()}
    if jax.process_count() > 1:  # what is on all hosts, Orbax would have all of them write
        arrays = jax.device_get(arrays)
    needed = OVERHEAD + sum(array.nbytes for item in arrays.values() for array in item.values())
    place = folder.resolve().parent
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < needed:  # asked first: where a disk fills up, Orbax's threads print dozens of errors
        raise OSError(f"{needed / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free")
    digests = {
        f"{name}/{key}": _digest(array)
        for name, item in arrays.items()
        for key, array in item.items()
    }
    signed = bundle.model_copy(update={"digests": digests})
    alone = _alone()
    handlers: dict[str, Any] = {
        name: ocp.StandardCheckpointHandler(multiprocessing_options=alone) for name in arrays
    }
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        bundle=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        **handlers,
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(
            folder.resolve(),
            args=ocp.args.Composite(
                bundle=ocp.args.JsonSave(signed.to_json()),
                **{name: ocp.args.StandardSave(item) for name, item in arrays.items()},
            ),
            force=True,
        )


def _read_item(folder: Path, name: str, like: Any, bundle: Bundle) -> Any:
    """The arrays of one item of a checkpoint in the structure of `like`.

    Shapes and types are compared before anything is read; arrays come to the device on which
    those of `like` are, or else to the first one, whichever wrote them.
    """
    wanted, path = flatten(like), (folder / name).resolve()
    first = jax.sharding.SingleDeviceSharding(first_device())
    damaged = f"{folder}: this checkpoint is damaged: "
    with contextlib.ExitStack() as stack:
        try:
            checkpointer = stack.enter_context(
                ocp.StandardCheckpointer(multiprocessing_options=_alone())
            )
            stored: Any = checkpointer.metadata(path).item_metadata
        except Exception as error:  # Orbax raises many kinds; all mean the same to a person
            raise DataError(f"{damaged}{_in_a_line(error)}") from error
        if stored is None:
            raise DataError(f"{damaged}{name} is not there")
        written = {key for key in bundle.digests if key.startswith(f"{name}/")}
        if bundle.format > 1 and written != {f"{name}/{key}" for key in stored.tree}:
            raise DataError(f"{damaged}{name} does not hold the arrays that were written")
        states.require_same_arrays(wanted, stored.tree, str(folder))
        target = {
            key: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
            )
            for key, leaf in wanted.items()
        }
        try:
            arrays = checkpointer.restore(path, target)
        except Exception as error:
            raise DataError(f"{damaged}{_in_a_line(error)}") from error
    for key, array in arrays.items():
        if bundle.format > 1 and bundle.digests.get(f"{name}/{key}") != _digest(array):
            raise DataError(f"{damaged}{name}/{key} is not as it was written")
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(np.asarray(array)).all():
            raise DataError(f"{damaged}{name}/{key} holds values that are not finite")
    return unflatten(like, arrays)


def _in_a_line(error: Exception) -> str:
    """What Orbax says, without the details of its storage, which fill a screen."""
    first, *_ = str(error).partition(". See full TensorStore details")[0].splitlines() or [""]
    return first or type(error).__name__


def _alone() -> ocp.options.MultiprocessingOptions:
    """Has Orbax wait for no other process: each holds all arrays, and if one fails at its part,
    the others would wait for minutes."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})


def _digest(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def _free(path: Path) -> Path:
    """The path, or one with a number where something has that name already."""
    number, place = 1, path
    while place.exists():
        number += 1
        place = path.with_name(f"{path.name}.{number}")
    return place
