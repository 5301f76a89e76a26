"""A checkpoint on a dataset: offline metrics beside what needs no model.

uv run -m BC_training.evaluate --checkpoint checkpoints/pure_cnn [--dataset PATH] [--split val]
"""

import json as json_format
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx
from jaxtyping import Array, Float
from rich.table import Table

from BC_training.analysis.policy import diagnosis
from BC_training.checkpoints import store as checkpoints
from BC_training.common import console, metrics
from BC_training.common.config import Config
from BC_training.common.dataset import Dataset, open_data
from BC_training.common.metrics import Metrics
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch, DataSpec
from BC_training.networks.losses import Objective
from BC_training.training import optimizer as optim
from gameplay_pipeline.plumbing.errors import UserError


class Predictions(NamedTuple):
    """A model's answers for all samples of a split, in order."""

    probabilities: Float[np.ndarray, "N A"]
    """Of each button now (the first of the K predicted ticks)."""
    loss: float
    """Mean over valid targets, weighted and smoothed as in training."""


def make_eval_step(
    graph: nnx.GraphDef[Any],
    preprocess: Preprocess,
    objective: Objective,
) -> Callable[[Any, Any, Batch, Any], tuple[Array, Array, Array]]:
    """A jitted function of (params, rest, batch, resident frames): summed loss, its weight,
    probabilities [B, A]."""

    @jax.jit
    def step(params: Any, rest: Any, batch: Batch, resident: Any) -> tuple[Array, Array, Array]:
        model = nnx.merge(graph, params, rest, copy=True)
        loss, logits = model.loss(preprocess.batch(batch, resident), objective, None)
        weight = (batch.valid * batch.weight[:, None]).sum()
        return loss * weight, weight, jax.nn.sigmoid(logits[:, 0])

    return step


def predict(
    step: Callable[[Any, Any, Batch, Any], tuple[Array, Array, Array]],
    params: Any,
    rest: Any,
    dataset: Dataset,
    config: Config,
) -> Predictions:
    """Runs a model over a whole split, in order."""
    size = config.training.batch_size
    total = -(-len(dataset) // size)
    batches = dataset.eval_batches(batch_size=size, threads=config.system.threads)
    outputs = [
        step(params, rest, batch, dataset.resident)
        for batch in console.progress(batches, "Evaluating", total)
    ]
    loss, weight, probabilities = zip(*jax.device_get(outputs), strict=True)
    return Predictions(
        probabilities=np.concatenate(probabilities)[: len(dataset)],
        loss=float(np.sum(loss) / np.sum(weight)),
    )


def score(
    predictions: Predictions, dataset: Dataset, spec: DataSpec, config: Config
) -> dict[str, Any]:
    """Metrics of predictions at evaluation.metrics_threshold, and the loss, as plain data."""
    figures = metrics.evaluate(
        predictions.probabilities,
        dataset.actions,
        dataset.episode,
        names=spec.actions,
        threshold=config.evaluation.metrics_threshold,
        tolerance=config.evaluation.onset_tolerance,
        fps=spec.frame.fps,
    )
    return {"loss": predictions.loss, **figures.as_dict()}


def baselines(
    train: Dataset, dataset: Dataset, spec: DataSpec, config: Config
) -> dict[str, Metrics]:
    """What policies without a model score on a split."""
    return metrics.baselines(
        train.actions.mean(axis=0),
        dataset.actions,
        dataset.episode,
        names=spec.actions,
        tolerance=config.evaluation.onset_tolerance,
        fps=spec.frame.fps,
    )


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def summary_table(rows: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A table of whole-policy figures, one row a policy."""
    table = console.make_table(title)
    table.add_column("policy", no_wrap=True)
    for name in ("exact", "macro F1", "micro F1", "press F1", "rel. F1", "freq L1", "freq KL"):
        table.add_column(name, justify="right")
    for policy, row in rows.items():
        table.add_row(
            policy,
            figure(row["exact_match"]),
            figure(row["macro_f1"]),
            figure(row["micro_f1"]),
            figure(row["presses"]["f1"]),
            figure(row["releases"]["f1"]),
            figure(row["frequency_l1"]),
            figure(row["frequency_kl"]),
        )
    return table


def action_table(figures: Mapping[str, Any], title: str) -> Table:
    """A table of per-action figures."""
    table = console.make_table(title)
    table.add_column("action", no_wrap=True)
    for name in ("acc", "prec", "rec", "F1", "AP", "press F1", "off ms", "true %", "pred %", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for action, row in figures["actions"].items():
        table.add_row(
            action,
            figure(row["accuracy"]),
            figure(row["precision"]),
            figure(row["recall"]),
            figure(row["f1"]),
            figure(row["average_precision"]),
            figure(row["presses"]["f1"]),
            figure(row["presses"]["mean_absolute_error_ms"], 0),
            figure(100 * row["true_frequency"], 1),
            figure(100 * row["predicted_frequency"], 1),
            str(row["support"]),
        )
    return table


def evaluate(
    checkpoint: Path,
    dataset: str | None = None,
    split: Literal["train", "val", "test"] = "val",
    json: Path | None = None,
    diagnose: Path | None = None,
    timeline: Path | None = None,
) -> int:
    """Scores a checkpoint on a split of a dataset.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        dataset: another dataset than the one it was trained on, split alike.
        split: which of the three to score on.
        json: also write the figures there.
        diagnose: also tell what the checkpoint goes by and where it errs, with pictures of its
            worst misses in this folder.
        timeline: also draw the true and the predicted buttons of the split's first episode there,
            as .png, .svg or .pdf.
    """
    if timeline is not None and timeline.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--timeline: {timeline} does not end in .png, .svg or .pdf")
    if diagnose is not None and diagnose.suffix == ".png":
        raise UserError(f"--diagnose: {diagnose} would be a folder; name one without .png")
    folder = checkpoints.locate(checkpoint)
    bundle, model = checkpoints.load_model(folder)
    config = bundle.resolved_config()
    data = open_data(config, dataset, bundle.preprocess.instructions)
    checkpoints.require_same(bundle, data.spec, str(data.episodes.path))
    train, chosen = data.splits["train"], data.splits[split]
    if len(chosen) == 0:
        raise UserError(f"{data.episodes.path}: the {split} split has no episode")
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    step = make_eval_step(graph, bundle.preprocess, optim.objective(config.training, train.actions))
    predictions = predict(step, params, rest, chosen, config)
    figures = score(predictions, chosen, data.spec, config)
    others = baselines(train, chosen, data.spec, config)
    rows = {config.model.name: figures} | {name: row.as_dict() for name, row in others.items()}
    out = console.make_console()
    out.print(f"{folder}, epoch {bundle.epoch}, on {split} of {data.episodes.path}")
    out.print(summary_table(rows, f"{len(chosen):,} ticks, loss {figures['loss']:.4f}"))
    out.print(action_table(figures, config.model.name))
    if diagnose is not None:
        diagnosis.diagnose(bundle, model, data, split, diagnose)
    if json is not None:
        json.write_text(json_format.dumps(rows, indent=2) + "\n")
    if timeline is not None:
        from BC_training.analysis.policy import charts  # takes a second, so only where it is wanted

        first = chosen.episode == 0
        charts.timeline(
            predictions.probabilities[first],
            chosen.actions[first],
            title=f"{chosen.names[0]} of the {split} split",
            names=data.spec.actions,
            thresholds=np.array(bundle.thresholds),
            fps=data.spec.frame.fps,
        ).savefig(timeline)
        print(f"the timeline of {chosen.names[0]}: {timeline}")
    return 0


def main() -> int:
    return tyro.cli(evaluate, use_underscores=True, prog="python -m BC_training.evaluate")


if __name__ == "__main__":
    console.run(main)
