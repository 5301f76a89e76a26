"""One fight of a checkpoint, or of a player without a model."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from BC_training.play.film import Film
from BC_training.play.health_log import HealthLog, HealthLosses
from BC_training.play.policy import Policy
from gameplay_pipeline.environments.adapter import Environment, Player
from gameplay_pipeline.environments.play import player_seed
from gameplay_pipeline.environments.players import NO_MODEL, make_player
from ranni_player import fight as fights
from ranni_player.fight import PolicyPlayer, watch_fight


class FightTask(NamedTuple):
    """A fight to be had."""

    player: str
    """The name of the model, or one of `NO_MODEL`."""
    seed: int
    video: Path | None = None
    instruction: str | None = None


@dataclasses.dataclass(frozen=True)
class FightResult(fights.FightResult):
    """How one fight went, and why."""

    health: HealthLosses | None = dataclasses.field(default=None, repr=False)
    """What lost health; None where nobody asked."""

    def plain(self) -> dict[str, Any]:
        """The result as JSON holds it, without what lost health."""
        fields = dataclasses.replace(self, health=None)
        plain = fights.FightResult.plain(fields)
        del plain["health"]
        return plain


def fight(
    policy: Policy, env: Environment, task: FightTask, *, explain: bool = False
) -> FightResult:
    """Has one fight; with `explain`, one of the policy is watched for what loses its health.

    What the environment or its expert raises comes through.
    """
    seed = player_seed(task.seed)
    policy_player = PolicyPlayer(policy, task.instruction, seed)

    def make(seed: int) -> Player:
        return make_player(env, task.player, seed) if task.player in NO_MODEL else policy_player

    is_explained = explain and task.player not in NO_MODEL
    log = HealthLog(env.action_names, task.seed, env.fps) if is_explained else None
    with contextlib.ExitStack() as stack:
        observers: list[Any] = [] if log is None else [log]
        if task.video is not None:
            film = Film(task.video, env, lambda: policy_player.probabilities, seed)
            observers.append(stack.enter_context(film))
        result, info = watch_fight(env, make, task.player, task.seed, observers)
    health = None if log is None else log.close(died=info.get("outcome") == "lost")
    return FightResult(**vars(result), health=health)
