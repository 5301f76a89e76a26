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


class Cloth(NamedTuple):
    """A polygon of joints."""

    joints: tuple[int, ...]
    color: Color


class Body(NamedTuple):
    """A figure in the world, ready to be projected."""

    joints: Points
    """[J, 3]"""
    parts: tuple[Limb | Cloth, ...]
    """In any order; of parts equally far away, later ones cover earlier ones."""
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
SLUMP = Stance((0.7, -0.8, 0.85), (0.5, -0.8, -0.4), (0.5, 0.5, 0.6), 0.85, 0.9).vector()

# Key poses keep the weapon inside the picture and beside the body as the hero sees it.
RAISED = {
    "slash": Stance((0.0, -1.5, 2.5), (-0.2, -0.8, 0.6), (0.7, 0.4, 2.2), -0.1, 0.15, -0.5),
    "backslash": Stance((0.3, 0.9, 2.5), (-0.2, 0.85, 0.5), (-0.4, 0.8, 1.7), -0.1, 0.15, 0.5),
    "overhead": Stance((-0.2, -0.4, 3.4), (-0.5, -0.2, 0.5), (-0.2, 0.4, 3.4), -0.3),
    "thrust": Stance((-0.8, -1.1, 1.7), (1.0, -0.2, 0.05), (1.2, 0.7, 2.2), -0.1, 0.6, -0.6),
    "tail": Stance((0.6, -1.0, 1.7), (0.5, -0.8, 0.3), (0.5, 1.0, 1.7), 0.5, 0.5, 1.2, 0.4),
    "leap": Stance((-0.5, -1.0, 1.3), (-0.5, -0.8, 0.4), (-0.3, 1.2, 1.0), 0.6, 1.1),
    "throw": Stance((0.6, -0.9, 1.3), (0.3, -0.3, 0.9), (-0.4, 1.1, 3.3), -0.2, 0.0, 0.4),
    "jab": Stance((0.4, -0.9, 1.3), (0.2, -0.5, 0.8), (-0.1, 1.7, 2.1), -0.1, 0.4, 0.4),
    "hammer": Stance((-0.4, -0.5, 3.3), (-0.5, -0.5, 0.35), (-0.3, 0.2, 3.4), -0.4),
    "spin": Stance((-0.2, -1.6, 1.8), (-0.5, -0.85, 0.0), (0.6, 1.0, 1.8), 0.1, 0.45, -1.4),
    "backstep": Stance((0.5, -1.0, 1.6), (0.4, -0.4, 0.8), (0.5, 1.0, 1.6), 0.3, 0.6),
}
STRUCK = {
    "slash": Stance((1.0, 0.9, 1.5), (0.5, 0.85, -0.1), (-0.4, 0.9, 1.6), 0.5, 0.35, 0.7),
    "backslash": Stance((0.9, -1.3, 1.6), (0.45, -0.9, -0.1), (-0.2, 0.9, 1.7), 0.5, 0.35, -0.7),
    "overhead": Stance((1.2, -0.8, 1.1), (0.75, -0.55, -0.35), (1.0, -0.2, 1.2), 0.9, 0.6),
    "thrust": Stance((1.6, -0.5, 2.0), (1.0, -0.3, -0.1), (-0.6, 0.9, 1.8), 0.9, 0.45, 0.1),
    "tail": Stance((0.6, -1.0, 1.7), (0.5, -0.8, 0.3), (0.5, 1.0, 1.7), 0.6, 0.6, 2.8, 1.6),
    "leap": Stance((1.1, -0.7, 0.9), (0.7, -0.6, -0.4), (0.9, -0.1, 1.0), 0.9, 0.9),
    "throw": Stance((0.0, -1.0, 1.5), (0.2, -0.4, 0.9), (1.4, 0.5, 2.1), 0.6, 0.2, -0.5),
    "jab": Stance((-0.2, -1.0, 1.5), (0.0, -0.6, 0.8), (1.6, 0.5, 2.0), 0.7, 0.4, -0.3),
    "hammer": Stance((1.2, -0.7, 1.2), (0.8, -0.5, -0.25), (1.1, -0.2, 1.2), 1.0, 0.8),
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

BONE, HIDE, CLOTH, RAG = (186, 172, 150), (134, 124, 122), (84, 62, 66), (58, 42, 50)
HORN, FACE = (222, 208, 176), (70, 58, 54)
STEEL, WOOD, GOLD, WHITE = (196, 196, 204), (150, 118, 74), (255, 208, 96), (255, 248, 226)
GLOW = (176, 128, 56)
CLOAK, TUNIC, LEATHER, SKIN = (48, 72, 128), (78, 104, 160), (62, 52, 46), (196, 158, 128)
CLOAK_FOLD, HOOD = (36, 54, 100), (60, 86, 146)
GOLDEN_POSES = frozenset({"hammer", "spin"})
BLOWS = frozenset(POSES) - {"throw", "backstep"}
"""Poses whose active phase strikes with something that the boss holds, or its tail."""
LANDING = 0.75
"""Progress of a leap's active phase from which the weapon comes down."""
RAISED_SHARE = 0.35
"""How far a strike has come on its first tick: most strikes last only two."""


def boss_body(figure: Figure, second_phase: bool) -> Body:
    """The boss: horned, tailed, with a long staff, or a weapon of light in the second phase."""
    pose, progress = figure.pose, figure.progress
    golden = second_phase or pose in GOLDEN_POSES
    heavy = pose == "hammer" and figure.phase != "recovery"
    strikes = figure.phase == "active" and pose in BLOWS
    if pose == "leap":
        strikes = strikes and progress > LANDING
    trail = None
    if strikes:
        first = {"spin": progress - 0.2, "leap": LANDING}.get(pose, -RAISED_SHARE)
        past = [
            _boss_joints(_boss_stance(figure, step), figure)
            for step in np.linspace(first, progress, TRAIL_STEPS).tolist()
        ]
        ends = {"tail": (21, 23), "jab": (7, 9)}.get(pose, (5, 11))
        trail = _place(np.concatenate([points[list(ends)] for points in past]), figure)
    weapon = WHITE if strikes and pose not in ("tail", "jab") else GOLD if golden else WOOD
    light = pose in ("throw", "jab")
    dagger = WHITE if strikes and light else GOLD if light else STEEL
    parts: list[Limb | Cloth] = [
        Limb(20, 21, 0.20, HIDE),
        Limb(21, 22, 0.16, HIDE),
        Limb(22, 23, 0.13, WHITE if strikes and pose == "tail" else BONE),
        Limb(12, 13, 0.20, HIDE),
        Limb(13, 14, 0.15, CLOTH),
        Limb(15, 16, 0.20, HIDE),
        Limb(16, 17, 0.15, CLOTH),
        Cloth((3, 6, 24, 25, 26, 27, 28, 29), RAG),
        Cloth((12, 15, 16, 13), CLOTH),
        Limb(0, 1, 0.38, CLOTH),
        Limb(3, 6, 0.22, HIDE),
        Limb(6, 7, 0.15, HIDE),
        Limb(7, 8, 0.13, BONE),
        Limb(8, 9, 0.10 if light else 0.05, dagger),
        Limb(1, 2, 0.16, HIDE),
        Limb(2, 2, 0.26, BONE),
        Limb(30, 30, 0.17, FACE),
        Limb(2, 18, 0.08, HORN),
        Limb(2, 19, 0.10, HORN),
        Limb(3, 4, 0.15, HIDE),
        Limb(4, 5, 0.14, BONE),
        Limb(10, 11, 0.10 if golden else 0.07, weapon),
    ]
    if heavy:
        parts += [Limb(31, 11, 0.56, GLOW), Limb(31, 11, 0.42, weapon)]
    else:
        parts.append(Limb(11, 11, 0.24 if strikes else 0.14, weapon))
    if pose == "throw" and figure.phase == "windup":
        parts.append(Limb(8, 8, 0.36, GLOW))
    joints = _place(_boss_joints(_boss_stance(figure, progress), figure), figure)
    return Body(joints, tuple(parts), trail, GOLD if golden else WHITE)


def hero_body(figure: Figure) -> Body:
    """The hero: cloaked, with a straight sword."""
    if figure.pose == "roll":
        return _rolling(figure)
    trail = None
    if figure.phase == "active":
        steps = np.linspace(-HERO_RAISED_SHARE, figure.progress, TRAIL_STEPS).tolist()
        past = [_hero_joints(figure, step) for step in steps]
        trail = _place(np.concatenate([points[[5, 9]] for points in past]), figure)
    parts = (
        Limb(10, 11, 0.11, LEATHER),
        Limb(11, 12, 0.09, LEATHER),
        Limb(13, 14, 0.11, LEATHER),
        Limb(14, 15, 0.09, LEATHER),
        Limb(0, 1, 0.19, TUNIC),
        Limb(3, 6, 0.11, TUNIC),
        Limb(6, 7, 0.08, TUNIC),
        Limb(7, 8, 0.07, SKIN),
        Limb(3, 4, 0.08, TUNIC),
        Limb(4, 5, 0.07, SKIN),
        Limb(5, 9, 0.045, WHITE if trail is not None else STEEL),
        Cloth((3, 6, 17, 18, 16), CLOAK),
        Limb(1, 18, 0.02, CLOAK_FOLD),
        Limb(2, 2, 0.17, HOOD),
    )
    joints = _place(_hero_joints(figure, figure.progress), figure)
    return Body(joints, parts, trail, WHITE)


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
        if progress < LANDING:
            return raised + (AIRBORNE - raised) * min(progress * 3, 1.0)
        return AIRBORNE + (struck - AIRBORNE) * min((progress - LANDING) * 8, 1.0)
    stance = raised + (struck - raised) * min(RAISED_SHARE + progress, 1.0)
    if pose == "spin":
        # The weapon is before the boss as it first strikes, and again 14 of 16 ticks later.
        stance[11] = raised[11] + (0.6 + progress * 4 * 16 / 14) * math.pi
    return stance


def _boss_joints(stance: Points, figure: Figure) -> Points:
    """[32, 3] in body coordinates."""
    rx, ry, rz, wx, wy, wz, lx, ly, lz, lean, crouch, twist, tail = stance.tolist()
    swing = 0.35 * math.sin(figure.stride) if figure.pose == "walk" else 0.0
    hip, chest = 1.75 - 0.75 * crouch, 2.65 - 0.9 * crouch
    # A bent back lets the head hang.
    neck, head = 0.12 + 1.35 * lean, chest + 0.55 - 0.3 * max(lean, 0.0)
    shoulder, knee, bend = chest + 0.1, hip / 2 + 0.05, 0.2 + 0.3 * crouch
    long = (3.1 if figure.pose in GOLDEN_POSES else 2.5) / math.hypot(wx, wy, wz)
    wx, wy, wz = wx * long, wy * long, wz * long
    back, reach = math.pi + tail, 1.35 if figure.pose == "tail" else 1.0
    tx, ty = reach * math.cos(back), reach * math.sin(back)
    flutter = 0.1 * math.sin(2 * figure.stride) if figure.pose == "walk" else 0.0
    hem = -0.6 - flutter
    joints = np.array(
        [
            (0.0, 0.0, hip),
            (lean, 0.0, chest),
            (neck, 0.0, head),
            (lean, -0.6, shoulder),
            ((lean + rx) / 2 - 0.15, (ry - 0.6) / 2 - 0.2, (shoulder + rz) / 2 - 0.15),
            (rx, ry, rz),
            (lean, 0.6, shoulder),
            ((lean + lx) / 2 - 0.15, (ly + 0.6) / 2 + 0.2, (shoulder + lz) / 2 - 0.15),
            (lx, ly, lz),
            (lx + 0.55, ly - 0.05, lz + 0.1),
            (rx - 0.25 * wx, ry - 0.25 * wy, rz - 0.25 * wz),
            (rx + 0.75 * wx, ry + 0.75 * wy, rz + 0.75 * wz),
            (0.0, -0.25, hip),
            (bend - swing / 2, -0.35, knee),
            (-swing, -0.35, 0.1),
            (0.0, 0.25, hip),
            (bend + swing / 2, 0.35, knee),
            (swing, 0.35, 0.1),
            (neck - 0.1, -0.48, head + 0.38),
            (neck - 0.1, 0.40, head + 0.62),
            (-0.1, 0.0, hip),
            (0.7 * tx, 0.7 * ty, 0.8 * hip),
            (1.5 * tx, 1.5 * ty, 0.5 * hip),
            (2.2 * tx, 2.2 * ty, 0.8 * hip),
            (hem, 0.95, 0.35),
            (hem, 0.55, 0.75),
            (hem, 0.25, 0.3),
            (hem, -0.15, 0.7),
            (hem, -0.5, 0.3),
            (hem, -0.95, 0.5),
            (neck + 0.16, 0.0, head - 0.08),
            (rx + 0.55 * wx, ry + 0.55 * wy, rz + 0.55 * wz),
        ]
    )
    return joints @ _spin(twist).T


FALLEN = np.array([[1.0, 0.0, 0.0], [0.0, 0.1, -1.0], [0.0, 0.25, 0.1]])
"""Lays a standing body down."""

HERO_RAISED_SHARE = 0.4
HERO_REST = np.array([0.15, -0.36, 0.85, 0.35, -0.25, -0.75])
HERO_RAISED = np.array(
    [
        [-0.25, -0.55, 1.75, -0.4, -0.5, 0.75],
        [0.15, 0.55, 1.55, -0.3, 0.85, 0.4],
        [-0.1, -0.4, 1.9, -0.4, -0.45, 0.8],
    ]
)
HERO_STRUCK = np.array(
    [
        [0.55, 0.35, 1.1, 0.6, 0.8, -0.1],
        [0.5, -0.55, 1.1, 0.5, -0.85, -0.1],
        [0.7, 0.2, 0.95, 0.8, 0.5, -0.25],
    ]
)


def _hero_joints(figure: Figure, progress: float) -> Points:
    """[19, 3] in body coordinates."""
    arm, lean, crouch = HERO_REST, 0.05, 0.0
    if figure.pose == "attack":
        raised, struck = HERO_RAISED[figure.variant], HERO_STRUCK[figure.variant]
        if figure.phase == "windup":
            arm, lean = arm + (raised - arm) * progress, -0.08
        elif figure.phase == "active":
            arm, lean = raised + (struck - raised) * min(HERO_RAISED_SHARE + progress, 1.0), 0.3
        else:
            arm = struck + (HERO_REST - struck) * progress
            lean, crouch = 0.3 * (1 - progress), 0.2 * (1 - progress)
    elif figure.pose == "stagger":
        bend = math.sin(min(progress * 1.3, 1.0) * math.pi)
        arm, lean, crouch = np.array([-0.3, -0.7, 1.3, -0.5, -0.6, 0.2]), -0.5 * bend, 0.4 * bend
    walking = figure.pose == "walk"
    swing = 0.32 * math.sin(figure.stride) if walking else 0.0
    forward, side = math.cos(figure.lean), math.sin(figure.lean)
    if walking:
        lean += 0.12 * forward
    hip, chest = 0.92 - 0.6 * crouch, 1.36 - 0.9 * crouch
    blade = arm[3:] / np.linalg.norm(arm[3:])
    joints = np.empty((19, 3))
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
    behind = 0.2 + 0.2 * walking * max(forward, 0)
    joints[16] = -behind - flutter, -0.36, 0.45 - 0.2 * crouch
    joints[17] = -behind + flutter, 0.36, 0.45 - 0.2 * crouch
    joints[18] = -behind - 0.08, 0.0, 0.3 - 0.1 * crouch
    if figure.pose == "dead":
        # Fallen on the left side, across the view.
        joints = joints @ FALLEN.T + (0.0, 0.8, 0.2)
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
    parts = (
        Limb(0, 6, 0.16, LEATHER),
        Limb(0, 0, 0.42, CLOAK),
        Limb(2, 2, 0.22, LEATHER),
        Limb(1, 1, 0.2, TUNIC),
        Limb(4, 5, 0.035, STEEL),
    )
    return Body(_place(joints, figure), parts, None, WHITE)


def _spin(angle: float) -> Points:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _place(joints: Points, figure: Figure) -> Points:
    """From body to world coordinates."""
    return joints @ _spin(figure.yaw).T + (figure.x, figure.y, figure.z)
