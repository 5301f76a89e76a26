"""Plays an exported policy, here or from another machine.

uv run --only-group play -m ranni_player --policy exported --env boss_arena:BossArena-v0
"""

import contextlib
import dataclasses
import json as json_format
import os
import sys
from pathlib import Path

import tyro

from gameplay_pipeline.environments.adapter import AS_IT_IS, AdapterFlag, Environment
from gameplay_pipeline.environments.play import Failure, player_seed
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders
from ranni_player import check as checks
from ranni_player.environment import KeptEnvironment, make_env
from ranni_player.fight import FightResult, PolicyPlayer, percentiles, watch_fight
from ranni_player.player import Player
from ranni_player.remote import TOKEN, RemotePlayer


@dataclasses.dataclass(frozen=True)
class Play:
    """Has an exported policy fight."""

    policy: str
    """A folder that BC_training.export wrote, or ws://HOST:PORT of BC_training.serve. The server's
    token is read from the environment variable RANNI_TOKEN."""
    env: str | None = None
    """A Gymnasium id such as boss_arena:BossArena-v0."""
    episodes: int = 1
    """How many fights."""
    seed: int = 1_000_000
    """Seed of the first fight; the next is one higher."""
    provider: str = "CPU"
    """onnxruntime's execution provider, such as CPU, CUDA or Dml."""
    check: bool = False
    """Replay the golden frames on this machine and measure latency first."""
    json: Path | None = None
    """Where the fights go."""
    instruction: str | None = None
    """How to play, for models that read it."""
    adapter: AdapterFlag = AS_IT_IS
    """What the environment doesn't say about itself, as JSON."""

    def run(self) -> int:
        """Checks and fights, as told.

        Raises:
            UserError: the policy or the environment is refused, or the connection is lost.
        """
        if self.episodes < 1:
            raise UserError(f"--episodes: {self.episodes} is not at least 1")
        if self.env is None and not self.check:
            raise UserError(
                "--env: missing; or give --check alone, to try the policy on this machine"
            )
        require_folders(json=self.json)
        with contextlib.ExitStack() as stack:
            player = self._load(stack)
            if self.check:
                check_here(player)
            if self.env is not None:
                player.reset(self.instruction)  # refused before the first fight, if at all
                self._fight(player, self.env)
        return 0

    def _load(self, stack: contextlib.ExitStack) -> Player | RemotePlayer:
        if self.policy.startswith(("ws://", "wss://")):
            return stack.enter_context(RemotePlayer(self.policy, os.environ.get(TOKEN)))
        return Player.load(self.policy, self.provider)

    def _fight(self, player: Player | RemotePlayer, env_id: str) -> None:
        results: list[FightResult] = []
        failures: list[Failure] = []
        contract = player.manifest.contract()
        with KeptEnvironment(lambda: make_env(env_id, contract, self.adapter)) as kept:
            for seed in range(self.seed, self.seed + self.episodes):
                result = kept.attempt(lambda env, it=seed: self._watch(player, env, it),
                                      player.manifest.model, seed)  # fmt: skip
                if isinstance(result, Failure):
                    failures.append(result)
                    print(f"seed {seed}: failed: {result.reason}", flush=True)
                    continue
                results.append(result)
                print(describe(result), flush=True)
                if self.json is not None:
                    text = json_format.dumps([fight.plain() for fight in results], indent=2)
                    partial = self.json.with_name(f"{self.json.name}.partial")
                    partial.write_text(text + "\n", encoding="utf-8")
                    partial.replace(self.json)
        if isinstance(player, RemotePlayer) and results:
            p50, p95, p99 = percentiles(player.inference_ms).values()
            print(f"of that on the other machine: p50 {p50:.2f} ms, p95 {p95:.2f}, p99 {p99:.2f}")
        if failures:
            raise UserError(f"{env_id} failed in {len(failures)} of {self.episodes} fights")

    def _watch(self, player: Player | RemotePlayer, env: Environment, seed: int) -> FightResult:
        policy_player = PolicyPlayer(player, self.instruction, player_seed(seed))
        return watch_fight(env, lambda _: policy_player, player.manifest.model, seed)[0]


def check_here(player: Player | RemotePlayer) -> None:
    """Replays the golden frames and prints how it went.

    Raises:
        UserError: the policy decides otherwise on this machine, or is on another one.
    """
    if isinstance(player, RemotePlayer):
        raise UserError("--check: a policy on another machine has no golden frames here")
    result = checks.replay(player, checks.read_golden(player))
    print(checks.report(player, result))
    result.require_same(player.manifest.precision)


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
    return tyro.cli(Play, use_underscores=True, prog="python -m ranni_player").run()


if __name__ == "__main__":
    sys.exit(command.run(main))
