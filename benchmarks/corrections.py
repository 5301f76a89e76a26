"""What correcting a clone gives, beside as many recordings of the expert: rounds of DAgger.

    uv run --group vizdoom python -m benchmarks.corrections [--games arena] [--seeds 3]

Every row is trained for the same number of gradient steps on the same number of fights, and has the
same seeded fights to win:

- plain: of the expert
- disturbed: of the expert, at some of whose ticks other buttons were pressed than it chose
- rounds: the first ones plain; then, round by round, the clone fights, the expert says what should
  have been pressed, and training goes on from the clone's parameters on all of it
- rounds, trained anew: the fights of `rounds`, from random parameters

A row is added to benchmarks/results/corrections.json as soon as it is done, and not run again once
it is there: rerun the same command to go on. What a row has trained and recorded by then is kept.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from BC_training import correct, rollout
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.common import config_file, console
from BC_training.common.episodes import Episodes
from BC_training.play.fights import FightSetup
from BC_training.play.summary import bootstrap, wilson
from BC_training.training import trainer
from benchmarks.model_zoo import MODELS
from benchmarks.shared import RESULTS, machine
from gameplay_pipeline.record import RecordConfig, record

FILE = RESULTS / "corrections.json"
ARMS = ("plain", "disturbed", "rounds", "rounds, trained anew")
FIRST_FIGHT, FIRST_CORRECTION = 2_000_000, 500_000
FIRST_TRAINING_SEED = 42


class Game(NamedTuple):
    """Where it is measured."""

    env: str
    resolution: str
    disturb: float
    config: str | None
    """A shipped configuration whose model, batches and augmentation are used; None for the small
    temporal_cnn of benchmarks.model_zoo."""


GAMES = {
    "arena": Game("boss_arena:BossArena-v0", "64x36", 0.15, None),
    "take_cover": Game("vizdoom_games:TakeCover-v0", "96x72", 0.1, "configs/take_cover.yaml"),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """The comparison."""

    games: tuple[str, ...] = tuple(GAMES)
    arms: tuple[str, ...] = ARMS
    seeds: int = 3
    """Seeds of training, each a row."""
    recordings: int = 32
    """Fights of the expert before the first round."""
    rounds: int = 3
    corrections: int = 16
    """Fights that are corrected in each round."""
    steps: int = 2400
    """Gradient steps of a row, all rounds together."""
    fights: int = 50
    """Fights of each row's policy."""
    folder: Path = Path("dataset/corrections")
    """Where recordings and checkpoints go."""
    results: Path = FILE

    @property
    def total(self) -> int:
        """Recorded fights that each row learns from."""
        return self.recordings + self.rounds * self.corrections


def recorded(job: Job, game: str, name: str, episodes: int, disturb: float = 0.0) -> Path:
    """The expert's fights, recorded if they are not there."""
    path = job.folder / game / f"{name}.zarr"
    settings = GAMES[game]
    record(RecordConfig(
        env=settings.env, episodes=episodes, resolution=settings.resolution, out=path,
        disturb=disturb,
    ))  # fmt: skip
    return path


def trained(
    job: Job, game: str, name: str, paths: Sequence[Path], seed: int, start: Path | None = None
) -> Path:
    """The checkpoint of a training: all steps, or, from `start` or before a round, those of one."""
    settings, parts = GAMES[game], job.rounds + 1
    folder = job.folder / game / f"seed_{seed}" / name
    is_round = start is not None or name == "round_0"
    raw: dict[str, Any] = {"model": MODELS["temporal_cnn"], "training": {"learning_rate": 2e-3}}
    if settings.config is not None:
        shipped = config_file.load(settings.config).model_dump(mode="json")
        raw = {key: shipped[key] for key in ("model", "training")}
    raw["training"] |= {
        "steps_per_epoch": job.steps // parts,
        "num_epochs": 1 if is_round else parts,
        "lr_schedule": {"warmup_epochs": 0.1},
        "checkpoint_dir": str(folder),
        "init_from": None if start is None else str(start),
    }
    raw["dataset"] = {
        "path": [str(path) for path in paths], "train_ratio": 0.92, "val_ratio": 0.08,
        "cache_dir": str(job.folder / "cache"), "residency": "cache",
    }  # fmt: skip
    raw["evaluation"] = {"eval_every_n_epochs": raw["training"]["num_epochs"]}  # only the last
    raw |= {"system": {"seed": seed}, "environment": {"id": settings.env}}
    config = config_file.validate(raw, "benchmark")
    trainer.train(config, resume=config.run_dir().exists())
    return checkpoints.locate(folder)


def corrected_rounds(job: Job, game: str, seed: int) -> tuple[Path, list[Path]]:
    """The last round's checkpoint, and all that it was trained on."""
    paths = [recorded(job, game, "first", job.recordings)]
    checkpoint = trained(job, game, "round_0", paths, seed)
    for number in range(1, job.rounds + 1):
        out = job.folder / game / f"seed_{seed}" / f"corrections_{number}.zarr"
        first = FIRST_CORRECTION + 10_000 * seed + 1000 * number
        correct.correct(
            checkpoint, out, GAMES[game].env, expert=True, fights=job.corrections, seed=first
        )
        paths.append(out)
        checkpoint = trained(job, game, f"round_{number}", paths, seed, checkpoint)
    return checkpoint, paths


def learned(job: Job, game: str, arm: str, seed: int) -> tuple[Path, list[Path]]:
    """A row's checkpoint, and what it was trained on."""
    if arm in ("plain", "disturbed"):
        disturb = GAMES[game].disturb if arm == "disturbed" else 0.0
        paths = [recorded(job, game, arm, job.total, disturb)]
        return trained(job, game, arm, paths, seed), paths
    checkpoint, paths = corrected_rounds(job, game, seed)
    if arm == "rounds, trained anew":
        checkpoint = trained(job, game, "anew", paths, seed)
    return checkpoint, paths


def told(path: Path) -> dict[str, Any]:
    """What a dataset says of its fights."""
    episodes = Episodes(path).episodes
    ticks = sum(episode.length for episode in episodes)
    facts: dict[str, Any] = {"fights": len(episodes), "ticks": ticks}
    outcomes = [episode.attributes.get("outcome") for episode in episodes]
    facts["won"] = outcomes.count("won") if any(outcomes) else None
    if episodes[0].intervention is not None:
        facts["corrected"] = float(sum(e.corrected.sum() for e in episodes) / ticks)
    return facts


def measured(job: Job, game: str, arm: str, seed: int) -> dict[str, Any]:
    """A row: what was trained on, the figures of the validation split, and every fight."""
    checkpoint, paths = learned(job, game, arm, seed)
    file = job.folder / game / f"seed_{seed}" / f"{arm.replace(', ', '_').replace(' ', '_')}.json"
    fights = rollout.fight(
        FightSetup(checkpoint, GAMES[game].env), episodes=job.fights, first_seed=FIRST_FIGHT,
        baselines=False, json_file=file,
    )  # fmt: skip
    figures = read_bundle(checkpoint).metrics
    assert figures is not None
    return {
        "datasets": [told(path) for path in paths],
        "onset_f1": figures["onsets"]["f1"],
        "exact_match": figures["exact_match"],
        "won": [fight.won for fight in fights],
        "boss_health_removed": [fight.boss_health_removed for fight in fights],
        "reward": [fight.reward for fight in fights],
    }


def pooled(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Fights of all seeds of each game and arm together, with 95 percent intervals."""
    groups: dict[str, list[Any]] = {}
    for name, row in rows.items():
        groups.setdefault(name.rpartition(", seed ")[0], []).append(row)
    summary = {}
    for name, some in groups.items():
        summary[name] = {"seeds": len(some)}
        for key in ("won", "boss_health_removed", "reward"):
            values = [value for row in some for value in row[key] if value is not None]
            interval = (wilson(sum(values), len(values)) if key == "won" else bootstrap(values)
                        ) if values else None  # fmt: skip
            by_seed = [float(np.mean(row[key])) for row in some] if values else []
            kept = None if interval is None else dataclasses.asdict(interval)
            summary[name][key] = {"pooled": kept, "by_seed": by_seed}
    return summary


def show(summary: Mapping[str, Any]) -> None:
    """Prints what is known."""
    table = console.make_table("Fights of all seeds: mean [95 percent interval]")
    table.add_column("trained on")
    for name in ("seeds", "won %", "boss health removed %", "return"):
        table.add_column(name, justify="right")
    scales = {"won": 100, "boss_health_removed": 100, "reward": 1}
    for name, row in summary.items():
        cells = []
        for key, scale in scales.items():
            cell = row[key]["pooled"]
            cells.append("-" if cell is None else "{:.1f} [{:.1f}, {:.1f}]".format(
                *(scale * cell[k] for k in ("mean", "low", "high"))))  # fmt: skip
        table.add_row(name, str(row["seeds"]), *cells)
    console.make_console().print(table)


def main(job: Job) -> None:
    """Measures the rows that are not known yet."""
    facts = {key: getattr(job, key) for key in
             ("recordings", "rounds", "corrections", "steps", "fights")}  # fmt: skip
    known = json.loads(job.results.read_text()) if job.results.exists() else {"rows": {}}
    rows = known["rows"]
    if rows and (changed := [key for key in facts if known[key] != facts[key]]):
        raise SystemExit(f"{job.results} was measured with another {', '.join(changed)}")
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + job.seeds)
    for name, game, arm, seed in [
        (f"{game}: {arm}, seed {seed}", game, arm, seed)
        for game in job.games for seed in seeds for arm in job.arms
    ]:  # fmt: skip
        if name in rows:
            continue
        rows[name] = measured(job, game, arm, seed)
        summary = pooled(rows)
        written = {**facts, "machine": machine(), "rows": rows, "pooled": summary}
        partial = job.results.with_suffix(".partial")
        partial.write_text(json.dumps(written, indent=2) + "\n")
        partial.replace(job.results)
        show(summary)


if __name__ == "__main__":
    main(tyro.cli(Job))
