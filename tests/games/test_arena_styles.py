"""The expert's styles of play differ as their words say, and the default stays what it was."""

import hashlib
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmarks.arena import ENV, POLICIES, fight
from benchmarks.styles import play
from boss_arena.attributes import ACTIONS, ATTRIBUTES
from boss_arena.env import BossArena
from boss_arena.measure import measure
from boss_arena.styles import STYLES

FIGHTS = 10

BEFORE_STYLES = {
    0: (1051, "a0a1af251e709fc8"),
    1: (1109, "2adf23e0a9e526c9"),
    2: (1142, "aa740612901f2092"),
    3: (1094, "09be3937e140c1fa"),
}
"""Ticks, and SHA-256 of the actions [N, 7] int8, of fights played before there were styles."""


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make(ENV, render_frames=False, width=64, height=36)


@pytest.fixture(scope="module")
def fights(env) -> dict[str, list]:
    """Last info and figures of every style's fights."""
    return {style: [play(env, style, seed) for seed in range(FIGHTS)] for style in STYLES}


@pytest.mark.parametrize("seed", BEFORE_STYLES)
def test_the_default_plays_as_before_there_were_styles(env, seed):
    _, actions = fight(env, POLICIES["expert"](env, seed), seed)
    hashed = hashlib.sha256(actions.astype(np.int8).tobytes()).hexdigest()[:16]
    assert (len(actions), hashed) == BEFORE_STYLES[seed]
    named = env.unwrapped.make_expert(seed, style="balanced")
    _, again = fight(env, lambda observation, _: named.act(observation), seed)
    np.testing.assert_array_equal(again, actions)


@pytest.mark.parametrize(
    ("figure", "rising"),
    [
        ("attacks", ("keep_distance", "defensive", "balanced", "aggressive")),
        ("distance", ("aggressive", "balanced", "defensive", "keep_distance")),
    ],
)
def test_styles_differ_in_the_direction_of_their_words(fights, figure, rising):
    assert sorted(rising) == sorted(STYLES)
    samples = [np.array([getattr(each, figure) for _, each in fights[style]]) for style in rising]
    for low, high in itertools.pairwise(samples):
        error = np.sqrt(low.var(ddof=1) / FIGHTS + high.var(ddof=1) / FIGHTS)
        assert high.mean() - low.mean() > 2 * error


def test_the_defensive_dodge_more_than_the_aggressive(fights):
    dodges = {style: np.mean([each.dodges for _, each in fights[style]]) for style in STYLES}
    assert dodges["defensive"] > 1.1 * dodges["aggressive"]


@pytest.mark.parametrize(
    ("style", "won", "removed"),
    [
        ("balanced", 9, 0.95),
        ("aggressive", 7, 0.9),
        ("defensive", 5, 0.9),
        ("keep_distance", 0, 0.6),
    ],
)
def test_every_style_is_a_player_to_reckon_with(fights, style, won, removed):
    infos = [info for info, _ in fights[style]]
    assert sum(info["outcome"] == "won" for info in infos) >= won
    assert np.mean([info["boss_health_removed"] for info in infos]) > removed
    assert sum(info["outcome"] == "lost" for info in infos) <= 3


def test_every_style_can_be_asked_for_in_several_ways():
    texts = [text for style in STYLES.values() for text in style.instructions]
    assert len(set(texts)) == len(texts)
    for name, style in STYLES.items():
        assert len(style.instructions) >= 4
        assert BossArena.styles[name] == style.instructions
        for text in style.instructions:
            assert text == text.strip().lower()
            assert 2 <= len(text.split()) <= 10


def test_an_unknown_style_is_refused(env):
    with pytest.raises(ValueError, match=r"no style 'brave'; the expert has balanced, aggressive"):
        env.unwrapped.make_expert(0, style="brave")


def test_measure_counts_presses_and_metres():
    rows = np.zeros((34, len(ACTIONS)), bool)
    rows[0:3, ACTIONS.index("attack")] = True  # held from the first tick on: one press
    rows[[10, 12], ACTIONS.index("attack")] = True
    rows[20:34, ACTIONS.index("dodge_roll/dash")] = True  # and to the last
    hero = {"HeroGlobalPosX": 100.0, "HeroGlobalPosY": 500.0}
    # 3 and 4 metres off on the ground for half of the time, 10 for the other; its own level, and
    # the game's offset in Y, are no distance.
    near = {"NpcGlobalPosX": 103.0, "NpcGlobalPosY": 504.0 - 8, "NpcGlobalPosZ": 7.0}
    far = {"NpcGlobalPosX": 90.0, "NpcGlobalPosY": 500.0 - 8, "NpcGlobalPosZ": 0.0}
    found = measure([{**hero, **near}] * 17 + [{**hero, **far}] * 17, rows)
    assert found == pytest.approx((1.5, 0.5, 7.5))


def test_measure_says_the_same_of_a_fight_and_of_its_recording(env):
    seen: list[dict[str, Any]] = []
    expert = env.unwrapped.make_expert(5)
    _, actions = fight(env, lambda o, _: (seen.append(o), expert.act(o))[1], 5)
    state = np.array([[observation[name] for name in ATTRIBUTES] for observation in seen])
    rows = [dict(zip(ATTRIBUTES, row, strict=True)) for row in state.astype(np.float32)]
    recorded = measure(rows, actions.astype(bool))
    assert recorded == pytest.approx(measure(seen, actions), rel=1e-6)


@pytest.mark.parametrize(("ticks", "shape"), [(0, (0, 7)), (3, (2, 7)), (2, (2, 6)), (2, (2,))])
def test_measure_refuses_what_does_not_match(ticks, shape):
    with pytest.raises(ValueError, match=f"{ticks} observations and actions of shape"):
        measure([{}] * ticks, np.zeros(shape))
