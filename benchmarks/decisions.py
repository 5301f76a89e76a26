"""What each way to decide does to onsets and to fights, for the same trained networks.

    uv run python -m benchmarks.decisions [--fights 50]

Takes checkpoints of benchmarks.model_zoo, which trains them if it has not yet, and decides from
their probabilities in each way that the section `play` of a configuration offers. Onset F1 is of
the validation split, played to the policy tick by tick. What is measured already is kept; prints a
table and writes benchmarks/results/decisions.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from BC_training import rollout
from BC_training.analysis.policy import diagnosis
from BC_training.checkpoints import store as checkpoints
from BC_training.common import console
from BC_training.common.dataset import open_data
from BC_training.play.fights import FightSetup
from BC_training.training import trainer
from benchmarks import model_zoo

RESULTS = Path(__file__).parent / "results" / "decisions.json"

RULES: dict[str, list[dict[str, Any]]] = {
    "state_vision": [
        {},
        {"rule": "sample"},
    ],
    "vla": [{}, {"chunk": "ensemble"}, {"chunk": "ensemble", "ensemble_decay": 1.0}],
}
"""By model, the keys of `play` that differ from the defaults."""


@dataclasses.dataclass(frozen=True)
class Job(model_zoo.Job):
    """The comparison, with the recordings and checkpoints of benchmarks.model_zoo."""

    only: tuple[str, ...] = tuple(RULES)


def measure(folder: Path, play: dict[str, Any], job: Job) -> dict[str, Any]:
    """Onset F1 and presses on recorded fights, then fights of its own."""
    bundle, model = checkpoints.load_model(checkpoints.locate(folder))
    data = open_data(bundle.config)
    pressed, _ = diagnosis.self_fed(bundle.with_play(play), model, data, "val")
    figures = diagnosis.score(bundle, data.splits["val"], pressed)
    file = folder / "decisions.json"
    rollout.fight(
        FightSetup(checkpoints.locate(folder), model_zoo.ENV, play=play), episodes=job.fights,
        first_seed=model_zoo.FIRST_SEED, baselines=False, json_file=file,
    )  # fmt: skip
    (fights,) = json.loads(file.read_text())["summary"].values()
    return {
        "play": play,
        "exact_match": figures["exact_match"],
        "onset_f1": figures["onsets"]["f1"],
        **{key: fights[key] for key in ("fights", "won", "boss_health_removed", "presses")},
    }


def main(job: Job) -> None:
    """Measures what is not known yet."""
    path = model_zoo.recorded(job)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    table = console.make_table("The same networks, decided otherwise")
    for name in ("model: play", "exact", "onset F1", "presses/s", "won %", "health %"):
        table.add_column(name, justify="left" if name == "model: play" else "right")
    for name in job.only:
        changes = {"model": model_zoo.MODELS[name]}
        config = model_zoo.configuration(path, job.folder / name, job.epochs, changes)
        folder = trainer.train(config, resume=config.run_dir().exists())
        for play in RULES[name]:
            label = f"{name}: {', '.join(f'{k} {v}' for k, v in play.items()) or 'as calibrated'}"
            if label not in rows:
                rows[label] = measure(folder, play, job)
                RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
            row = rows[label]
            table.add_row(
                label, f"{row['exact_match']:.3f}", f"{row['onset_f1']:.3f}",
                f"{row['presses']['mean']:.2f}", model_zoo.interval(row["won"]),
                model_zoo.interval(row["boss_health_removed"]),
            )  # fmt: skip
    console.make_console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Job))
