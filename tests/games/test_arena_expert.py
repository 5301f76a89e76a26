"""The arena's expert plays as a person does: late, with held keys, from the attributes alone."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmarks.arena import ATTACK, DODGE, ENV, FORWARD, LOCK, POLICIES, fight
from boss_arena.expert import Expert
from boss_arena.moves import BOSS_IDLE, MOVES

Fight = tuple[dict[str, Any], np.ndarray, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def fights() -> list[Fight]:
    """Last info, actions [N, 7] and observations of a dozen of the expert's fights."""
    env = gymnasium.make(ENV, render_frames=False)
    played = []
    for seed in range(12):
        seen: list[dict[str, Any]] = []
        policy = POLICIES["expert"](env, seed)

        def act(observation, tick, seen=seen, policy=policy):
            seen.append(observation)
            return policy(observation, tick)

        played.append((*fight(env, act, seed), seen))
    return played


def test_its_fights_last_30_to_90_seconds(fights):
    seconds = [info["seconds"] for info, _, _ in fights if info["outcome"] == "won"]
    assert len(seconds) >= 10
    assert min(seconds) > 30
    assert 40 <= np.median(seconds) <= 75


def test_it_presses_keys_as_often_and_as_long_as_a_person(fights):
    actions = np.concatenate([actions for _, actions, _ in fights]).astype(int)
    often = actions.mean(0)
    assert 0.03 < often[DODGE] < 0.09
    assert 0.025 < often[ATTACK] < 0.09
    assert often[LOCK] < 0.03
    presses = (np.diff(actions, axis=0) == 1).sum(0)
    ticks = actions.sum(0) / presses
    assert (ticks[[DODGE, ATTACK, LOCK]] >= 2).all()
    assert ticks[FORWARD] > 5


def test_it_begins_anew_after_reset(fights):
    _, actions, seen = fights[0]
    expert = Expert(0)
    for observation in fights[1][2][:200]:
        expert.act(observation)
    expert.reset()
    for observation, action in zip(seen[:200], actions[:200], strict=True):
        assert np.array_equal(expert.act(observation), action)


@pytest.mark.parametrize("seed", range(5))
def test_it_reacts_to_a_wind_up_after_150_ms_at_the_earliest(seed, fights):
    """Two experts see the same fight, until a blow begins for one and does not for the other."""
    _, _, seen = fights[seed]
    blows = (MOVES["slash"].animation, MOVES["overhead"].animation)
    begin = next(
        tick
        for tick in range(60, len(seen))
        if seen[tick]["NpcAnimId"] in blows and seen[tick - 1]["NpcAnimId"] not in blows
    )
    threatened, safe = Expert(seed), Expert(seed)
    differs = []
    for tick in range(begin + 25):
        observation = seen[min(tick, begin)]
        idle = {**observation, "NpcAnimId": np.array(BOSS_IDLE)}
        one = threatened.act(observation)
        two = safe.act(idle if tick >= begin else observation)
        differs.append(not np.array_equal(one, two))
    # A tick is 59 ms: what is shown at `begin` may matter from three ticks later on.
    assert not any(differs[: begin + 3])
    assert any(differs[: begin + 20])
