"""What the rules know of the hero and of the boss, and how both look."""

import math

import numpy as np

from boss_arena import moves
from boss_arena.geometry import wrap
from boss_arena.moves import COMBO, MOVES, Move
from boss_arena.scene import Figure, Phase

HERO_MAX_HP, HERO_MAX_SP, HERO_MAX_FP = 1302.0, 118.0, 95.0
BOSS_MAX_HP = 4174.0

ROLL_TICKS, TIRED_ROLL_TICKS = 13, 18
STAGGER_TICKS, STAGGER_SAFE = 14, 9
ROAR_TICKS = 26

STAMINA_PAUSE = 8
"""Ticks after an effort in which no stamina comes back."""


class Hero:
    """The hero's state. `doing` is free, roll, attack, stagger or dead; `tick` counts within it."""

    def __init__(self, x: float, y: float, yaw: float):
        self.x, self.y, self.yaw = x, y, yaw
        self.hp, self.sp = HERO_MAX_HP, HERO_MAX_SP
        self.doing, self.tick = "free", 0
        self.combo = 0
        self.struck = False
        """Whether the blow in progress has hit."""
        self.roll_yaw = 0.0
        self.roll_way = 0.0
        self.roll_safe = 0
        self.roll_ticks = ROLL_TICKS
        self.rolled_ago = 1000
        self.spam = 0
        self.rest = 0
        self.walk: str | None = None
        self.walk_lean = 0.0
        self.dashing = False
        self.stride = 0.0

    @property
    def safe(self) -> bool:
        """Whether blows pass through."""
        if self.doing == "roll":
            return 1 <= self.tick <= self.roll_safe
        return self.doing == "dead" or (self.doing == "stagger" and self.tick < STAGGER_SAFE)

    def begin(self, doing: str) -> None:
        """Starts one of free, roll, attack, stagger and dead."""
        self.doing, self.tick = doing, 0

    def spend(self, stamina: float) -> None:
        """Takes stamina for an effort; it may be less than the effort costs."""
        self.sp = max(self.sp - stamina, 0.0)
        self.rest = STAMINA_PAUSE

    def animation(self) -> int:
        """Returns the animation id that the game would report."""
        if self.doing == "roll":
            if self.roll_ticks == TIRED_ROLL_TICKS:
                return moves.HERO_TIRED_ROLL
            return moves.HERO_ROLL if self.roll_way > 0 else moves.HERO_BACKSTEP
        if self.doing == "attack":
            return moves.HERO_ATTACKS[self.combo]
        if self.doing == "stagger":
            return moves.HERO_STAGGER
        if self.doing == "dead":
            return moves.HERO_DEAD
        if self.walk is None:
            return moves.HERO_IDLE
        return moves.HERO_DASH if self.dashing else moves.HERO_WALK[self.walk]

    def figure(self) -> Figure:
        """Returns the hero as the renderer draws it."""
        pose, phase, progress, lean = self.doing, "loop", 0.0, 0.0
        if self.doing == "free":
            pose = "idle" if self.walk is None else "walk"
            lean = self.walk_lean
        elif self.doing == "roll":
            progress = self.tick / self.roll_ticks
            lean = wrap(self.roll_yaw - self.yaw) if self.roll_way > 0 else math.pi
        elif self.doing == "attack":
            blow = COMBO[self.combo]
            phase, progress = _phase(
                self.tick, blow.windup, blow.windup, blow.active, blow.recovery
            )
        elif self.doing == "stagger":
            progress = self.tick / STAGGER_TICKS
        return Figure(
            self.x, self.y, 0.0, self.yaw, pose, phase, progress, self.stride, self.combo, lean
        )


class Boss:
    """The boss's state. With no `move` it waits, walking or strafing, for `wait` more ticks."""

    def __init__(self, x: float, y: float, yaw: float):
        self.x, self.y, self.z, self.yaw = x, y, 0.0, yaw
        self.hp = BOSS_MAX_HP
        self.move: Move | None = None
        self.tick = 0
        self.wait = 8
        self.strafe = 0
        self.walking = False
        self.hit = False
        """Whether the strike in progress has hit."""
        self.takeoff = (0.0, 0.0, 0.0, 0.0)
        """Where a leap began and where it ends."""
        self.second_phase = False
        self.roar = 0
        self.stride = 0.0
        self.last = ""

    def choose(self, distance: float, rng: np.random.Generator) -> Move:
        """Draws the next move, of those for a hero at this distance in metres."""
        fits = [
            move
            for move in MOVES.values()
            if move.distance[0] <= distance <= move.distance[1]
            and (move.name != self.last or move.dagger)
        ]
        weights = np.array([move.weights[self.second_phase] for move in fits])
        return fits[int(rng.choice(len(fits), p=weights / weights.sum()))]

    def start(self, move: Move) -> None:
        """Begins a move."""
        self.move, self.tick, self.hit, self.last = move, 0, False, move.name

    def point(self, move: Move) -> tuple[float, float]:
        """Returns where a shockwave begins: under a leap, at the end of a hammer."""
        far = 0.0 if move.flight else 0.6 * move.reach
        return self.x + far * math.cos(self.yaw), self.y + far * math.sin(self.yaw)

    def fly(self, move: Move, tick: int, distance: float, yaw: float) -> None:
        """Moves on in a leap.

        Args:
            move: the leap.
            tick: ticks since its take-off.
            distance: metres to the hero.
            yaw: direction of the hero.
        """
        if tick == 0:
            short = max(distance - 1.5, 0.0)
            self.yaw = yaw
            end = self.x + short * math.cos(yaw), self.y + short * math.sin(yaw)
            self.takeoff = (self.x, self.y, *end)
        share = tick / move.flight
        x0, y0, x1, y1 = self.takeoff
        self.x, self.y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
        self.z = 4 * 2.6 * share * (1 - share)

    def animation(self) -> int:
        """Returns the animation id that the game would report."""
        if self.hp <= 0:
            return moves.BOSS_DEAD
        if self.roar:
            return moves.BOSS_ROAR
        if self.move is not None:
            return self.move.animation
        if self.walking:
            return moves.BOSS_WALK
        return moves.BOSS_STRAFE if self.strafe else moves.BOSS_IDLE

    def figure(self) -> Figure:
        """Returns the boss as the renderer draws it."""
        move = self.move
        pose, phase, progress = "idle", "loop", 0.0
        if self.hp <= 0:
            pose = "dead"
        elif self.roar:
            pose, progress = "roar", 1 - self.roar / ROAR_TICKS
        elif move is not None:
            pose = move.pose
            rise = move.ramp + move.hold
            active = move.flight + move.active + move.second_hit
            phase, progress = _phase(self.tick, move.ramp, rise, active, move.recovery)
        elif self.walking or self.strafe:
            pose = "walk"
        return Figure(self.x, self.y, self.z, self.yaw, pose, phase, progress, self.stride)


def _phase(tick: int, ramp: int, rise: int, active: int, recovery: int) -> tuple[Phase, float]:
    """Phase and progress of an attack: rises over `ramp`, strikes from `rise` on."""
    if tick < rise:
        return "windup", min(tick, ramp - 1) / ramp
    if tick < rise + active:
        return "active", (tick - rise) / active
    return "recovery", min((tick - rise - active) / recovery, 1.0)
