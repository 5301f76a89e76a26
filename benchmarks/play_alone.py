"""Fights of an exported policy without JAX or zarr; benchmarks/player.py runs it.

uv run --only-group play python -m benchmarks.play_alone --policy exported --out fights.npz
"""

import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from gameplay_pipeline.environments.play import Tick, player_seed
from gameplay_pipeline.plumbing import command
from ranni_player.environment import make_env
from ranni_player.fight import PolicyPlayer, watch_fight
from ranni_player.player import Player

ENV = "boss_arena:BossArena-v0"
SEED = 1_000_000
ABSENT = ("jax", "jaxlib", "flax", "orbax", "zarr", "fsspec", "numcodecs")


def main(policy: Path, out: Path, episodes: int = 20) -> None:
    """Fights, and keeps what was pressed at each tick and how each fight ended.

    Args:
        policy: the exported policy.
        out: the .npz to write.
        episodes: how many fights.
    """
    present = [name for name in ABSENT if importlib.util.find_spec(name)]
    assert not present, f"{', '.join(present)} can be imported here"
    player = Player.load(policy)
    arrays: dict[str, Any] = {}
    results = []
    with contextlib.closing(make_env(ENV, player.manifest.contract())) as env:
        for seed in range(SEED, SEED + episodes):
            ticks: list[Tick] = []
            fighter = PolicyPlayer(player, None, player_seed(seed))
            result, _ = watch_fight(env, lambda _, it=fighter: it, "exported", seed, [ticks.append])
            arrays[str(seed)] = np.array([tick.pressed for tick in ticks])
            results.append(result.plain())
    np.savez_compressed(out, **arrays)
    out.with_suffix(".json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(command.run(lambda: tyro.cli(main)))
