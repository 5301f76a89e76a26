"""Whether a policy that reads instructions does as it is told.

    uv run python -m benchmarks.instructions [--fights 20]

Records the arena's expert in all of its styles, each fight with its instruction, trains the vla on
them, and has it fight the same seeds under one instruction of each style. Prints how often it
attacked and how far it kept away, beside the expert that was told the same, and writes
benchmarks/results/instructions.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.common import console
from BC_training.play.fights import make_env
from BC_training.play.policy import Policy
from BC_training.play.summary import bootstrap, wilson
from BC_training.training import trainer
from benchmarks.model_zoo import DISTURBED, ENV, FIRST_SEED, HEIGHT, MODELS, WIDTH, configuration
from boss_arena.measure import measure
from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.record import RecordConfig, record

RESULTS = Path(__file__).parent / "results" / "instructions.json"
FIGURES = {"won": (100, 0), "attacks": (1, 2), "dodges": (1, 2), "distance": (1, 2)}
"""Scale and digits of each."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The measurement."""

    recordings: int = 96
    """Fights of the expert to learn from, the styles in turn."""
    epochs: int = 1
    fights: int = 20
    """Under each instruction."""
    folder: Path = Path("dataset/instructions")
    """Where recordings and checkpoints go."""


def figures(env: Environment, player: Any, seeds: range) -> dict[str, Any]:
    """How a player plays the fights of these seeds."""
    won, plays = 0, []
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        act = player(seed)
        seen, actions, over = [], [], False
        while not over:
            seen.append({**observation, "frame": None})
            actions.append(np.asarray(act(observation), np.int8))
            observation, _, terminated, truncated, info = env.step(actions[-1])
            over = terminated or truncated
        won += info["outcome"] == "won"
        plays.append(measure(seen, actions))
    means = {
        key: bootstrap([getattr(play, key) for play in plays])
        for key in ("attacks", "dodges", "distance")
    }
    return {
        key: dataclasses.asdict(value)
        for key, value in {"won": wilson(won, len(plays)), **means}.items()
    }


def main(job: Job) -> None:
    """Records, trains and measures what is not there yet."""
    path = job.folder / "arena.zarr"
    record(RecordConfig(
        env=ENV, policy="expert", episodes=job.recordings, resolution=f"{WIDTH}x{HEIGHT}",
        out=path, style="mixed", disturb=DISTURBED,
    ))  # fmt: skip
    folder = job.folder / "vla"
    config = configuration(path, folder, job.epochs, {"model": MODELS["vla"]})
    trainer.train(config, resume=config.run_dir().exists())
    policy = Policy.load(folder)
    env = make_env(ENV, read_bundle(checkpoints.locate(folder)))
    seeds = range(FIRST_SEED, FIRST_SEED + job.fights)
    rows = {}
    for style, instructions in env.styles.items():

        def told(seed: int, text: str = instructions[0]) -> Any:
            policy.reset(text)
            return policy.act

        def expert(seed: int, style: str = style) -> Any:
            player = env.make_expert(seed, style)
            player.reset()
            return player.act

        rows[style] = {
            "instruction": instructions[0],
            "vla": figures(env, told, seeds),
            "expert": figures(env, expert, seeds),
        }
    table = console.make_table(f"{job.fights} fights under each instruction")
    for name in ("style", "instruction", "player", "won %", "attacks/s", "dodges/s", "distance m"):
        table.add_column(name, justify="left" if name in ("style", "instruction") else "right")
    for style, row in rows.items():
        for player in ("vla", "expert"):
            cells = [
                " ".join(
                    f"{scale * row[player][key][part]:.{digits}f}"
                    for part in ("mean", "low", "high")
                )
                for key, (scale, digits) in FIGURES.items()
            ]
            table.add_row(style, row["instruction"], player, *cells)
    console.make_console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    facts = {"recordings": job.recordings, "epochs": job.epochs, "frame": [HEIGHT, WIDTH]}
    RESULTS.write_text(json.dumps({**facts, "fights": job.fights, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Job))
