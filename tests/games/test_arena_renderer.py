"""The frames show what a player needs to see."""

import itertools
import math
import typing

import numpy as np
import pytest

from boss_arena.bodies import BLOWS, POSES, RAG
from boss_arena.renderer import Renderer
from boss_arena.scene import COURT_HALF, BossPose, Figure, HeroPose, Scene

SMALL = Renderer(128, 72)


def figure(pose="idle", x=0.0, y=0.0, yaw=0.0, phase="loop", progress=0.0, z=0.0):
    return Figure(x, y, z, yaw, pose, phase, progress, stride=0.5)


def scene(**changes):
    """The boss three metres before the hero, facing it."""
    plain = Scene(
        hero=figure(),
        boss=figure(x=3.0, yaw=math.pi),
        camera_yaw=0.0,
        locked=False,
        hero_health=1.0,
        hero_stamina=1.0,
        hero_focus=1.0,
        boss_health=1.0,
        second_phase=False,
        daggers=(),
        shockwaves=(),
    )
    return plain._replace(**changes)


def at_boss(pose, phase, progress, x=3.0, yaw=math.pi):
    return scene(boss=figure(pose, x=x, yaw=yaw, phase=phase, progress=progress))


WITHOUT_BOSS = scene(boss=figure(x=-15.0))


def silhouette(one):
    """Where the boss covers the background, [H, W]."""
    shown, plain = (SMALL.draw(s).astype(int) for s in (one, WITHOUT_BOSS))
    return (shown != plain).any(axis=-1)


def changed(one, other, renderer=SMALL):
    """Pixels that differ clearly between two scenes."""
    a, b = (renderer.draw(s).astype(int) for s in (one, other))
    return int((np.abs(a - b).max(axis=-1) > 24).sum())


@pytest.mark.parametrize(("width", "height"), [(64, 36), (128, 72), (257, 143), (512, 288)])
def test_any_size_and_always_the_same_pixels(width, height):
    frame = Renderer(width, height).draw(scene())
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    assert np.array_equal(frame, Renderer(width, height).draw(scene()))
    assert frame.std() > 10


@pytest.mark.parametrize("pose", [pose for pose in POSES if pose != "backstep"])
def test_wind_up_strike_and_recovery_look_different(pose):
    phases = {
        phase: scene(boss=figure(pose, x=3.0, yaw=math.pi, phase=phase, progress=progress))
        for phase, progress in (("windup", 0.9), ("active", 0.9), ("recovery", 0.3))
    }
    for one, other in itertools.combinations(phases.values(), 2):
        assert changed(one, other) > 60


@pytest.mark.parametrize("pose", POSES)
def test_how_far_a_wind_up_has_come_can_be_seen(pose):
    early, late = (
        scene(boss=figure(pose, x=3.0, yaw=math.pi, phase="windup", progress=progress))
        for progress in (0.2, 0.8)
    )
    assert changed(early, late) > 60


def test_attacks_are_told_apart_by_their_wind_up():
    raised = [
        scene(boss=figure(pose, x=3.0, yaw=math.pi, phase="windup", progress=0.9))
        for pose in POSES
        if pose != "backstep"
    ]
    for one, other in itertools.combinations(raised, 2):
        assert changed(one, other) > 40


def test_what_happens_shows():
    shown = {
        "the hero rolls": scene(hero=figure("roll", progress=0.4)),
        "the hero strikes": scene(hero=figure("attack", phase="active", progress=0.5)),
        "the boss is nearer": scene(boss=figure(x=1.5, yaw=math.pi)),
        "the boss is golden": scene(second_phase=True),
        "a dagger flies": scene(daggers=((1.5, 0.3, 1.3, math.pi),)),
        "a shockwave spreads": scene(shockwaves=((3.0, 0.0, 2.0, 0.7),)),
        "the camera turns": scene(camera_yaw=0.4),
        "the hero died": scene(hero=figure("dead")),
    }
    for name, other in shown.items():
        assert changed(scene(), other) > 8, name
    assert changed(scene(), scene(locked=True)) >= 3


@pytest.mark.parametrize("bar", ["hero_health", "hero_stamina", "hero_focus", "boss_health"])
def test_bars_shrink_in_proportion(bar):
    renderer = Renderer(256, 144)
    half, empty = (changed(scene(), scene(**{bar: share}), renderer) for share in (0.5, 0.0))
    assert empty == pytest.approx(2 * half, rel=0.1)
    assert half > 40


def test_nothing_breaks_wherever_fighters_and_camera_are():
    renderer = Renderer(64, 36)
    edge = COURT_HALF - 1
    for x, y, yaw in itertools.product((-edge, 0, edge), (-edge, edge), np.linspace(-3, 3, 5)):
        for boss_x in (-edge, x - 1.0, x + 0.5):
            hero, boss = figure(x=x, y=y, yaw=yaw), figure(x=boss_x, y=y, yaw=-yaw, z=2.0)
            renderer.draw(scene(hero=hero, boss=boss, camera_yaw=float(yaw)))
    for pose in typing.get_args(BossPose):
        renderer.draw(scene(boss=figure(pose, x=2.0)))
    for pose in typing.get_args(HeroPose):
        renderer.draw(scene(hero=figure(pose)))


@pytest.mark.parametrize("pose", sorted(BLOWS - {"leap"}))
def test_a_strike_is_bright_from_its_first_tick(pose):
    raised, struck = (
        int((SMALL.draw(at_boss(pose, phase, progress)).min(axis=-1) > 200).sum())
        for phase, progress in (("windup", 0.9), ("active", 0.0))
    )
    assert struck > raised + 8


def test_a_leap_strikes_only_as_it_lands():
    bright = [
        int((SMALL.draw(at_boss("leap", "active", progress)).min(axis=-1) > 200).sum())
        for progress in (0.3, 0.9)
    ]
    assert bright[1] > bright[0] + 8


@pytest.mark.parametrize("pose", POSES)
def test_a_recovering_boss_hangs_low(pose):
    def top(one):
        return int(np.flatnonzero(silhouette(one).any(axis=1))[0])

    assert top(at_boss(pose, "recovery", 0.5)) > top(scene()) + 3


def test_a_nearer_boss_is_larger():
    sizes = [int(silhouette(scene(boss=figure(x=x, yaw=math.pi))).sum()) for x in (2, 5, 10, 17)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 20


def test_the_cloak_hides_a_weapon_held_before_a_boss_seen_from_behind():
    front, back = (at_boss("jab", "windup", 0.9, x=2.0, yaw=yaw) for yaw in (math.pi, 0.0))
    cloak = [int((SMALL.draw(s) == RAG).all(axis=-1).sum()) for s in (front, back)]
    assert cloak[1] > 2 * cloak[0]


def test_a_boss_partly_behind_the_camera_is_still_seen():
    beside = scene(boss=figure("idle", x=-6.3, yaw=math.pi))
    assert silhouette(beside).sum() > 200
    assert not silhouette(scene(boss=figure(x=-12.0))).any()
