"""Begins a run with the parameters of another's checkpoint instead of random ones."""

import dataclasses
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.bundle import Bundle, build
from BC_training.checkpoints.state import flatten, require_same_arrays, unflatten
from BC_training.common.config import Config
from BC_training.common.types import DataSpec
from BC_training.networks.model import Model
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import expand


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A checkpoint that a run begins with."""

    folder: Path
    bundle: Bundle
    model: Model

    @classmethod
    def load(cls, config: Config) -> "WarmStart | None":
        """Loads training.init_from; None where there is none.

        Raises:
            UserError: it can't be read, or is of another model.
        """
        if config.training.init_from is None:
            return None
        folder = store.locate(expand(config.training.init_from))
        bundle, model = store.load_model(folder)
        if bundle.config.model.name != config.model.name:
            raise UserError(
                f"training.init_from: {folder} is a {bundle.config.model.name}, but model.name is "
                f"{config.model.name}; parameters fit only the same architecture"
            )
        return cls(folder, bundle, model)

    def fill(self, model: Model, config: Config, spec: DataSpec) -> Model:
        """Returns the model with the checkpoint's parameters. Where the actions are others, arrays
        whose shape depends on them stay as they are.

        Raises:
            UserError: the checkpoint's network differs, each array is named; or so does the state
                that it reads.
        """
        if config.model.window().state and self.bundle.spec.state != spec.state:
            there, here = (", ".join(names) for names in (self.bundle.spec.state, spec.state))
            raise UserError(
                f"training.init_from: {self.folder} reads the state {there}, the dataset has {here}"
            )
        print(f"begins with the parameters and the normalisation of {self.folder}")
        graph, *states = nnx.split(model, nnx.Param, ...)
        _, *stored = nnx.split(self.model, nnx.Param, ...)
        ours, theirs = _arrays(states), _arrays(stored)
        anew: set[str] = set()
        if self.bundle.spec.actions != spec.actions:
            more = spec.model_copy(update={"actions": (*spec.actions, "one more")})
            _, *larger = nnx.split(nnx.eval_shape(lambda: build(config, more)), nnx.Param, ...)
            shapes = _arrays(larger)
            anew = {name for name in ours if ours[name].shape != shapes[name].shape}
            print(f"other actions than the checkpoint's: {', '.join(sorted(anew))} begin anew")
        require_same_arrays(
            {name: array for name, array in ours.items() if name not in anew},
            {name: array for name, array in theirs.items() if name not in anew},
            f"training.init_from: {self.folder}",
        )
        kept = {name: array for name, array in theirs.items() if name not in anew}
        return nnx.merge(graph, *(unflatten(state, ours | kept) for state in states))


def _arrays(states: Iterable[Any]) -> dict[str, Any]:
    """Arrays of several states by their names, which differ."""
    return {name: array for state in states for name, array in flatten(state).items()}


def begin(model: Model, start: WarmStart | None, config: Config, spec: DataSpec) -> Model:
    """Returns the model that a run begins with: with pretrained weights if the configuration names
    any, or with a checkpoint's parameters.

    Raises:
        UserError: they do not fit.
    """
    if start is not None:
        return start.fill(model, config, spec)
    model.load_pretrained(spec.frame.color_order)
    for name, backbone in model.backbones().items():
        if backbone.freeze and backbone.weights is None:
            warnings.warn(f"{name}: freeze without weights: it stays as random as it is made",
                          stacklevel=2)  # fmt: skip
    return model
