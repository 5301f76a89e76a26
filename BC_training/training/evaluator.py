"""A model's answers for a split: predictions, their figures, thresholds and pictures."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from BC_training.common import metrics
from BC_training.common.config import Config
from BC_training.common.dataset import Dataset
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch, DataSpec
from BC_training.networks.losses import Objective
from BC_training.training.devices import Devices
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.progress import track


class Predictions(NamedTuple):
    """A model's answers for all samples of a split, in order."""

    probabilities: Float[np.ndarray, "N A"]
    """Probability that each button is down now (the first of the K predicted ticks)."""
    loss: float
    """Mean over valid targets, weighted and smoothed as in training."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Judges parameters of one model on one split."""

    graph: nnx.GraphDef[Any]
    preprocess: Preprocess
    objective: Objective
    spec: DataSpec
    config: Config
    dataset: Dataset
    resident: UInt8[Array, "N H W C"] | None
    """All frames of the dataset, where its batches hold their rows."""
    devices: Devices

    def predict(self, params: Any, rest: Any) -> Predictions:
        """Runs the model over the whole split, in order.

        Raises:
            UserError: an answer is not a number.
        """
        size = self.config.training.batch_size
        total = -(-len(self.dataset) // size)
        batches = self.dataset.eval_batches(
            batch_size=size, threads=self.config.system.threads, rows=self.devices.rows(size)
        )
        outputs = [
            self._step(params, rest, self.devices.split(batch), self.resident)
            for batch in track(batches, "Evaluating", total)
        ]
        loss, weight, probabilities = zip(*jax.device_get(outputs), strict=True)
        predictions = Predictions(
            probabilities=np.concatenate(probabilities)[: len(self.dataset)],
            loss=float(np.sum(loss) / np.sum(weight)),
        )
        if not np.isfinite(predictions.probabilities).all():
            raise UserError(
                "the model's answers are not finite. Try a lower training.learning_rate, or a "
                "training.grad_clip_norm."
            )
        return predictions

    def score(
        self, predictions: Predictions, samples: Int[np.ndarray, "n"] | None = None
    ) -> dict[str, Any]:
        """The figures of `metrics.evaluate` for some samples, in order, or for all that were
        judged, at evaluation.metrics_threshold."""
        chosen = self.dataset.targets if samples is None else samples
        return metrics.evaluate(
            predictions.probabilities[chosen],
            self.dataset.actions[chosen],
            self.dataset.stretches(chosen),
            names=self.spec.actions,
            threshold=self.config.evaluation.metrics_threshold,
            tolerance=self.config.evaluation.onset_tolerance,
            fps=self.spec.frame.fps,
            loss=predictions.loss if samples is None else None,
        )

    def thresholds(self, predictions: Predictions | None) -> tuple[float, ...]:
        """From which probability play presses each action: calibrated, or, where nothing was
        predicted, evaluation.metrics_threshold."""
        if predictions is None:
            return (self.config.evaluation.metrics_threshold,) * len(self.spec.actions)
        judged = self.dataset.targets
        thresholds = metrics.calibrate(
            predictions.probabilities[judged], self.dataset.actions[judged]
        )
        return tuple(thresholds.tolist())

    def baselines(self, train: Dataset) -> dict[str, dict[str, Any]]:
        """The figures of policies without a model; the commonest buttons are those of `train`."""
        judged = self.dataset.targets
        return metrics.baselines(
            train.actions[train.targets].mean(axis=0),
            self.dataset.actions[judged],
            self.dataset.stretches(judged),
            names=self.spec.actions,
            tolerance=self.config.evaluation.onset_tolerance,
            fps=self.spec.frame.fps,
        )

    def pictures(
        self, predictions: Predictions, thresholds: tuple[float, ...]
    ) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
        """RGB charts by the names that they have in the log."""
        from BC_training.analysis.policy import charts  # takes a second, so only where it is wanted

        judged = self.dataset.targets
        first = self.dataset.episode[judged[0]]
        drawn = charts.draw(
            predictions.probabilities[judged],
            self.dataset.actions[judged],
            self.dataset.stretches(judged),
            title=f"{self.dataset.names[first]} of the val split, from its first judged tick",
            names=self.spec.actions,
            thresholds=np.array(thresholds),
            threshold=self.config.evaluation.metrics_threshold,
            fps=self.spec.frame.fps,
        )
        return {f"charts/{name}": picture for name, picture in drawn.items()}

    @functools.partial(jax.jit, static_argnums=0)
    def _step(
        self, params: Any, rest: Any, parts: Batch, resident: UInt8[Array, "N H W C"] | None
    ) -> tuple[Array, Array, Float[Array, "B A"]]:
        """Summed loss, its weight, and probabilities."""
        batch = jax.tree.map(lambda x: x[0], parts)
        model = nnx.merge(self.graph, params, rest, copy=True)
        loss, logits = model.loss(self.preprocess.batch(batch, resident), self.objective, None)
        weight = (batch.valid * batch.weight[:, None]).sum()
        return self.devices.keep_replicated((loss * weight, weight, jax.nn.sigmoid(logits[:, 0])))
