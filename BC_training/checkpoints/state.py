"""What training changes, and arrays by their names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int

from gameplay_pipeline.plumbing.errors import UserError

MAX_LISTED = 20
"""Arrays that one message names."""


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

    def eval_params(self) -> tuple[Any, Any]:
        """Parameters and batch statistics to evaluate and to play."""
        return (self.params, self.rest) if self.average is None else self.average


def to_items(state: TrainState) -> dict[str, dict[str, Any]]:
    """A state as the items of a checkpoint: `model`, which is what play needs, and `optimizer`,
    which only training needs."""
    params, rest = state.eval_params()
    training = {"opt_state": state.opt_state, "bad_step": state.bad_step}
    if state.average is not None:
        training |= {"live_params": state.params, "live_rest": state.rest}
    return {"model": {"params": params, "rest": rest}, "optimizer": training}


def from_items(items: Mapping[str, Mapping[str, Any]], step: Any) -> TrainState:
    """The state whose items these are; the inverse of `to_items`."""
    model, training = items["model"], items["optimizer"]
    params, rest, average = model["params"], model["rest"], None
    if "live_params" in training:
        average = params, rest
        params, rest = training["live_params"], training["live_rest"]
    return TrainState(
        step, params, rest, training["opt_state"], training["bad_step"], average
    )  # fmt: skip


def flatten(tree: Any) -> dict[str, Any]:
    """Arrays of a tree by their dotted names."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {
        name.removesuffix(".value"): leaf for name, (_, leaf) in zip(names, leaves, strict=True)
    }


def unflatten(like: Any, arrays: Mapping[str, Any]) -> Any:
    """Puts arrays, which are those of `like` by name, back into its structure."""
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in flatten(like)])


def require_same_arrays(wanted: Mapping[str, Any], offered: Mapping[str, Any], source: str) -> None:
    """Compares the names, shapes and types of arrays.

    Raises:
        UserError: an array is missing, left over, or has another shape or type; each is named.
    """
    problems = [f"{name} is missing" for name in wanted if name not in offered]
    problems += [f"{name} is not known" for name in offered if name not in wanted]
    for name in wanted.keys() & offered.keys():
        array, leaf = offered[name], wanted[name]
        if tuple(array.shape) != tuple(leaf.shape):
            problems.append(f"{name} has shape {tuple(array.shape)}, not {tuple(leaf.shape)}")
        elif array.dtype != leaf.dtype:
            problems.append(f"{name} is {array.dtype}, not {leaf.dtype}")
    if problems:
        raise UserError(
            f"{source}: its arrays do not fit the model:\n  "
            + "\n  ".join(sorted(problems)[:MAX_LISTED])
        )
