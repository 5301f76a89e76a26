"""Plays an exported policy, here or from another machine.

uv run --only-group play -m ranni_player --policy exported --env boss_arena:BossArena-v0
"""

import contextlib
import json as json_format
import os
import sys
from pathlib import Path

import tyro

from gameplay_pipeline.environments.adapter import (
    AS_IT_IS,
    AdapterFlag,
    Environment,
    Wanted,
    make,
)
from gameplay_pipeline.environments.play import player_seed
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player import check as checks
from ranni_player.contract import offered_by, require_same
from ranni_player.fight import FightResult, PolicyPlayer, percentiles, watch_fight
from ranni_player.player import Player
from ranni_player.remote import TOKEN, RemotePlayer


def play(
    policy: str,
    env: str | None = None,
    episodes: int = 1,
    seed: int = 1_000_000,
    provider: str = "CPU",
    check: bool = False,
    json: Path | None = None,
    instruction: str | None = None,
    adapter: AdapterFlag = AS_IT_IS,
) -> int:
    """Has an exported policy fight.

    Args:
        policy: a folder that BC_training.export wrote, or ws://HOST:PORT of BC_training.serve. The
            server's token is read from the environment variable RANNI_TOKEN.
        env: a Gymnasium id such as boss_arena:BossArena-v0.
        episodes: how many fights.
        seed: seed of the first fight; the next is one higher.
        provider: onnxruntime's execution provider, such as CPU, CUDA or Dml.
        check: replay the golden frames on this machine and measure latency first.
        json: where the fights go.
        instruction: how to play, for models that read it.
        adapter: what the environment doesn't say about itself, as JSON.
    """
    if episodes < 1:
        raise UserError(f"--episodes: {episodes} is not at least 1")
    if env is None and not check:
        raise UserError("--env: missing; or give --check alone, to try the policy on this machine")
    with contextlib.ExitStack() as stack:
        player: Player | RemotePlayer
        if policy.startswith(("ws://", "wss://")):
            if check:
                raise UserError("--check: a policy on another machine has no golden frames here")
            player = stack.enter_context(RemotePlayer(policy, os.environ.get(TOKEN)))
        else:
            player = Player.load(policy, provider)
            if check:
                result = checks.replay(player, checks.read_golden(player))
                print(checks.report(player, result))
                result.require_same(player.manifest.precision)
        if env is None:
            return 0
        player.reset(instruction)  # refused before the first fight, if at all
        game = stack.enter_context(contextlib.closing(make_env(env, player, adapter)))
        results: list[FightResult] = []
        for number in range(seed, seed + episodes):
            play_as = PolicyPlayer(player, instruction, player_seed(number))
            results.append(watch_fight(game, lambda _, play_as=play_as: play_as, policy, number))
            print(describe(results[-1]), flush=True)
            if json is not None:
                text = json_format.dumps([each.plain() for each in results], indent=2)
                json.write_text(text + "\n", encoding="utf-8")
        if isinstance(player, RemotePlayer):
            p50, p95, p99 = percentiles(player.inference_ms).values()
            print(f"of that on the other machine: p50 {p50:.2f} ms, p95 {p95:.2f}, p99 {p99:.2f}")
    return 0


def make_env(env_id: str, player: Player | RemotePlayer, adapter: AdapterFlag) -> Environment:
    """Makes the environment as a policy needs it, and holds it against its contract.

    Raises:
        UserError: it can't be made, or what it shows or takes is not what the policy learned from.
    """
    manifest = player.manifest
    actions, frame = tuple(manifest.actions), manifest.frame
    wanted = Wanted(
        frame["width"], frame["height"], actions, tuple(manifest.attributes), frame["fps"]
    )
    env = make(env_id, adapter, wanted)
    try:
        require_same({"actions": actions, **frame}, offered_by(env), env_id)
    except BaseException:
        env.close()
        raise
    return env


def describe(fight: FightResult) -> str:
    """Returns a fight in one line."""
    words = [f"seed {fight.seed}: {fight.seconds:.1f} s"]
    if fight.won is not None:
        words.append("won" if fight.won else "not won")
    if fight.boss_health_removed is not None:
        words.append(f"boss health removed {100 * fight.boss_health_removed:.1f} %")
    times = percentiles(fight.latencies_ms)
    words += [f"{fight.presses:.2f} presses/s", f"act p50 {times['p50']:.2f} ms"]
    words += [f"p99 {times['p99']:.2f} ms", f"ticks too late {100 * fight.late:.1f} %"]
    return ", ".join(words)


def main() -> int:
    return tyro.cli(play, use_underscores=True, prog="python -m ranni_player")


if __name__ == "__main__":
    sys.exit(command.run(main))
