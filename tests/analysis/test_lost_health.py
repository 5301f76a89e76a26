"""What lost health is said to come from, for players that were made worse on purpose."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from BC_training import rollout
from BC_training.analysis.policy import lost_health
from BC_training.play.health_log import HealthLog
from boss_arena.attributes import ACTIONS
from boss_arena.moves import MOVES
from gameplay_pipeline.environments.play import Tick
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import run
from tests.support.made_policy import made_bundle, save_policy

DODGE = ACTIONS.index("dodge_roll/dash")


def watched(seeds, worsen):
    """Logs of fights of the arena's expert, whose buttons are made worse."""
    env: Any = gymnasium.make(
        "boss_arena:BossArena-v0", render_frames=False, width=64, height=36,
        disable_env_checker=True,
    )  # fmt: skip
    logs = []
    for seed in seeds:
        log = HealthLog(ACTIONS, seed, 17.0)
        observation, info = env.reset(seed=seed)
        expert = env.unwrapped.make_expert(seed)
        expert.reset()
        while not info["outcome"]:
            pressed = np.array(expert.act(observation), bool)
            worsen(pressed, observation)
            log(Tick(observation, pressed, pressed, 0.0))
            observation, _, _, _, info = env.step(pressed.astype(np.int8))
        logs.append(log.close(died=info["outcome"] == "lost"))
    return logs


def test_a_player_that_never_rolls_is_told_so():
    def never_rolls(pressed, observation):
        pressed[DODGE] = False

    logs = watched(range(3), never_rolls)
    first = lost_health.weaknesses(logs, ACTIONS)[0]
    assert first.what == "did not roll"
    assert "the threshold of 'dodge_roll/dash'" in first.advice
    # Each died, and the blow that killed counts.
    assert sum(hit.lost for log in logs for hit in log.hits) == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("name", ["overhead", "slash"])
def test_an_attack_that_the_player_does_not_know_is_named_first(tmp_path, capsys, name):
    animation = MOVES[name].animation

    def blind(pressed, observation):
        if int(observation["NpcAnimId"]) == animation:
            pressed[DODGE] = False

    logs = watched(range(10), blind)
    assert lost_health.weaknesses(logs, ACTIONS)[0].what == f"animation {animation}"
    lost_health.report(logs, made_bundle().spec, tmp_path / "why")
    assert f"1. animation {animation}: " in capsys.readouterr().out
    assert (tmp_path / "why" / "lost_health.png").stat().st_size > 0


def fed(rows, actions, dodge_ticks=(), attack_ticks=()):
    """A log of made ticks: attributes, and ticks at which a button goes down."""
    log = HealthLog(actions, 0, 10.0)
    for tick, attributes in enumerate(rows):
        pressed = np.array([tick in dodge_ticks, tick in attack_ticks])
        observation = {"frame": np.zeros((20, 30, 3), np.uint8), **attributes}
        log(Tick(observation, pressed, pressed, 0.0))
    return log.close(died=False)


def blow_at(tick, stamina=100.0):
    """A blow between `tick` and the next one."""
    return [
        {"HeroHp": 100.0 if now <= tick else 60.0, "HeroSp": stamina, "HeroMaxSp": 100.0}
        for now in range(tick + 3)
    ]


@pytest.mark.parametrize(
    ("dodge", "attack", "stamina", "deed"),
    [
        ((), (), 100.0, "did not roll"),
        ((20,), (), 100.0, "rolled late"),
        ((17,), (), 100.0, "rolled in time"),
        ((12,), (), 100.0, "rolled early"),
        ((5,), (), 100.0, "did not roll"),
        ((17,), (), 5.0, "out of stamina"),
        ((), (15,), 100.0, "attacked into it"),
        ((12,), (16,), 100.0, "attacked into it"),
    ],
)
def test_what_was_done_in_the_second_before(dodge, attack, stamina, deed):
    log = fed(blow_at(20, stamina), ("dodge", "attack"), dodge, attack)
    (hit,) = log.hits
    assert (hit.tick, hit.deed, hit.animation) == (20, deed, None)
    assert hit.lost == pytest.approx(0.4)


def test_stamina_counts_as_it_was_when_the_roll_began():
    rows = blow_at(20)
    for tick in (15, 16, 17):  # an attack at 14 has used it up
        rows[tick]["HeroSp"] = 5.0
    (hit,) = fed(rows, ("dodge", "attack"), (15,), (14,)).hits
    assert hit.deed == "out of stamina"


def test_without_animations_and_dodges_it_groups_by_the_buttons():
    rows = [{"HEALTH": 100.0 - 10 * (tick > 5) - 20 * (tick > 9)} for tick in range(12)]
    log = fed(rows, ("left", "shoot"), attack_ticks=range(8, 12))
    names = [weakness.what for weakness in lost_health.weaknesses([log], ("left", "shoot"))]
    assert names == ["pressed shoot", "pressed nothing"]


def test_without_health_it_says_what_there_is():
    with pytest.raises(UserError, match=r"tells no health of the player .*, only AMMO"):
        fed([{"AMMO": 1.0}], ("left", "shoot"))


def test_the_command_explains_fights_of_a_policy_that_sees_pictures_only(tmp_path):
    checkpoint = save_policy(tmp_path / "run", made_bundle())
    done = run(
        rollout.main, "--checkpoint", checkpoint, "--env", "boss_arena:BossArena-v0",
        "--episodes", "1", "--no-baselines", "--workers", "1", "--explain", tmp_path / "why",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "of a whole health in 1 fights" in done.out
    assert "% of the lost health" in done.out
    assert (tmp_path / "why" / "lost_health.png").is_file()
    (fight,) = json.loads((checkpoint / "fights.json").read_text())["fights"]
    assert "health" not in fight
