"""A policy plays until a person presses something, and again once the person presses nothing."""

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from BC_training.play.corrections import CorrectedFight, CorrectionSetup, corrector, summarize_fight
from BC_training.play.policy import Policy
from gameplay_pipeline.environments.adapter import Environment
from gameplay_pipeline.environments.keyboard_hook import KeyboardHook
from gameplay_pipeline.environments.person import Person, Shown
from gameplay_pipeline.environments.play import Failure, play
from gameplay_pipeline.environments.recorder import storable, writing_aside
from gameplay_pipeline.page.desk import Desk
from gameplay_pipeline.page.person import PagePerson
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, discard_episode

SILENCE_S = 0.7
"""Seconds without a key after which the policy has the buttons again."""


class Takeover:
    """A policy and a person at the same buttons, as the play loop knows players.

    What the person holds is pressed at once, and nothing else: the policy's buttons are released.
    The moment of silence before the policy drives again is no intervention: it says who drives, not
    what to press.
    """

    def __init__(self, policy: Policy, person: Person, fps: float, instruction: str | None = None):
        """Takes both for one fight.

        Args:
            policy: goes on deciding while the person drives, and is told what was pressed.
            person: sees each tick, and what the policy makes of it.
            fps: ticks a second.
            instruction: how the policy is to play.
        """
        self._policy, self._person, self._instruction = policy, person, instruction
        self._silence = max(1, round(SILENCE_S * fps))
        self._nothing = np.zeros(len(policy.bundle.spec.actions), bool)

    def begin(self, seed: int) -> "Takeover":
        """Gives itself, with this seed of the policy's decisions."""
        self._seed = seed
        return self

    def reset(self) -> None:
        """Forgets the fight so far; the policy drives."""
        self._policy.reset(self._instruction, self._seed)
        self._person.reset()
        self._silent = self._silence
        self._decided: list[Bool[np.ndarray, "A"]] = []
        self._pressed: list[Bool[np.ndarray, "A"]] = []
        self._intervention: list[bool] = []

    def act(self, observation: Mapping[str, Any]) -> Bool[np.ndarray, "A"]:
        """Returns what the person holds, or else what the policy decides."""
        drove = self._silent < self._silence
        before = self._pressed[-1] if self._pressed else None
        decision = self._policy.act(observation, before)
        pressed = self._nothing if before is None else before
        held = self._person.choose(observation, Shown(pressed, drove, decision.probabilities))
        if held.any() and drove:  # the silence was a pause for breath
            first = len(self._intervention) - self._silent
            self._intervention[first:] = [True] * self._silent
        self._silent = 0 if held.any() else self._silent + 1
        self._decided.append(decision.pressed)
        self._intervention.append(bool(held.any()))
        self._pressed.append(held if self._silent < self._silence else decision.pressed)
        return self._pressed[-1]

    def corrections(self) -> dict[str, Bool[np.ndarray, "..."]]:
        """Returns the fight's `policy_actions` [N, A] and `intervention` [N], as a dataset holds
        them: outside of interventions, the former is what was pressed."""
        intervention = np.array(self._intervention)
        decided, pressed = np.stack(self._decided), np.stack(self._pressed)
        return {
            "policy_actions": np.where(intervention[:, None], decided, pressed),
            "intervention": intervention,
        }

    def actions(self) -> Bool[np.ndarray, "N A"]:
        """Returns what was pressed at each tick."""
        return np.stack(self._pressed)


def correct_at_page(
    setup: CorrectionSetup, info: DatasetInfo, numbers: Sequence[int], host: str, port: int
) -> Generator[CorrectedFight | Failure]:
    """Has the policy fight at a page where a person can take over, until the person or Ctrl-C ends
    it; yields what comes of each recorded fight.

    Args:
        setup: policy, environment and dataset, which `store.writer.open_dataset` has prepared.
        info: what the dataset says of itself.
        numbers: of the episodes.
        host: address of the page.
        port: its port; 0 for any that is free.

    Raises:
        UserError: the environment can't be made, or nothing can listen there.
    """
    from gameplay_pipeline.page.fights import fights_by_hand  # the page's server takes a while
    from gameplay_pipeline.page.server import Greeting, serve_page

    assert info.fps is not None
    task = f"correcting {setup.fights.bundle().config.model.name}, into {setup.dataset.name}"
    fights = max(numbers, default=-1) + 1
    greeting = Greeting(setup.fights.env_id, task, info.keys, info.fps, fights, has_policy=True)
    desk = Desk(len(info.keys))
    record = functools.partial(_record, setup, lambda env: PagePerson(desk, env))
    with (
        corrector(setup, info, record) as have,
        serve_page(desk, greeting, host, port) as address,
    ):
        print(f"take over at {address} (fights that are over are kept; Ctrl-C ends it)", flush=True)
        yield from fights_by_hand(
            desk, numbers, have, lambda number: discard_episode(setup.dataset, number)
        )


def correct_at_keyboard(
    setup: CorrectionSetup, info: DatasetInfo, numbers: Sequence[int], keys: Mapping[str, str]
) -> Generator[CorrectedFight | Failure]:
    """`correct_at_page` for a person at this machine's keyboard, beside a game that goes on by
    itself.

    Args:
        setup: policy, environment and dataset.
        info: what the dataset says of itself.
        numbers: of the episodes.
        keys: the key of each button, as `KeyboardHook` takes them.

    Raises:
        UserError: the keyboard can't be listened to, or the game waits for its player.
    """
    with KeyboardHook(keys, info.keys) as hook:
        record = functools.partial(_record, setup, lambda _: hook)
        with corrector(setup, info, record) as have:
            for number in numbers:
                yield have(number)


def _record(
    setup: CorrectionSetup,
    make_person: Callable[[Environment], PagePerson | KeyboardHook],
    env: Environment,
    policy: Policy,
    seed: int,
    writer: EpisodeWriter,
) -> CorrectedFight:
    """Has a fight in which a person may take over, and records it."""
    assert writer.info.fps is not None
    person = make_person(env)
    if isinstance(person, KeyboardHook) and not env.is_real_time:
        raise UserError(f"--keys: {env.name} does not go on by itself; use the page")
    player = Takeover(policy, person, writer.info.fps, setup.instruction)
    with writing_aside(writer) as append:
        outcome = play(env, player.begin, seed, [append])
    attributes = {**storable(outcome.info), **setup.attributes(policy, seed)}
    corrections = player.corrections()
    if isinstance(person, PagePerson):  # which keeps the time
        attributes |= person.rate()
        writer.finish(attributes, timestamps=person.timestamps(), corrections=corrections)
        person.show_end(outcome)
    else:
        writer.finish(attributes, corrections=corrections)
    return summarize_fight(outcome, player.actions(), corrections)
