"""A checkpoint on a dataset: offline metrics beside what needs no model.

uv run -m BC_training.evaluate --checkpoint checkpoints/pure_cnn [--dataset PATH] [--split val]
"""

import json as json_format
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from flax import nnx

from BC_training.analysis.policy import diagnosis
from BC_training.checkpoints import store
from BC_training.checkpoints.bundle import require_same
from BC_training.common import console
from BC_training.common.dataset import Data, open_data
from BC_training.training import optimizer, report
from BC_training.training.devices import one_device
from BC_training.training.evaluator import Evaluator, Predictions
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders


def evaluate(
    checkpoint: Path,
    dataset: str | None = None,
    split: Literal["train", "val", "test"] = "val",
    json: Path | None = None,
    diagnose: Path | None = None,
    timeline: Path | None = None,
    cache_dir: Path | None = None,
) -> int:
    """Scores a checkpoint on a split of a dataset; ticks at which a policy was corrected, where
    there are any, also by themselves.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        dataset: another dataset than the one it was trained on, split alike.
        split: which of the three to score on.
        json: also write the figures there.
        diagnose: also tell what the checkpoint goes by and where it errs, with pictures of its
            worst misses in this folder.
        timeline: also draw the true and the predicted buttons of the split's first episode there,
            as .png, .svg or .pdf.
        cache_dir: where decoded frames are kept, by default the user's cache folder. What the
            checkpoint says about folders is not followed.
    """
    _check_outputs(json, timeline, diagnose)
    folder = store.locate(checkpoint)
    bundle, model = store.load_model(folder)
    config = bundle.config_here(dataset, None if cache_dir is None else str(cache_dir))
    data = open_data(config, preprocess=bundle.preprocess, splits=(split,))
    require_same(bundle, data.spec, str(data.episodes.path))
    train, chosen = data.splits["train"], data.splits[split]
    if len(chosen.targets) == 0:
        raise UserError(f"{data.episodes.path}: the {split} split has no tick to score on")
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    objective = optimizer.objective(config.training, train.actions[train.targets])
    evaluator = Evaluator(
        graph, bundle.preprocess, objective, data.spec, config, chosen, chosen.resident,
        one_device(),
    )  # fmt: skip
    predictions = evaluator.predict(params, rest)
    figures = evaluator.score(predictions)
    rows = {config.model.name: figures, **evaluator.baselines(train)}
    is_corrected = chosen.corrected[chosen.targets]
    for name, among in (("corrected ticks", is_corrected), ("other ticks", ~is_corrected)):
        if is_corrected.any() and among.any():
            rows[name] = evaluator.score(predictions, chosen.targets[among])
    out = console.make_console()
    out.print(f"{folder}, epoch {bundle.epoch}, on {split} of {data.episodes.path}", markup=False)
    out.print(report.summary_table(rows, f"{len(chosen):,} ticks, loss {figures['loss']:.4f}"))
    out.print(report.action_table(figures, config.model.name))
    if diagnose is not None:
        diagnosis.diagnose(bundle, model, data, split, diagnose)
    if json is not None:
        json.write_text(json_format.dumps(rows, indent=2) + "\n")
    if timeline is not None:
        _draw(predictions, data, split, bundle.thresholds, timeline)
    return 0


def _check_outputs(json: Path | None, timeline: Path | None, diagnose: Path | None) -> None:
    """Raises a UserError where a file can't be meant, or not be written."""
    if timeline is not None and timeline.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--timeline: {timeline} does not end in .png, .svg or .pdf")
    require_folders(json=json, timeline=timeline)
    if diagnose is not None and diagnose.suffix == ".png":
        raise UserError(f"--diagnose: {diagnose} would be a folder; name one without .png")


def _draw(
    predictions: Predictions, data: Data, split: str, thresholds: tuple[float, ...], file: Path
) -> None:
    from BC_training.analysis.policy import charts  # takes a second, so only where it is wanted

    chosen = data.splits[split]
    first = chosen.episode == 0
    charts.timeline(
        predictions.probabilities[first],
        chosen.actions[first],
        title=f"{chosen.names[0]} of the {split} split",
        names=data.spec.actions,
        thresholds=np.array(thresholds),
        fps=data.spec.frame.fps,
    ).savefig(file)
    print(f"the timeline of {chosen.names[0]}: {file}")


def main() -> int:
    return tyro.cli(evaluate, use_underscores=True, prog="python -m BC_training.evaluate")


if __name__ == "__main__":
    sys.exit(command.run(main))
