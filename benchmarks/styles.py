"""How the expert's styles of play differ: attack rate, dodges, distance kept, fights won.

    uv run python -m benchmarks.styles [--fights 30]

Prints a table with 95 percent intervals and writes it to benchmarks/results/styles.json.
"""

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from BC_training.play.summary import Interval, bootstrap, wilson
from benchmarks.arena import ENV, fight
from boss_arena.measure import Play, measure

RESULTS = Path(__file__).parent / "results" / "styles.json"

COLUMNS = {
    "won": (100, 0, "won %"),
    "boss_health_removed": (100, 1, "boss health removed %"),
    "attacks": (1, 2, "attack presses/s"),
    "dodges": (1, 2, "dodges/s"),
    "distance": (1, 2, "mean distance m"),
    "seconds": (1, 1, "fight s"),
}
"""Scale, digits and heading of each figure."""


def play(env: Any, style: str, seed: int) -> tuple[dict[str, Any], Play]:
    """A fight of the expert in a style: its last `info`, and how it was played."""
    expert = env.unwrapped.make_expert(seed, style=style)
    seen: list[dict[str, Any]] = []

    def act(observation: dict[str, Any], tick: int) -> np.ndarray:
        seen.append(observation)
        return expert.act(observation)

    info, actions = fight(env, act, seed)
    return info, measure(seen, actions)


def figures(env: Any, style: str, fights: int) -> dict[str, Interval]:
    """Means over the seeds 0 to fights - 1, by the keys of `COLUMNS`."""
    runs = [play(env, style, seed) for seed in range(fights)]
    infos = [info for info, _ in runs]
    means = {
        name: bootstrap([getattr(played, name) for _, played in runs]) for name in Play._fields
    }
    means |= {
        name: bootstrap([info[name] for info in infos])
        for name in ("boss_health_removed", "seconds")
    }
    return {"won": wilson(sum(info["outcome"] == "won" for info in infos), fights), **means}


def main(fights: int = 30) -> None:
    """Measures every style.

    Args:
        fights: fights of each.
    """
    # Nothing is drawn, but each observation is kept and holds a frame.
    env: Any = gymnasium.make(ENV, render_frames=False, width=64, height=36)
    results = {style: figures(env, style, fights) for style in env.unwrapped.styles}
    table = Table(title=f"The expert's styles, {fights} fights each: mean [95 percent interval]")
    table.add_column("style")
    for *_, heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for style, means in results.items():
        cells = [
            f"{scale * means[name].mean:.{digits}f} "
            f"[{scale * means[name].low:.{digits}f}, {scale * means[name].high:.{digits}f}]"
            for name, (scale, digits, _) in COLUMNS.items()
        ]
        table.add_row(style, *cells)
    console = Console()
    console.print(table)
    content = {
        "machine": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
        "fights": fights,
        "styles": {
            style: {name: dataclasses.asdict(interval) for name, interval in means.items()}
            for style, means in results.items()
        },
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")
    console.print(f"Written to {RESULTS}")


if __name__ == "__main__":
    tyro.cli(main)
