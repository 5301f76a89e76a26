"""Tells what a checkpoint goes by and where it goes wrong, from the split that it is scored on."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from rich.table import Table

from BC_training.analysis.policy import strip
from BC_training.analysis.policy.replay import replay
from BC_training.checkpoints.bundle import Bundle
from BC_training.common import console, metrics, onsets
from BC_training.common.dataset import Data, Dataset
from BC_training.common.tables import instruction_of
from BC_training.common.types import Batch
from BC_training.networks.model import Model
from BC_training.play.policy import Policy

NEAR = 8
"""Ticks within which a predicted press belongs to a true one."""

FED_TICKS = 3000
"""How many ticks of the split are replayed one by one."""

WORST = 20
"""How many missed presses are shown."""

BEFORE = (8, 4, 0)
"""How many ticks before a missed press its pictures are from."""

ROWS = 6
"""How many rows an action has: all its presses, and those during the commonest animations."""

LEAST = 3
"""An animation with fewer presses gets no row."""


def interventions(
    bundle: Bundle, model: Model, dataset: Dataset, batch_size: int
) -> dict[str, Float[np.ndarray, "N A"]]:
    """Probabilities for the whole split, as recorded and with one sense at a time taken away.

    Frames are blanked to zero, which is the mean colour, or black where they are not normalised, or
    taken from elsewhere in the split; state and past actions become zero, which is their mean and
    nothing pressed.
    """
    graph, state = nnx.split(model)
    window = bundle.config.model.window()
    others = np.random.default_rng(0).permutation(len(dataset))

    def step(blank: str) -> Callable[[Any, Batch], Array]:
        @jax.jit
        def run(state: Any, batch: Batch) -> Array:
            observation = bundle.preprocess.batch(batch, dataset.resident).observation
            value = getattr(observation, blank, None)
            if value is not None:
                observation = observation._replace(**{blank: jnp.zeros_like(value)})
            if blank == "state" and observation.categories is not None:
                observation = observation._replace(
                    categories=jnp.zeros_like(observation.categories)
                )
            return jax.nn.sigmoid(nnx.merge(graph, state)(observation).logits[:, 0])

        return run

    def predict(blank: str, swapped: bool) -> Float[np.ndarray, "N A"]:
        run, probabilities = step(blank), []
        for first in range(0, len(dataset), batch_size):
            samples = np.minimum(np.arange(first, first + batch_size), len(dataset) - 1)
            batch = dataset.batch(samples)
            if swapped:
                frames = dataset.batch(others[samples]).observation.frames
                batch = batch._replace(observation=batch.observation._replace(frames=frames))
            probabilities.append(run(state, batch))
        return np.concatenate(jax.device_get(probabilities))[: len(dataset)]

    kinds = {
        "as recorded": ("nothing", False),
        "frames blanked": ("frames", False),
        "frames from elsewhere": ("nothing", True),
    }
    if window.state:
        kinds["state blanked"] = ("state", False)
    if window.past_actions:
        kinds["past actions blanked"] = ("past_actions", False)
    return {name: predict(*kind) for name, kind in kinds.items()}


def self_fed(
    bundle: Bundle, model: Model, data: Data, split: str
) -> tuple[Bool[np.ndarray, "n A"], int]:
    """What the policy presses when recorded fights are played to it tick by tick, its own presses
    being the past ones, and how many ticks of the split that is."""
    policy, dataset = Policy(bundle, model), data.splits[split]
    episodes = {episode.name: episode for episode in data.episodes.episodes}
    ends = np.flatnonzero(np.diff(dataset.episode, append=-1)) + 1
    whole = ends[: max(int(np.searchsorted(ends, FED_TICKS, "right")), 1)].tolist()
    pressed = []
    for name, first, last in zip(dataset.names, [0, *whole[:-1]], whole, strict=False):
        frames = (dataset.frames(np.array([row]))[0] for row in range(first, last))
        state = None
        if dataset.state is not None:
            state = dataset.state[first:last, : len(bundle.spec.state)]
        instruction = None
        if bundle.preprocess.instructions is not None:
            instruction = instruction_of(episodes[name], bundle.config.dataset.instruction)
        pressed += [tick.pressed for tick in replay(policy, frames, state, instruction)]
    return np.array(pressed), len(pressed)


def score(bundle: Bundle, dataset: Dataset, pressed: Bool[np.ndarray, "n A"]) -> dict[str, Any]:
    """Figures of what was pressed at the first n ticks of a split, of which only those count that
    somebody judged."""
    judged = dataset.targets[: np.searchsorted(dataset.targets, len(pressed))]
    return metrics.evaluate(
        pressed[judged].astype(np.float32),
        dataset.actions[judged],
        dataset.stretches(judged),
        names=bundle.spec.actions,
        threshold=0.5,
        tolerance=bundle.config.evaluation.onset_tolerance,
        fps=bundle.spec.frame.fps,
    )


def _errors(
    pressed: Bool[np.ndarray, "N A"], dataset: Dataset
) -> list[tuple[int, int, int | None]]:
    """Each true press: its sample, its action, and the error of the nearest predicted one."""
    predicted = _presses(pressed, dataset)
    errors_of_presses = []
    for sample, action in _true_presses(dataset):
        low, high = max(sample - NEAR, 0), sample + NEAR + 1
        near = np.flatnonzero(
            predicted[low:high, action] & (dataset.episode[low:high] == dataset.episode[sample])
        )
        errors = near + low - sample
        errors_of_presses.append(
            (sample, action, int(errors[np.abs(errors).argmin()]) if len(errors) else None)
        )
    return errors_of_presses


def _presses(pressed: Bool[np.ndarray, "N A"], dataset: Dataset) -> Bool[np.ndarray, "N A"]:
    return onsets.find(pressed, onsets.first_rows(dataset.episode))[0]


def _true_presses(dataset: Dataset) -> list[list[int]]:
    """Sample and action of each press that somebody judged to be right."""
    is_judged = np.zeros((len(dataset), 1), bool)
    is_judged[dataset.targets] = True
    return np.argwhere(_presses(dataset.actions, dataset) & is_judged).tolist()


def misses(
    probabilities: Float[np.ndarray, "N A"], dataset: Dataset, thresholds: tuple[float, ...]
) -> list[tuple[int, int, float]]:
    """The true presses that were given the least probability against their threshold, worst first:
    sample, action, highest probability within NEAR ticks."""
    missed = []
    for sample, action in _true_presses(dataset):
        near = slice(max(sample - NEAR, 0), sample + NEAR + 1)
        same = dataset.episode[near] == dataset.episode[sample]
        most = float(probabilities[near, action][same].max())
        if most < thresholds[action]:
            missed.append((sample, action, most))
    missed.sort(key=lambda miss: miss[2] / thresholds[miss[1]])
    return missed[:WORST]


def draw_misses(
    worst: list[tuple[int, int, float]], dataset: Dataset, bundle: Bundle, file: Path
) -> None:
    """Draws missed presses, a row each: pictures up to the moment, and what was to be pressed."""
    rows = []
    for sample, action, probability in worst:
        first = int(np.argmax(dataset.episode == dataset.episode[sample]))
        ticks = np.maximum(sample - np.array(BEFORE), first)
        lines = (
            bundle.spec.actions[action],
            f"{dataset.names[dataset.episode[sample]]}, tick {sample - first}",
            f"p {probability:.2f}, threshold {bundle.thresholds[action]:.2f}",
        )
        rows.append((list(dataset.frames(ticks)), lines))
    strip.draw(rows, file, is_bgr=bundle.spec.frame.color_order == "BGR")


def diagnose(bundle: Bundle, model: Model, data: Data, split: str, folder: Path) -> None:
    """Prints what the checkpoint goes by and where it errs; writes misses.png into the folder."""
    config, dataset = bundle.config, data.splits[split]
    thresholds = np.array(bundle.thresholds)
    out = console.make_console()

    senses = interventions(bundle, model, dataset, config.training.batch_size)
    table = console.make_table("What it goes by: the split, one sense at a time taken away")
    for name in ("given", "exact", "macro F1", "onset F1"):
        table.add_column(name, justify="left" if name == "given" else "right")
    for name, probabilities in senses.items():
        _row(table, name, score(bundle, dataset, probabilities >= thresholds))
    judged, before = dataset.targets, np.zeros_like(dataset.actions)
    firsts = onsets.first_rows(dataset.stretches(judged))
    before[judged] = onsets.previous(dataset.actions[judged], firsts)
    _row(table, "(repeat the previous action)", score(bundle, dataset, before))
    recorded = senses["as recorded"] >= thresholds
    fed, count = self_fed(bundle, model, data, split)
    if judged[0] < count:
        _row(table, f"first {count:,} ticks, true past", score(bundle, dataset, recorded[:count]))
        _row(table, f"first {count:,} ticks, its own past", score(bundle, dataset, fed))
    out.print(table)

    table = console.make_table("Presses: ticks late (negative: early), and what was missed")
    for name in ("action", "during", "n", "median", "p10", "p90", "missed %"):
        table.add_column(name, justify="left" if name in ("action", "during") else "right")
    for (action, during), errors in _grouped(recorded, dataset, bundle).items():
        matched = [error for error in errors if error is not None]
        cells = (
            [f"{value:.0f}" for value in np.percentile(matched, [50, 10, 90])]
            if matched
            else ["-"] * 3
        )
        missed = 100 * (1 - len(matched) / len(errors))
        table.add_row(action, during, str(len(errors)), *cells, f"{missed:.0f}")
    out.print(table)

    worst = misses(senses["as recorded"], dataset, bundle.thresholds)
    if worst:
        folder.mkdir(parents=True, exist_ok=True)
        draw_misses(worst, dataset, bundle, folder / "misses.png")
        out.print(f"the {len(worst)} worst missed presses: {folder / 'misses.png'}")


def _grouped(
    pressed: Bool[np.ndarray, "N A"], dataset: Dataset, bundle: Bundle
) -> dict[tuple[str, str], list[int | None]]:
    """Timing errors by action, and by action and the opponent's animation where state tells it."""
    names, attributes = bundle.spec.actions, bundle.spec.state
    column = attributes.index("NpcAnimId") if "NpcAnimId" in attributes else None
    errors_by_key: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    for sample, action, error in _errors(pressed, dataset):
        errors_by_key[names[action], "all"].append(error)
        if column is not None and dataset.state is not None:
            errors_by_key[names[action], f"NpcAnimId {dataset.state[sample, column]:.0f}"].append(
                error
            )
    frequent = {
        key: errors
        for key, errors in errors_by_key.items()
        if key[1] == "all" or len(errors) >= LEAST
    }
    grouped: dict[tuple[str, str], list[int | None]] = {}
    for name in names:
        keys = [key for key in frequent if key[0] == name]
        keys.sort(key=lambda key: (key[1] != "all", -len(frequent[key])))
        grouped |= {key: frequent[key] for key in keys[:ROWS]}
    return grouped


def _row(table: Table, name: str, figures: dict[str, Any]) -> None:
    cells = (figures["exact_match"], figures["macro_f1"], figures["onsets"]["f1"])
    table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in cells))
