"""What a run and an evaluation print."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from BC_training.common import console, metrics
from BC_training.common.config import Config
from BC_training.common.dataset import Data
from BC_training.common.episodes import MAX_LISTED
from BC_training.common.metrics import METRICS, Metric
from BC_training.common.mix import MixedOrder
from BC_training.training.devices import Devices

SHOWN = tuple(metric for metric in METRICS if metric.while_training)
WIDTHS = [9, 8, 7, *(max(len(metric.title) + 1, 7) for metric in SHOWN), 8]
BASELINES = {
    "nothing pressed": "nothing",
    "majority": "majority",
    "repeat the previous action": "previous",
}
"""The policies without a model, and what the table of a run has room for."""

ACTION_COLUMNS = (
    ("acc", "accuracy", 1, 3),
    ("prec", "precision", 1, 3),
    ("rec", "recall", 1, 3),
    ("F1", "f1", 1, 3),
    ("AP", "average_precision", 1, 3),
    ("onset F1", "onsets/f1", 1, 3),
    ("off ms", "onsets/mean_absolute_error_ms", 1, 0),
    ("true %", "true_frequency", 100, 1),
    ("pred %", "predicted_frequency", 100, 1),
    ("n", "support", 1, 0),
)
"""Columns of the table of actions: title, key of the figure, factor and digits."""


def heading() -> str:
    """The first line of a run's table."""
    return _line(["epoch", "lr", "train", *(metric.title for metric in SHOWN), "frames/s"])


def row(
    name: str, figures: Mapping[str, Any] | None, costs: Mapping[str, float] | None = None
) -> str:
    """A line of a run's table: an epoch, or a baseline, which costs nothing."""
    learning = ["", ""] if costs is None else [f"{costs['lr']:.1e}", f"{costs['loss']:.4f}"]
    cells = ["" if figures is None else _cell(metric, figures) for metric in SHOWN]
    speed = "" if costs is None else f"{costs['frames_per_second']:,.0f}"
    return _line([name, *learning, *cells, speed])


def _cell(metric: Metric, figures: Mapping[str, Any]) -> str:
    value = metric.read(figures)
    if metric.key == "loss":
        return "" if value is None else f"{value:.4f}"
    return figure(value)


def _line(cells: Sequence[str]) -> str:
    return "  ".join(
        cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True)
    ).rstrip()  # fmt: skip


def figure(value: float | int | None, digits: int = 3) -> str:
    """A figure for a table; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def summary_table(rows: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A table of whole-policy figures, one row a policy; the loss is for its title."""
    table = console.make_table(title)
    table.add_column("policy", overflow="fold")
    shown = [metric for metric in METRICS if metric.key != "loss"]
    for metric in shown:
        table.add_column(metric.title, justify="right")
    for policy, figures in rows.items():
        table.add_row(policy, *(figure(metric.read(figures)) for metric in shown))
    return table


def action_table(figures: Mapping[str, Any], title: str) -> Table:
    """A table of per-action figures."""
    table = console.make_table(title)
    table.add_column("action", overflow="fold")
    for name, *_ in ACTION_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for action, of_action in figures["actions"].items():
        cells = []
        for _, key, factor, digits in ACTION_COLUMNS:
            section, _, name = key.rpartition("/")
            value = (of_action[section] if section else of_action)[name]
            cells.append(figure(None if value is None else factor * value, digits))
        table.add_row(action, *cells)
    return table


def copying_note(
    best_metric: str, figures: Mapping[str, Any], copied: Mapping[str, Any]
) -> str | None:
    """What to say where repeating the previous action beats the best checkpoint at the figure that
    chose it: such a figure can't tell a policy that acts from one that copies."""
    if best_metric not in metrics.CHOOSING or not metrics.by_key(best_metric).rewards_holding:
        return None
    metric = metrics.by_key(best_metric)
    ours, theirs = metric.read(figures), metric.read(copied)
    if ours is None or theirs is None or theirs < ours:
        return None
    return (
        f"repeating the previous action reaches {theirs:.3f} at {best_metric}, the best checkpoint "
        f"{ours:.3f}: here that figure rewards holding what is held, and is a poor judge of "
        "checkpoints. Set evaluation.best_metric to onset_f1, or, where there is an environment to "
        "fight in, to boss_health_removed"
    )


def print_summary(
    config: Config,
    data: Data,
    parameters: int,
    steps_per_epoch: int,
    devices: Devices,
    resumed_from: int | None,
) -> None:
    """What is about to be trained, on what, how."""
    training, frame = config.training, data.spec.frame
    ticks = {name: f"{len(split.targets):,}" for name, split in data.splits.items()}
    order = data.splits["train"].order
    weights = "inverse frequency" if training.use_class_weights else "none"
    rows = {
        "model": f"{config.model.name}, {parameters:,} parameters, "
        f"on {f'{devices.count} x ' if devices.count > 1 else ''}{jax.devices()[0].device_kind}"
        + (f" of {devices.hosts.count} hosts" if devices.hosts.count > 1 else ""),
        "dataset": f"{data.episodes.path}, {len(data.episodes)} episodes, "
        f"{frame.height}x{frame.width}, {frame.fps or '?'} ticks/s, {frame.color_order}",
        "frames": f"{data.opened.residency} ({data.opened.reason})"
        + (", whole on each" if data.opened.residency == "device" and devices.count > 1 else ""),
        "split": ", ".join(f"{name} {count}" for name, count in ticks.items()) + " ticks",
        "actions": ", ".join(data.spec.actions),
        "training": f"{training.num_epochs} epochs of {steps_per_epoch} steps, "
        f"batch {training.batch_size}, seed {config.system.seed}",
        "optimizer": f"AdamW, {training.lr_schedule.type} from {training.learning_rate:g} "
        f"after {training.lr_schedule.warmup_epochs:g} epochs of warm-up, "
        f"weight decay {training.weight_decay:g}, clip {training.grad_clip_norm}",
        "loss": f"{training.loss.type}, class weights {weights}, "
        f"label smoothing {training.label_smoothing:g}",
        "folder": str(config.run_dir()),
    }
    notes = []
    if training.lr_schedule.warmup_epochs >= training.num_epochs:
        notes.append("the warm-up covers the whole run: the learning rate only rises")
    if isinstance(order, MixedOrder):
        counts = zip(order.rows(training.batch_size), order.parts, strict=True)
        rows["each batch"] = "; ".join(
            f"{count} of {part.ticks.sum():,} {part.name}" for count, part in counts
        )
    if len(data.splits["val"].targets) == 0:
        notes.append("no validation split: no epoch is scored, thresholds are not calibrated")
    if notes:
        rows["note"] = "; ".join(notes)
    if resumed_from is not None:
        rows["resumed"] = f"from step {resumed_from}"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    out = console.make_console()
    out.print(table)
    for kind, lines in (("skipped", data.episodes.skipped), ("note:", data.episodes.notes)):
        for line in lines[:MAX_LISTED]:
            out.print(f"{kind} {line}", markup=False)
        if len(lines) > MAX_LISTED:
            print(f"{kind} {len(lines) - MAX_LISTED} more; analyze_dataset --json lists them all")
