"""Fights of a checkpoint that are corrected while they are fought, and recorded.

An expert that says at each tick of the clone's fights what should be pressed shows it how to get
out of the states that it gets itself into (Ross et al. 2011, "A reduction of imitation learning and
structured prediction to no-regret online learning", DAgger).
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from BC_training.checkpoints.bundle import Bundle
from BC_training.play.fights import FightSetup, make_env
from BC_training.play.film import Film
from BC_training.play.policy import Policy
from gameplay_pipeline.environments.adapter import Environment, Player
from gameplay_pipeline.environments.play import Failure, Observer, Outcome, play, player_seed
from gameplay_pipeline.environments.recorder import dataset_info, storable, writing
from gameplay_pipeline.environments.stretches import Stretches
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.workers import WorkerDied, in_worker_processes
from gameplay_pipeline.store.reader import JUDGED
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter
from ranni_player.environment import KeptEnvironment

EXPERT_TICKS = (15, 45)
"""Shortest and longest stretch that the expert drives: one to three seconds at 17 ticks a second.
A coin tossed at each tick, as in the paper, would cut its button presses to pieces: it has to see
an attack through to bring the fight where the clone would not."""


class JudgedPlayer:
    """An expert says at each tick what should be pressed; the policy drives, but for stretches in
    which the expert does."""

    def __init__(
        self,
        policy: Policy,
        make_expert: Callable[[int], Player],
        stretches: Stretches,
        instruction: str | None = None,
    ):
        """Makes the expert later: that takes an environment which was reset.

        Args:
            policy: drives.
            make_expert: makes who judges from a seed.
            stretches: say when the expert drives.
            instruction: how to play, for policies that read it.
        """
        self._policy, self._make_expert = policy, make_expert
        self._stretches, self._instruction = stretches, instruction
        self.probabilities: Float[np.ndarray, "A"] | None = None
        """What the policy decided from at the last tick."""

    def begin(self, seed: int) -> Player:
        """Gives itself, with an expert of this seed."""
        self._expert, self._seed = self._make_expert(seed), seed
        return self

    def reset(self) -> None:
        """Forgets the fight so far."""
        self._policy.reset(self._instruction, self._seed)
        self._expert.reset()
        self._pressed: Bool[np.ndarray, "A"] | None = None
        self._policy_actions: list[Bool[np.ndarray, "A"]] = []
        self._intervention: list[bool] = []

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        """Returns what the expert would press."""
        pressed, self.probabilities = self._policy.act(observation, self._pressed)
        self._policy_actions.append(pressed)
        return np.asarray(self._expert.act(observation), bool)

    @property
    def is_corrected(self) -> bool:
        """Whether the expert drives at this tick."""
        return self._intervention[-1]

    def drive(self, chosen: Bool[np.ndarray, "A"]) -> Bool[np.ndarray, "A"]:
        """Returns what the expert chose in its stretches, and what the policy chose otherwise."""
        self._intervention.append(self._stretches())
        self._pressed = chosen if self._intervention[-1] else self._policy_actions[-1]
        return self._pressed

    def corrections(self) -> dict[str, Bool[np.ndarray, "..."]]:
        """Returns the fight's `policy_actions` [N, A] and `intervention` [N], as a dataset holds
        them."""
        return {
            "policy_actions": np.stack(self._policy_actions),
            "intervention": np.array(self._intervention),
        }


class CorrectedFight(NamedTuple):
    """What a recorded fight came to."""

    ticks: int
    driven: int
    """Ticks at which the policy did not drive."""
    differing: int
    """Ticks at which something else should have been pressed than the policy chose."""
    won: bool | None
    """None where the environment doesn't say."""


Record = Callable[[Environment, Policy, int, EpisodeWriter], CorrectedFight]
"""Has the fight of a seed corrected, and writes it."""


class CorrectionSetup(NamedTuple):
    """What all corrected fights have in common."""

    fights: FightSetup
    dataset: Path
    seed: int
    """Episode i is fought with this plus i."""
    share: float | None = None
    """Share of the ticks that the environment's expert drives, who judges the others; None where a
    person takes over."""
    instruction: str | None = None
    video: Path | None = None
    """An .mp4 of the first fight, where the expert corrects."""

    def make_env(self) -> Environment:
        """Makes the environment, with all of its attributes: a corrected dataset shall serve other
        models too."""
        setup = self.fights
        return make_env(setup.env_id, setup.bundle(), setup.adapter, all_attributes=True)

    def attributes(self, policy: Policy, seed: int) -> dict[str, Any]:
        """Returns what an episode says of itself, besides what the environment does."""
        told = {} if self.instruction is None else {"instruction": self.instruction}
        return {"seed": seed, "policy": policy.bundle.config.model.name, **told}

    def info(self, env: Environment) -> DatasetInfo:
        """Returns what the dataset says of itself.

        Raises:
            UserError: the environment has no expert, or for a person no tick rate.
        """
        if self.share is None and env.fps is None:
            raise UserError(
                f"{env.name} doesn't say how many ticks a second has; tell it: "
                "--adapter '{\"fps\": 20}'"
            )
        if self.share is not None and not env.has_expert:
            raise UserError(
                f"--expert: {env.name} brings no expert (make_expert) that could judge; without "
                "--expert, a person can take over"
            )
        bundle, adapter = self.fights.bundle(), self.fights.adapter.plain()
        source = {
            "env": env.name,
            "policy": f"corrected by {'a person' if self.share is None else 'the expert'}",
            "model": bundle.config.model.name,
            "checkpoint": _identity(bundle),
            **({} if self.share is None else {"share": self.share}),
            "seed": self.seed,
        }
        return dataset_info(env, {**source, **({"adapter": adapter} if adapter else {})})


def _identity(bundle: Bundle) -> str:
    """Returns a digest of what a checkpoint decides by, however the rest of its bundle is
    written."""
    decides = json.dumps([bundle.digests, bundle.thresholds], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:16]


def correct_by_expert(
    setup: CorrectionSetup, info: DatasetInfo, numbers: Sequence[int], workers: int
) -> Generator[CorrectedFight | Failure]:
    """Yields what comes of each fight as it is recorded, in no order.

    Args:
        setup: policy, environment and dataset, which `store.writer.open_dataset` has prepared.
        info: what the dataset says of itself.
        numbers: of the episodes.
        workers: processes that fight at the same time, on the CPU; 0 for this one, on its device.

    Raises:
        UserError: the environment can't be made, or breaks the checkpoint's contract.
    """
    if workers == 0:
        with corrector(setup, info, functools.partial(_record, setup)) as have:
            for number in numbers:
                yield have(number)
        return
    try:
        on_cpu = functools.partial(_corrector_on_cpu, setup, info)
        yield from in_worker_processes(on_cpu, numbers, workers)
    except WorkerDied as error:
        raise UserError(f"{error}; run the same command again to go on") from error


@contextlib.contextmanager
def corrector(
    setup: CorrectionSetup, info: DatasetInfo, record: Record
) -> Iterator[Callable[[int], CorrectedFight | Failure]]:
    """Gives what has one fight after another corrected, with one policy and one environment.

    Args:
        setup: policy, environment and dataset.
        info: what the dataset says of itself.
        record: has a fight of a seed corrected, and writes it.
    """
    policy = setup.fights.policy()
    name = policy.bundle.config.model.name
    with KeptEnvironment(setup.make_env) as kept:

        def have(number: int) -> CorrectedFight | Failure:
            def fight(env: Environment) -> CorrectedFight:
                with EpisodeWriter(setup.dataset, number, info, 3) as writer:
                    return record(env, policy, setup.seed + number, writer)

            return kept.attempt(fight, name, setup.seed + number)

        yield have


def _record(
    setup: CorrectionSetup, env: Environment, policy: Policy, seed: int, writer: EpisodeWriter
) -> CorrectedFight:
    """Has a fight corrected, and records it. What the environment or its expert raises comes
    through; then nothing is recorded."""
    assert setup.share is not None
    stretches = Stretches(setup.share, EXPERT_TICKS, np.random.default_rng([seed, 4]))
    player = JudgedPlayer(policy, env.make_expert, stretches, setup.instruction)
    judgements: list[Bool[np.ndarray, "A"]] = []
    observers: list[Observer] = [writing(writer), lambda tick: judgements.append(tick.chosen)]
    with contextlib.ExitStack() as stack:
        if setup.video is not None and seed == setup.seed:
            film = Film(
                setup.video,
                env,
                lambda: player.probabilities,
                player_seed(seed),
                lambda: player.is_corrected,
            )
            observers.append(stack.enter_context(film))
        outcome = play(env, player.begin, seed, observers, player.drive)
    attributes = {**setup.attributes(policy, seed), JUDGED: "all"}
    corrections = player.corrections()
    writer.finish({**storable(outcome.info), **attributes}, corrections=corrections)
    return summarize_fight(outcome, np.stack(judgements), corrections)


def summarize_fight(
    outcome: Outcome,
    actions: Bool[np.ndarray, "N A"],
    corrections: Mapping[str, Bool[np.ndarray, "..."]],
) -> CorrectedFight:
    """Returns what a fight came to, given what should have been pressed in it."""
    return CorrectedFight(
        ticks=outcome.ticks,
        driven=int(corrections["intervention"].sum()),
        differing=int((actions != corrections["policy_actions"]).any(axis=1).sum()),
        won=outcome.info["outcome"] == "won" if "outcome" in outcome.info else None,
    )


def _corrector_on_cpu(
    setup: CorrectionSetup, info: DatasetInfo
) -> contextlib.AbstractContextManager[Callable[[int], CorrectedFight | Failure]]:
    # The accelerator may be lent to one process only.
    jax.config.update("jax_platforms", "cpu")
    return corrector(setup, info, functools.partial(_record, setup))
