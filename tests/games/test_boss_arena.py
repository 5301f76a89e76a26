"""The simulated fight: its contract, its skills, its players."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from boss_arena import moves
from boss_arena.attributes import ACTIONS, ATTRIBUTES, WHOLE
from boss_arena.env import BossArena
from boss_arena.fight import ROLL_SAFE, Buttons, Fight
from boss_arena.fighters import BOSS_MAX_HP, HERO_MAX_HP, HERO_MAX_SP, STAGGER_TICKS
from boss_arena.geometry import wrap
from boss_arena.moves import MOVES, PUNISH

NOTHING = Buttons(*[False] * 7)


def press(*names):
    return NOTHING._replace(**dict.fromkeys(names, True))


def duel(move=None, distance=2.4):
    """A fight with the hero in front of the boss, facing it, and the boss about to do `move`."""
    fight = Fight(0)
    fight.boss.x = fight.boss.y = fight.boss.yaw = 0.0
    fight.hero.x, fight.hero.y, fight.hero.yaw = distance, 0.0, math.pi
    fight.camera_yaw, fight.locked = math.pi, True
    fight.boss.wait = 10_000
    if move is not None:
        fight.boss.move, fight.boss.tick = MOVES[move], 0
    return fight


def lowest_health(fight, ticks, pressed=None):
    for tick in range(ticks):
        fight.step((pressed or {}).get(tick, NOTHING))
    return fight.hero.hp


def play(env, act, seed):
    observation, info = env.reset(seed=seed)
    over = False
    while not over:
        observation, _, terminated, truncated, info = env.step(act(observation))
        over = terminated or truncated
    return info


def test_gymnasium_finds_it_and_its_checker_passes():
    env = gymnasium.make("boss_arena:BossArena-v0", width=128, height=72)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space == gymnasium.spaces.MultiBinary(7)
    assert env.unwrapped.metadata["render_fps"] == 17


@pytest.mark.parametrize(("width", "height"), [(512, 288), (256, 144), (65, 37), (100, 200)])
def test_frames_have_the_size_asked_for(width, height):
    observation, _ = BossArena(width, height).reset(seed=0)
    assert observation["frame"].shape == (height, width, 3)
    assert observation["frame"].dtype == np.uint8


def test_a_person_sees_a_small_arena_large():
    small, large = BossArena(64, 36), BossArena(512, 288)
    for env in (small, large):
        env.reset(seed=3)
    for _ in range(20):
        observation, *_ = large.step(np.ones(7))
        small.step(np.ones(7))
    np.testing.assert_array_equal(small.picture(), observation["frame"])
    np.testing.assert_array_equal(large.picture(), observation["frame"])


def test_a_frame_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 64x36"):
        BossArena(width=32)


def test_the_same_seed_and_actions_give_the_same_fight_frame_for_frame():
    def record(seed, actions_seed):
        env, rng = BossArena(96, 54), np.random.default_rng(actions_seed)
        seen = [env.reset(seed=seed)[0]]
        for _ in range(150):
            observation, *_, over, _, _ = env.step(rng.integers(0, 2, 7))
            seen.append(observation)
            if over:
                break
        return seen

    one, same, other = record(5, 1), record(5, 1), record(6, 1)
    assert len(one) == len(same)
    for a, b in zip(one, same, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(one[0]["frame"], other[0]["frame"])


def test_attributes_have_the_names_ranges_and_quirks_of_the_game():
    env = BossArena(render_frames=False)
    expert = env.make_expert(0)
    observation, _ = env.reset(seed=0)
    hero_ids, boss_ids = set(), set()
    over = False
    while not over:
        assert set(observation) == {"frame", *ATTRIBUTES}
        assert env.observation_space.contains(observation)
        hero_ids.add(int(observation["HeroAnimId"]))
        boss_ids.add(int(observation["NpcAnimId"]))
        off = observation["NpcGlobalPosY"] - observation["HeroGlobalPosY"]
        assert abs(off + 8) < 40
        observation, _, terminated, truncated, _ = env.step(expert.act(observation))
        over = terminated or truncated
    assert not hero_ids & boss_ids
    assert len(boss_ids) >= 12
    assert any(i > 2**24 and int(np.float32(i)) != i for i in hero_ids)
    assert len({int(np.float32(i)) for i in hero_ids}) == len(hero_ids)
    assert {"HeroAnimId", "NpcId", "NpcAnimId"} == WHOLE


def test_there_are_attacks_enough_with_phases_reach_and_arc():
    attacks = [move for move in MOVES.values() if move.damage or move.dagger]
    assert len(attacks) >= 8
    assert len({move.animation for move in MOVES.values()}) == len(MOVES)
    for move in attacks:
        assert move.ramp > 0
        assert move.active > 0
        assert move.recovery > 0
        assert move.dagger or (move.reach > 0 and move.half_arc > 0)
    only_second = [move for move in attacks if move.weights[0] == 0 < move.weights[1]]
    assert len(only_second) >= 2


@pytest.mark.parametrize("name", ["slash", "overhead", "tail", "jab", "hammer"])
def test_a_blow_lands_within_reach_and_not_beyond(name):
    move = MOVES[name]
    near = lowest_health(duel(name), move.windup + move.active)
    whole = move.windup + move.active + move.second_hit + move.recovery
    far = lowest_health(duel(name, distance=move.reach + move.lunge + move.ring + 1), whole)
    assert near == HERO_MAX_HP - move.damage
    assert far == HERO_MAX_HP


def test_a_blow_spares_who_stands_outside_its_arc():
    fight = duel("overhead")
    fight.boss.yaw = wrap(math.pi / 2)
    fight.boss.tick = int(MOVES["overhead"].turning * MOVES["overhead"].ramp) + 1
    assert lowest_health(fight, MOVES["overhead"].windup) == HERO_MAX_HP


def test_a_roll_passes_through_a_blow_only_when_it_is_timed():
    due = MOVES["spin"].windup
    roll = press("dodge", "move_forward")
    timed = lowest_health(duel("spin"), due + 2, {due - 3: roll})
    early = lowest_health(duel("spin"), due + 2, {0: roll})
    assert timed == HERO_MAX_HP
    assert early == HERO_MAX_HP - MOVES["spin"].damage


def test_rolls_cost_stamina_and_lose_their_safety_when_spammed():
    fight = duel()
    safe = []
    for tick in range(75):
        fight.step(press("dodge", "move_left") if tick % 2 else NOTHING)
        if fight.hero.doing == "roll" and fight.hero.tick == 0:
            safe.append(fight.hero.roll_safe)
    assert safe[0] == ROLL_SAFE
    assert safe[1] < ROLL_SAFE
    assert safe[-1] == 0
    assert fight.hero.sp < HERO_MAX_SP / 2


def test_an_empty_stamina_bar_gives_a_slow_roll_without_safety():
    fight = duel()
    fight.hero.sp = 5.0
    fight.step(press("dodge", "move_left"))
    assert fight.hero.doing == "roll"
    assert fight.hero.roll_safe == 0
    assert fight.hero.animation() == moves.HERO_TIRED_ROLL


def test_attacks_commit():
    fight = duel()
    fight.step(press("attack"))
    for _ in range(moves.COMBO[0].windup + moves.COMBO[0].active):
        fight.step(press("dodge", "move_left") if fight.hero.tick % 2 else NOTHING)
        assert fight.hero.doing == "attack"
    assert fight.boss.hp == BOSS_MAX_HP - moves.COMBO[0].damage


def test_a_held_attack_key_strikes_once_and_taps_strike_a_combo():
    held, tapped = duel(), duel()
    for tick in range(60):
        held.step(press("attack"))
        tapped.step(press("attack") if tick % 8 < 2 else NOTHING)
    assert BOSS_MAX_HP - held.boss.hp == moves.COMBO[0].damage
    assert BOSS_MAX_HP - tapped.boss.hp >= sum(blow.damage for blow in moves.COMBO)


def test_a_blow_staggers_and_interrupts_the_hero():
    fight = duel("slash")
    lowest_health(fight, MOVES["slash"].windup + 1)
    assert fight.hero.doing == "stagger"
    lowest_health(fight, STAGGER_TICKS + 1)
    assert fight.hero.doing == "free"


def test_lock_on_turns_camera_and_hero_to_the_boss_and_toggles():
    fight = duel(distance=6)
    fight.locked = False
    fight.hero.yaw = fight.camera_yaw = wrap(math.pi + 1.2)
    for _ in range(10):
        fight.step(NOTHING)
    assert fight.camera_yaw == wrap(math.pi + 1.2)
    for _ in range(10):
        fight.step(press("lock_on"))
    assert fight.locked
    assert abs(wrap(fight.camera_yaw - fight.bearing())) < 0.05
    assert abs(wrap(fight.hero.yaw - fight.bearing())) < 0.05
    fight.step(NOTHING)
    fight.step(press("lock_on"))
    assert not fight.locked


def test_half_its_health_begins_the_second_phase():
    fight = duel()
    fight.boss.hp = BOSS_MAX_HP / 2 + 1
    fight.step(press("attack"))
    for _ in range(12):
        fight.step(NOTHING)
    assert fight.boss.second_phase
    assert fight.boss.animation() == moves.BOSS_ROAR

    def chosen(second):
        fight = Fight(3)
        fight.boss.second_phase = second
        return {fight.boss.choose(2.5, fight._rng).name for _ in range(300)}

    assert {"hammer", "spin"} <= chosen(True)
    assert not {"hammer", "spin"} & chosen(False)


def test_a_roll_in_reach_may_be_punished():
    names = set()
    for seed in range(60):
        fight = duel("slash")
        fight._rng = np.random.default_rng(seed)
        fight.hero.begin("roll")
        fight.hero.roll_way = 0.0
        fight.boss.tick = MOVES["slash"].windup + MOVES["slash"].active - 1
        fight.boss.hit = False
        fight.hero.roll_safe = 99
        fight.step(NOTHING)
        names.add(fight.boss.move.name if fight.boss.move else "")
    assert {PUNISH, "backslash", "late_backslash", "slash"} <= names


@pytest.mark.parametrize(
    ("quick", "late"), [("overhead", "late_overhead"), ("thrust", "late_thrust")]
)
def test_a_delayed_attack_shows_the_quick_ones_pictures_and_lands_later(quick, late):
    def poses(name):
        fight, seen = duel(name), []
        for _ in range(MOVES[name].windup - 1):
            fight.step(NOTHING)
            seen.append(fight.scene().boss)
        return seen

    fast, slow = poses(quick), poses(late)
    assert MOVES[late].windup >= MOVES[quick].windup + 8
    assert all(figure.pose == fast[0].pose and figure.phase == "windup" for figure in slow)
    held = [figure.progress for figure in slow if figure.progress == slow[-1].progress]
    assert len(held) >= 6
    assert max(figure.progress for figure in fast) == pytest.approx(held[0], abs=0.05)


def test_a_leap_leaves_the_picture_and_breaks_the_lock():
    fight = duel("leap", distance=8)
    lowest_health(fight, MOVES["leap"].ramp + 5)
    assert fight.boss.z > 1.5
    assert not fight.locked
    lowest_health(fight, 10)
    assert fight.boss.z == pytest.approx(0)
    assert fight.hero.hp < HERO_MAX_HP


def test_a_dagger_flies_and_hits_who_does_not_move():
    fight = duel("throw", distance=9)
    assert lowest_health(fight, MOVES["throw"].windup + 4) == HERO_MAX_HP
    assert fight.scene().daggers
    assert lowest_health(fight, 12) == HERO_MAX_HP - MOVES["throw"].damage
    assert not fight.scene().daggers


def trivial(name):
    rng = np.random.default_rng(0)
    ticks = iter(range(10**6))
    buttons = {
        "nothing": lambda t: NOTHING,
        "attack held": lambda t: press("attack"),
        "attack tapped": lambda t: press("attack") if t % 2 else NOTHING,
        "charge": lambda t: NOTHING._replace(attack=bool(t % 2), move_forward=True, lock_on=t == 2),
        "roll held": lambda t: press("dodge"),
        "roll tapped": lambda t: NOTHING._replace(dodge=bool(t % 2), move_left=True),
        "random": lambda t: rng.integers(0, 2, 7),
    }[name]
    return lambda _: np.array(buttons(next(ticks)), np.int8)


TRIVIAL = (
    "nothing",
    "attack held",
    "attack tapped",
    "charge",
    "roll held",
    "roll tapped",
    "random",
)


def outcomes(player, seeds):
    env = BossArena(render_frames=False)
    infos = []
    for seed in seeds:
        act = env.make_expert(seed).act if player == "expert" else trivial(player)
        infos.append(play(env, act, seed))
    return infos


def check_expert(infos):
    assert np.mean([info["outcome"] == "won" for info in infos]) >= 0.9
    seconds = [info["seconds"] for info in infos]
    assert 30 <= np.median(seconds) <= 90


def check_trivial(infos, player):
    assert not any(info["outcome"] == "won" for info in infos)
    removed = np.mean([info["boss_health_removed"] for info in infos])
    assert removed <= (0.15 if player == "random" else 0.3)


def test_the_expert_wins_and_nobody_else():
    check_expert(outcomes("expert", range(40)))
    for player in TRIVIAL:
        check_trivial(outcomes(player, range(40)), player)


def test_the_expert_looks_at_attributes_only():
    env = BossArena(64, 36)
    observation, _ = env.reset(seed=1)
    seeing, blind = env.make_expert(4), env.make_expert(4)
    for _ in range(300):
        action = seeing.act(observation)
        attributes = {name: observation[name] for name in ATTRIBUTES}
        assert np.array_equal(action, blind.act(attributes))
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            break


def test_the_expert_holds_keys_like_a_hand():
    env = BossArena(render_frames=False)
    observation, _ = env.reset(seed=2)
    expert = env.make_expert(2)
    rows = []
    over = False
    while not over:
        rows.append(expert.act(observation))
        observation, _, terminated, truncated, _ = env.step(rows[-1])
        over = terminated or truncated
    pressed = np.array(rows, bool)
    for name in ("dodge_roll/dash", "attack", "lock_on"):
        column = np.concatenate([[0], pressed[:, ACTIONS.index(name)], [0]]).astype(int)
        starts, ends = np.flatnonzero(np.diff(column) == 1), np.flatnonzero(np.diff(column) == -1)
        assert len(starts) > 0
        over = ends < len(pressed)  # the fight's end may cut a press short
        assert (ends - starts)[over].min() >= 2
    frequency = dict(zip(ACTIONS, pressed.mean(axis=0), strict=True))
    assert 0.03 < frequency["dodge_roll/dash"] < 0.12
    assert 0.02 < frequency["attack"] < 0.12
    assert frequency["move_forward"] > 0.1
