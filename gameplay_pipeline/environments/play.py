"""The play loop. Every fight of the project goes through it; whoever wants to know more than how it
ended (the recorder, the film, a report) watches as an observer."""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from gameplay_pipeline.environments.adapter import Environment, Player
from gameplay_pipeline.plumbing.errors import DataError, UserError

Result = TypeVar("Result")


class Tick(NamedTuple):
    """One step of a fight, as observers see it before the environment takes it."""

    observation: Mapping[str, Any]
    """What the player saw: `frame` [H, W, 3] uint8 and the state's attributes by name."""
    chosen: Bool[np.ndarray, "A"]
    """The buttons that the player wants down."""
    pressed: Bool[np.ndarray, "A"]
    """The buttons that the environment is given; they differ where a disturbance interferes."""
    latency_ms: float
    """Milliseconds that the player took to choose."""


class Outcome(NamedTuple):
    """How a fight ended."""

    ticks: int
    reward: float
    """Sum of the rewards."""
    info: dict[str, Any]
    """What the environment said at the last tick."""


class Failure(NamedTuple):
    """A fight that the environment or its player did not end in good order."""

    player: str
    seed: int
    reason: str


Observer = Callable[[Tick], None]
Disturbance = Callable[[Bool[np.ndarray, "A"]], Bool[np.ndarray, "A"]]


def play(
    env: Environment,
    make_player: Callable[[int], Player],
    seed: int,
    observers: Iterable[Observer] = (),
    disturbance: Disturbance | None = None,
) -> Outcome:
    """Plays one fight to its end.

    Args:
        env: the environment; it stays open.
        make_player: makes the player from a seed of its own, once the environment is reset.
        seed: seed of the fight.
        observers: called at each tick, before the environment moves on.
        disturbance: what is pressed instead of what the player chose.

    Returns:
        How the fight ended. Whatever the environment, the player or an observer raises comes
        through.
    """
    observers = tuple(observers)
    observation, _ = env.reset(seed=seed)
    player = make_player(player_seed(seed))
    player.reset()
    ticks, reward = 0, 0.0
    while True:
        began = time.perf_counter()
        chosen = np.array(player.act(observation), bool)
        latency_ms = 1000 * (time.perf_counter() - began)
        pressed = chosen if disturbance is None else disturbance(chosen)
        tick = Tick(observation, chosen, pressed, latency_ms)
        for observe in observers:
            observe(tick)
        observation, gained, terminated, truncated, info = env.step(pressed.astype(np.int8))
        ticks, reward = ticks + 1, reward + float(gained)
        if terminated or truncated:
            return Outcome(ticks, reward, info)


def player_seed(seed: int) -> int:
    """The seed of a fight's player. It is not the fight's own: the environment draws from that."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


def attempt(fight: Callable[[], Result], player: str, seed: int) -> Result | Failure:
    """Has a fight, and tells what somebody's environment or player raised in it.

    Raises:
        UserError: the fight raised it; then all other fights would too.
    """
    try:
        return fight()
    except DataError as error:
        return Failure(player, seed, str(error))
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        return Failure(player, seed, reason)
