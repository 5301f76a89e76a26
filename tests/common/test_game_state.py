"""Game state: history against a slow reading, geometry by hand, ids that are rounded or unknown."""

import jax.numpy as jnp
import numpy as np
import pytest

from BC_training.common.game_state import RARE, fit_schema, fit_vocabulary
from boss_arena.attributes import ATTRIBUTES, NPC_Y_OFFSET
from ranni_player.state_history import MAX_AGE, StateHistory, add_history

RNG = np.random.default_rng(0)
COLUMN = {name: at for at, name in enumerate(ATTRIBUTES)}


def arena_state(ticks=200):
    """Values that vary as in the arena."""
    state = RNG.normal(size=(ticks, len(ATTRIBUTES))).astype(np.float32) * 3
    for name in ("HeroMaxHp", "HeroMaxSp", "HeroMaxFp", "NpcMaxHp", "NpcId"):
        state[:, COLUMN[name]] = 1000
    for name in ("HeroHp", "HeroSp", "HeroFp", "NpcHp"):
        state[:, COLUMN[name]] = RNG.integers(0, 1000, ticks)
    for name, ids in (("HeroAnimId", (27000, 180032301)), ("NpcAnimId", (20000, 3000, 3005))):
        state[:, COLUMN[name]] = RNG.choice(ids, ticks)
    return state


def one(**values):
    """A tick at which the values are these and the others zero, with history of its own."""
    state = np.zeros((1, len(ATTRIBUTES)), np.float32)
    for name, value in values.items():
        state[0, COLUMN[name]] = value
    return state


def raw(schema, known):
    return dict(zip(schema.features, np.asarray(schema.raw(jnp.asarray(known))).T, strict=True))


@pytest.fixture(scope="module")
def schema():
    return fit_schema(ATTRIBUTES, add_history(arena_state(), None)[0].joined())


def test_history_equals_the_slow_reading_whole_and_tick_by_tick():
    state = RNG.integers(0, 3, (400, 4)).astype(np.float32)
    state[:, 3] = 7
    expected = np.zeros((400, 12), np.float32)
    for tick in range(400):
        for column in range(4):
            began = tick
            while began > 0 and state[began - 1, column] == state[tick, column]:
                began -= 1
            before = state[max(tick - 1, 0), column]
            expected[tick, column::4] = (
                state[tick, column],
                min(tick - began, MAX_AGE),
                state[tick, column] - before,
            )
    assert np.array_equal(add_history(state, None)[0].joined(), expected)
    before = None
    for tick in range(400):
        history, before = add_history(state[tick : tick + 1], before)
        assert np.array_equal(history.joined()[0], expected[tick])
        for part, again in zip(history, StateHistory.split(history.joined()), strict=True):
            assert np.array_equal(part, again)


def test_what_elden_rings_attributes_become(schema):
    assert schema.features[:4] == ("HeroHp", "HeroSp", "HeroFp", "NpcHp")
    assert "distance" in schema.features
    assert [each.attribute for each in schema.categories] == ["HeroAnimId", "NpcAnimId"]
    assert "NpcId" not in schema.features  # it never changes here
    features, categories = schema(jnp.asarray(add_history(arena_state(), None)[0].joined()))
    assert features.shape == (200, len(schema.features))
    assert np.isfinite(features).all()
    assert np.abs(np.asarray(features).std(axis=0)).max() < 3
    assert categories.shape == (200, 2)


def test_the_opponent_in_the_heros_frame(schema):
    north = {"HeroAngle": np.pi / 2, "HeroMaxHp": 200, "HeroHp": 50}
    npc = {"NpcGlobalPosX": -3, "NpcGlobalPosY": 4 + NPC_Y_OFFSET, "NpcGlobalPosZ": 2}
    state = one(**north, **npc, NpcGlobalPosAngle=-np.pi / 2)
    found = raw(schema, add_history(state, None)[0].joined())
    for name, expected in {
        "HeroHp": 0.25,
        "ahead": 4,
        "left": 3,
        "above": 2,
        "distance": 5,
        "facing_sin": 3 / 5,
        "facing_cos": 4 / 5,
        "npc_facing_cos": 4 / 5,
        "npc_facing_sin": 3 / 5,
        "hero_speed": 0,
    }.items():
        assert found[name] == pytest.approx(expected, abs=1e-5), name


def test_turning_the_world_changes_nothing_but_the_clock_does(schema):
    state, turn = arena_state(50), 0.7
    turned = state.copy()
    for body, angle in (("Hero", "HeroAngle"), ("Npc", "NpcGlobalPosAngle")):
        x, y = COLUMN[f"{body}GlobalPosX"], COLUMN[f"{body}GlobalPosY"]
        offset = NPC_Y_OFFSET if body == "Npc" else 0
        place = state[:, x] + 1j * (state[:, y] - offset)
        place = place * np.exp(1j * turn)
        turned[:, x], turned[:, y] = place.real, place.imag + offset
        turned[:, COLUMN[angle]] += turn
    one_, other = (raw(schema, add_history(each, None)[0].joined()) for each in (state, turned))
    for name in schema.features:
        assert np.allclose(one_[name], other[name], atol=1e-4), name


def test_mirroring_turns_the_signs_that_the_configuration_lists(schema):
    state = arena_state(50)
    mirrored = state.copy()
    for column, offset in (("HeroGlobalPosY", 0), ("NpcGlobalPosY", NPC_Y_OFFSET)):
        mirrored[:, COLUMN[column]] = 2 * offset - state[:, COLUMN[column]]
    for column in ("HeroAngle", "NpcGlobalPosAngle"):
        mirrored[:, COLUMN[column]] *= -1
    plain, other = (raw(schema, add_history(each, None)[0].joined()) for each in (state, mirrored))
    turned = {"left", "facing_sin", "npc_facing_sin", "hero_speed_left", "npc_speed_left"}
    for name in schema.features:
        sign = -1 if name in turned else 1
        assert np.allclose(other[name], sign * plain[name], atol=1e-4), name


def test_live_ids_that_float32_rounds_are_known_and_others_are_unknown(schema):
    hero, npc = schema.categories
    live = np.array([180032301, 180032304, 27000, 27001], np.float32)
    assert hero.index(jnp.asarray(live)).tolist() == [2, 2, 1, 0]
    assert npc.index(jnp.asarray([20000.0, 3005.0, 0.0, 1e9])).tolist() == [3, 2, 0, 0]


def test_values_seen_too_rarely_count_as_unknown():
    values = np.array([5.0] * RARE + [6.0] * (RARE - 1) + [7.0] * 9, np.float32)
    vocabulary = fit_vocabulary("id", 0, values)
    assert vocabulary is not None
    assert vocabulary.values == (5, 7)
    assert fit_vocabulary("id", 0, np.array([0.5, 1, 1, 1], np.float32)) is None


def test_another_games_attributes_are_judged_by_their_values():
    columns = {
        "ammo": RNG.integers(0, 200, 3000),
        "weapon": RNG.integers(0, 5, 3000),
        "speed": RNG.normal(size=3000),
        "level": np.full(3000, 3),
        "HeroHp": RNG.integers(0, 900, 3000),  # without its maximum, a number
    }
    state = np.stack(list(columns.values()), axis=1).astype(np.float32)
    schema = fit_schema(tuple(columns), add_history(state, None)[0].joined())
    assert schema.features == ("ammo", "speed", "HeroHp", "weapon_lasted")
    (weapon,) = schema.categories
    assert weapon.size == 6
    features, _ = schema(jnp.asarray(add_history(state, None)[0].joined()))
    assert np.allclose(np.asarray(features).mean(axis=0), 0, atol=1e-3)
    assert np.allclose(np.asarray(features).std(axis=0), 1, atol=1e-3)


def test_a_state_that_tells_nothing_is_no_features():
    state = np.ones((20, 2), np.float32)
    schema = fit_schema(("a", "b"), add_history(state, None)[0].joined())
    features, categories = schema(jnp.asarray(add_history(state, None)[0].joined()))
    assert features.shape == categories.shape == (20, 0)
