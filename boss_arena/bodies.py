"""The articulated hero and boss: from a figure's pose to limbs in the world.

Body coordinates are metres: x forward, y left, z up, the origin between the feet.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boss_arena.scene import Figure

Points = NDArray[np.float64]
Color = tuple[int, int, int]

CHEST = 1
"""The joint of the chest, in both bodies."""

TRAIL_STEPS = 5
"""Positions of the weapon that a strike's trail is drawn through."""


class Limb(NamedTuple):
    """A capsule between two joints."""

    start: int
    end: int
    radius: float
    color: Color


class Body(NamedTuple):
    """A figure in the world, ready to be projected."""

    joints: Points
    """[J, 3]"""
    limbs: tuple[Limb, ...]
    """In the order they are drawn."""
    cloth: tuple[tuple[tuple[int, ...], Color], ...]
    """Polygons of joints, drawn before the limbs."""
    trail: Points | None
    """[2 n, 3]: hilts and tips of the weapon over the last moments of a strike."""
    trail_color: Color


class Stance(NamedTuple):
    """A boss's key pose."""

    right_hand: tuple[float, float, float]
    weapon: tuple[float, float, float]
    """Direction from the right hand to the weapon's tip."""
    left_hand: tuple[float, float, float]
    lean: float = 0.1
    """How far the chest is before the hips."""
    crouch: float = 0.0
    twist: float = 0.0
    """Turn of the body against the feet."""
    tail: float = 0.0
    """Swing of the tail to the left, in radians."""

    def vector(self) -> Points:
        return np.array([*self.right_hand, *self.weapon, *self.left_hand, *self[3:]])


IDLE = Stance((0.5, -0.8, 1.5), (0.25, -0.1, 0.95), (0.4, 0.75, 1.5)).vector()
SLUMP = Stance((0.9, -0.5, 0.75), (0.75, -0.3, -0.6), (0.5, 0.5, 0.8), 0.75, 0.55).vector()

RAISED = {
    "slash": Stance((-0.4, -1.5, 2.4), (-0.55, -0.8, 0.35), (0.7, 0.4, 2.2), -0.1, 0.15, -0.7),
    "backslash": Stance((0.1, 1.3, 2.3), (-0.45, 0.85, 0.35), (-0.4, 0.8, 1.7), -0.1, 0.15, 0.7),
    "overhead": Stance((-0.3, -0.45, 3.7), (-0.7, 0.0, 0.75), (-0.2, 0.4, 3.6), -0.3),
    "thrust": Stance((-0.9, -1.0, 1.9), (1.0, 0.1, 0.05), (1.0, 0.6, 2.2), -0.3, 0.4, -0.5),
    "tail": Stance((0.6, -1.0, 1.7), (0.5, -0.8, 0.3), (0.5, 1.0, 1.7), 0.5, 0.5, 1.2, -1.4),
    "leap": Stance((-0.5, -1.0, 1.6), (-0.6, -0.5, 0.6), (-0.3, 1.0, 1.2), 0.6, 1.0),
    "throw": Stance((0.6, -0.9, 1.3), (0.3, -0.3, 0.9), (-0.6, 1.0, 3.4), -0.2, 0.0, 0.5),
    "jab": Stance((0.4, -0.9, 1.3), (0.2, -0.5, 0.8), (-0.7, 1.2, 2.0), -0.1, 0.4, 0.6),
    "hammer": Stance((-0.5, -0.4, 3.8), (-0.85, 0.0, 0.5), (-0.5, 0.3, 3.8), -0.4),
    "spin": Stance((-0.2, -1.6, 1.8), (-0.5, -0.85, 0.0), (0.6, 1.0, 1.8), 0.1, 0.45, -1.4),
    "backstep": Stance((0.5, -1.0, 1.6), (0.4, -0.4, 0.8), (0.5, 1.0, 1.6), 0.3, 0.6),
}
STRUCK = {
    "slash": Stance((1.0, 0.9, 1.5), (0.5, 0.85, -0.1), (-0.4, 0.9, 1.6), 0.5, 0.35, 0.7),
    "backslash": Stance((0.9, -1.3, 1.6), (0.45, -0.9, -0.1), (-0.2, 0.9, 1.7), 0.5, 0.35, -0.7),
    "overhead": Stance((1.3, -0.2, 1.1), (0.95, 0.0, -0.35), (1.1, 0.2, 1.2), 0.9, 0.6),
    "thrust": Stance((1.7, -0.2, 1.9), (1.0, 0.0, -0.05), (-0.6, 0.8, 1.8), 0.9, 0.45, 0.5),
    "tail": Stance((0.6, -1.0, 1.7), (0.5, -0.8, 0.3), (0.5, 1.0, 1.7), 0.6, 0.6, -1.4, 2.2),
    "leap": Stance((1.2, -0.2, 0.9), (0.85, 0.0, -0.5), (0.9, 0.3, 1.0), 0.9, 0.9),
    "throw": Stance((0.0, -1.0, 1.5), (0.2, -0.4, 0.9), (1.4, 0.1, 2.1), 0.6, 0.2, -0.5),
    "jab": Stance((-0.2, -1.0, 1.5), (0.0, -0.6, 0.8), (1.6, 0.0, 2.0), 0.7, 0.4, -0.5),
    "hammer": Stance((1.4, -0.2, 0.9), (0.95, 0.0, -0.25), (1.2, 0.2, 0.9), 1.0, 0.8),
    "spin": Stance((0.6, -1.6, 1.7), (0.4, -0.9, -0.05), (0.4, 1.1, 1.8), 0.3, 0.5, -1.4),
    "backstep": Stance((0.3, -1.2, 1.9), (0.2, -0.6, 0.8), (0.3, 1.2, 1.9), -0.6, 0.3),
}
AIRBORNE = Stance((-0.3, -0.4, 3.6), (-0.6, 0.0, 0.8), (-0.2, 0.4, 3.5), -0.2, 0.1).vector()
STILL = {
    "roar": Stance((0.2, -1.5, 2.9), (0.2, -0.7, 0.7), (0.2, 1.5, 2.9), -0.5, 0.2).vector(),
    "stagger": Stance((-0.2, -1.2, 1.9), (-0.4, -0.6, 0.5), (-0.2, 1.2, 1.8), -0.5, 0.4).vector(),
    "dead": Stance((0.8, -0.7, 0.3), (0.5, -0.8, -0.1), (0.9, 0.6, 0.3), 1.3, 1.5).vector(),
}
POSES = {name: (RAISED[name].vector(), STRUCK[name].vector()) for name in RAISED}

BONE, HIDE, CLOTH, RAG = (186, 172, 150), (134, 124, 122), (84, 62, 66), (66, 46, 52)
HORN, FACE = (222, 208, 176), (70, 58, 54)
STEEL, WOOD, GOLD, WHITE = (196, 196, 204), (150, 118, 74), (255, 208, 96), (250, 240, 214)
CLOAK, TUNIC, LEATHER, SKIN = (48, 72, 128), (78, 104, 160), (62, 52, 46), (196, 158, 128)
GOLDEN_POSES = frozenset({"hammer", "spin"})


def boss_body(figure: Figure, second_phase: bool) -> Body:
    """The boss: horned, tailed, with a long staff, or a weapon of light in the second phase."""
    stance = _boss_stance(figure, figure.progress)
    golden = second_phase or figure.pose in GOLDEN_POSES
    heavy = figure.pose == "hammer" and figure.phase != "recovery"
    joints = [_boss_joints(stance, figure)]
    trail = None
    if figure.phase == "active" and figure.pose not in ("throw", "backstep"):
        steps = np.linspace(max(figure.progress - 0.6, 0.0), figure.progress, TRAIL_STEPS)
        past = [_boss_joints(_boss_stance(figure, step), figure) for step in steps]
        ends = {"tail": (21, 23), "jab": (8, 9)}.get(figure.pose, (5, 11))
        trail = _place(np.concatenate([points[list(ends)] for points in past]), figure)
    weapon = GOLD if golden else WOOD
    limbs = (
        Limb(20, 21, 0.20, HIDE),
        Limb(21, 22, 0.14, HIDE),
        Limb(22, 23, 0.09, BONE),
        Limb(12, 13, 0.20, HIDE),
        Limb(13, 14, 0.15, CLOTH),
        Limb(15, 16, 0.20, HIDE),
        Limb(16, 17, 0.15, CLOTH),
        Limb(0, 1, 0.38, CLOTH),
        Limb(3, 6, 0.22, HIDE),
        Limb(6, 7, 0.13, HIDE),
        Limb(7, 8, 0.12, BONE),
        Limb(8, 9, 0.05, GOLD if figure.pose in ("throw", "jab") else STEEL),
        Limb(1, 2, 0.16, HIDE),
        Limb(2, 2, 0.26, BONE),
        Limb(26, 26, 0.17, FACE),
        Limb(2, 18, 0.05, HORN),
        Limb(2, 19, 0.07, HORN),
        Limb(3, 4, 0.14, HIDE),
        Limb(4, 5, 0.13, BONE),
        Limb(10, 11, 0.10 if golden else 0.06, weapon),
        Limb(11, 11, 0.42 if heavy else 0.14, weapon),
    )
    cloth = (((3, 6, 25, 24), RAG),)
    color = GOLD if golden else WHITE
    return Body(_place(joints[0], figure), limbs, cloth, trail, color)


def hero_body(figure: Figure) -> Body:
    """The hero: cloaked, with a straight sword."""
    if figure.pose == "roll":
        return _rolling(figure)
    joints = _hero_joints(figure, figure.progress)
    trail = None
    if figure.phase == "active":
        steps = np.linspace(max(figure.progress - 0.7, 0.0), figure.progress + 0.3, TRAIL_STEPS)
        past = [_hero_joints(figure, step) for step in steps]
        trail = _place(np.concatenate([points[[5, 9]] for points in past]), figure)
    limbs = (
        Limb(10, 11, 0.10, LEATHER),
        Limb(11, 12, 0.08, LEATHER),
        Limb(13, 14, 0.10, LEATHER),
        Limb(14, 15, 0.08, LEATHER),
        Limb(0, 1, 0.20, TUNIC),
        Limb(3, 6, 0.10, TUNIC),
        Limb(6, 7, 0.07, TUNIC),
        Limb(7, 8, 0.06, SKIN),
        Limb(3, 4, 0.07, TUNIC),
        Limb(4, 5, 0.06, SKIN),
        Limb(5, 9, 0.035, STEEL),
        Limb(2, 2, 0.15, CLOAK),
    )
    cloth = (((3, 6, 17, 16), CLOAK),)
    return Body(_place(joints, figure), limbs, cloth, trail, WHITE)


def _boss_stance(figure: Figure, progress: float) -> Points:
    if figure.pose in STILL:
        return STILL[figure.pose]
    if figure.pose not in POSES:
        return IDLE
    raised, struck = POSES[figure.pose]
    if figure.phase == "windup":
        return IDLE + (raised - IDLE) * math.sin(progress * math.pi / 2)
    if figure.phase == "active":
        return _striking(figure.pose, raised, struck, progress)
    down = struck + (SLUMP - struck) * min(progress * 3, 1.0)
    return down + (IDLE - down) * max(progress * 3 - 2, 0.0)


def _striking(pose: str, raised: Points, struck: Points, progress: float) -> Points:
    if pose == "leap":
        if progress < 0.75:
            return raised + (AIRBORNE - raised) * min(progress * 3, 1.0)
        return AIRBORNE + (struck - AIRBORNE) * min((progress - 0.75) * 8, 1.0)
    stance = raised + (struck - raised) * min(0.35 + progress, 1.0)
    if pose == "spin":
        stance[11] = raised[11] + progress * 4 * math.pi
    return stance


def _boss_joints(stance: Points, figure: Figure) -> Points:
    """[27, 3] in body coordinates."""
    right, weapon, left = stance[:3], stance[3:6], stance[6:9]
    lean, crouch, twist, tail = stance[9:]
    swing = 0.35 * math.sin(figure.stride) if figure.pose == "walk" else 0.0
    hip, chest = 1.75 - 0.75 * crouch, 2.65 - 0.9 * crouch
    long = 3.1 if figure.pose in GOLDEN_POSES else 2.5
    weapon = weapon / np.linalg.norm(weapon)
    joints = np.empty((27, 3))
    joints[0] = 0.0, 0.0, hip
    joints[1] = lean, 0.0, chest
    joints[2] = lean * 1.35 + 0.12, 0.0, chest + 0.55
    joints[3] = lean, -0.6, chest + 0.1
    joints[6] = lean, 0.6, chest + 0.1
    joints[5], joints[8] = right, left
    joints[4] = (joints[3] + right) / 2 + (-0.15, -0.2, -0.15)
    joints[7] = (joints[6] + left) / 2 + (-0.15, 0.2, -0.15)
    joints[9] = left[0] + 0.55, left[1] - 0.05, left[2] + 0.1
    joints[10] = right - 0.25 * long * weapon
    joints[11] = right + 0.75 * long * weapon
    joints[12] = 0.0, -0.25, hip
    joints[14] = -swing, -0.35, 0.1
    joints[15] = 0.0, 0.25, hip
    joints[17] = swing, 0.35, 0.1
    joints[13] = (joints[12] + joints[14]) / 2 + (0.2 + 0.3 * crouch, -0.05, 0)
    joints[16] = (joints[15] + joints[17]) / 2 + (0.2 + 0.3 * crouch, 0.05, 0)
    joints[18] = joints[2] + (-0.05, -0.42, 0.12)
    joints[19] = joints[2] + (-0.15, 0.3, 0.42)
    back = math.pi + tail
    joints[20] = -0.1, 0.0, hip
    for joint, reach, height in ((21, 0.7, 0.8), (22, 1.5, 0.5), (23, 2.2, 0.7)):
        joints[joint] = reach * math.cos(back), reach * math.sin(back), height * hip
    joints[26] = joints[2] + (0.16, 0.0, -0.06)
    joints[24] = -0.55, -0.65, 0.55
    joints[25] = -0.55, 0.65, 0.55
    return joints @ _spin(twist).T


HERO_REST = np.array([0.15, -0.36, 0.85, 0.35, -0.25, -0.75])
HERO_RAISED = np.array(
    [
        [-0.25, -0.55, 1.75, -0.4, -0.5, 0.75],
        [0.15, 0.55, 1.55, -0.3, 0.85, 0.4],
        [-0.1, -0.15, 2.0, -0.5, 0.0, 0.85],
    ]
)
HERO_STRUCK = np.array(
    [
        [0.55, 0.35, 1.1, 0.6, 0.8, -0.1],
        [0.5, -0.55, 1.1, 0.5, -0.85, -0.1],
        [0.75, -0.05, 0.9, 0.95, 0.0, -0.3],
    ]
)


def _hero_joints(figure: Figure, progress: float) -> Points:
    """[18, 3] in body coordinates."""
    arm, lean, crouch = HERO_REST, 0.05, 0.0
    if figure.pose == "attack":
        raised, struck = HERO_RAISED[figure.variant], HERO_STRUCK[figure.variant]
        if figure.phase == "windup":
            arm, lean = arm + (raised - arm) * progress, -0.08
        elif figure.phase == "active":
            arm, lean = raised + (struck - raised) * min(0.4 + progress, 1.0), 0.3
        else:
            arm = struck + (HERO_REST - struck) * progress
            lean, crouch = 0.3 * (1 - progress), 0.2 * (1 - progress)
    elif figure.pose == "stagger":
        bend = math.sin(min(progress * 1.3, 1.0) * math.pi)
        arm, lean, crouch = np.array([-0.3, -0.7, 1.3, -0.5, -0.6, 0.2]), -0.5 * bend, 0.4 * bend
    elif figure.pose == "dead":
        lean, crouch = 1.2, 1.0
    walking = figure.pose == "walk"
    swing = 0.32 * math.sin(figure.stride) if walking else 0.0
    forward, side = math.cos(figure.lean), math.sin(figure.lean)
    if walking:
        lean += 0.12 * forward
    hip, chest = 0.92 - 0.6 * crouch, 1.36 - 0.9 * crouch
    blade = arm[3:] / np.linalg.norm(arm[3:])
    joints = np.empty((18, 3))
    joints[0] = 0.0, 0.0, hip
    joints[1] = lean, 0.08 * side * walking, chest
    joints[2] = lean * 1.4 + 0.02, 0.12 * side * walking, chest + 0.3
    joints[3] = lean, -0.22, chest + 0.06
    joints[6] = lean, 0.22, chest + 0.06
    joints[5] = arm[:3] - (0, 0, 0.8 * crouch)
    joints[4] = (joints[3] + joints[5]) / 2 + (-0.05, -0.1, -0.05)
    joints[8] = 0.12 - swing * 0.6, 0.36, 0.9 - 0.7 * crouch
    joints[7] = (joints[6] + joints[8]) / 2 + (-0.08, 0.08, 0)
    joints[9] = joints[5] + 0.95 * blade
    for hip_joint, sign in ((10, -1), (13, 1)):
        step = sign * swing
        joints[hip_joint] = 0.0, 0.1 * sign, hip
        joints[hip_joint + 2] = step * forward, 0.12 * sign + step * side, 0.05
        joints[hip_joint + 1] = (joints[hip_joint] + joints[hip_joint + 2]) / 2 + (0.1, 0, 0)
    flutter = 0.06 * math.sin(2 * figure.stride) if walking else 0.0
    joints[16] = -0.2 - flutter - 0.2 * walking * max(forward, 0), -0.3, 0.4
    joints[17] = -0.2 + flutter - 0.2 * walking * max(forward, 0), 0.3, 0.4
    return joints


def _rolling(figure: Figure) -> Body:
    """A tucked ball that turns over, then rises."""
    rise = max(figure.progress - 0.7, 0.0) / 0.3
    turn = figure.progress * 2.2 * math.pi
    height = 0.42 + 0.3 * rise
    ahead = np.array([math.cos(figure.lean), math.sin(figure.lean), 0.0])
    spoke = ahead * math.cos(turn) + np.array([0, 0, -1.0]) * math.sin(turn)
    centre = np.array([0, 0, height])
    side = np.array([-ahead[1], ahead[0], 0.0])
    joints = np.stack(
        [
            centre,
            centre + 0.3 * spoke,
            centre - 0.3 * spoke,
            centre + 0.25 * spoke + 0.15 * side,
            centre - 0.45 * spoke + 0.2 * side,
            centre - 0.8 * spoke + 0.25 * side,
            (0.0, 0.0, 0.08),
        ]
    )
    limbs = (
        Limb(0, 6, 0.16, LEATHER),
        Limb(0, 0, 0.42, CLOAK),
        Limb(2, 2, 0.22, LEATHER),
        Limb(1, 1, 0.2, TUNIC),
        Limb(4, 5, 0.035, STEEL),
    )
    return Body(_place(joints, figure), limbs, (), None, WHITE)


def _spin(angle: float) -> Points:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _place(joints: Points, figure: Figure) -> Points:
    """From body to world coordinates."""
    return joints @ _spin(figure.yaw).T + (figure.x, figure.y, figure.z)
