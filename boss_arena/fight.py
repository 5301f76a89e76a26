"""The rules of the fight, without pixels. One `Fight` is one fight; nothing is shared or global."""

import math
from typing import NamedTuple

import numpy as np

from boss_arena import moves
from boss_arena.fighters import (
    BOSS_MAX_HP,
    HERO_MAX_HP,
    HERO_MAX_SP,
    ROAR_TICKS,
    ROLL_TICKS,
    STAGGER_TICKS,
    TIRED_ROLL_TICKS,
    Boss,
    Hero,
)
from boss_arena.geometry import inside, side, turn, wrap
from boss_arena.missiles import Dagger, Ring
from boss_arena.moves import COMBO, MOVES, TICKS_PER_SECOND, Move
from boss_arena.scene import Scene

DT = 1 / TICKS_PER_SECOND
MAX_TICKS = 90 * TICKS_PER_SECOND

SECOND_PHASE = 0.5

JOG, STRAFE, DASH = 4.8, 3.2, 6.4  # metres a second
HERO_TURN, BOSS_TURN = 9.0, 3.2  # radians a second
BUFFER_TICKS = 4
"""Ticks for which a press is remembered while the hero can't act on it."""

ROLL_MOVING, ROLL_LENGTH = 10, 3.8
ROLL_SAFE = 6
"""Invulnerable ticks of a roll, from its second tick on."""
ROLL_SPAM_TICKS, ROLL_SPAM_LOSS = 8, 2
"""A roll that begins within so many ticks of the last one loses so many invulnerable ticks, which
adds up from roll to roll."""
ROLL_COST, ATTACK_COST, DASH_COST = 16.0, 17.0, 14.0 * DT
STAMINA_PER_TICK = 45.0 * DT

SWORD_REACH, SWORD_HALF_ARC = 2.9, math.radians(60)
LOCK_RANGE = 22.0
OUT_OF_SIGHT = 1.5
"""Height above the ground at which the boss leaves the picture, and the lock is lost."""
BODY_GAP = 1.3
"""Fighters don't come closer than this."""


class Buttons(NamedTuple):
    """The action space, in its order."""

    move_left: bool
    lock_on: bool
    dodge: bool
    move_right: bool
    attack: bool
    move_back: bool
    move_forward: bool


class Fight:
    """Hero against boss, one tick at a time."""

    def __init__(self, seed: int):
        """The seed decides where both start and all that the boss will choose."""
        self._rng = np.random.default_rng(seed)
        bearing = self._rng.uniform(-math.pi, math.pi)
        distance = self._rng.uniform(9, 12)
        x, y = self._rng.uniform(-4, 4, size=2)
        self.boss = Boss(x, y, wrap(bearing + math.pi))
        look = wrap(bearing + self._rng.uniform(-0.5, 0.5))
        self.hero = Hero(x - distance * math.cos(bearing), y - distance * math.sin(bearing), look)
        self.camera_yaw = look
        self.locked = False
        self.tick = 0
        self.daggers: list[Dagger] = []
        self.rings: list[Ring] = []
        self._before = Buttons(*[False] * 7)
        self._wanted = ""
        self._wanted_left = 0

    @property
    def outcome(self) -> str:
        """Empty while the fight goes on, then won, lost or timeout."""
        if self.boss.hp <= 0:
            return "won"
        if self.hero.hp <= 0:
            return "lost"
        return "timeout" if self.tick >= MAX_TICKS else ""

    def distance(self) -> float:
        return math.hypot(self.boss.x - self.hero.x, self.boss.y - self.hero.y)

    def bearing(self) -> float:
        """Direction from the hero to the boss."""
        return math.atan2(self.boss.y - self.hero.y, self.boss.x - self.hero.x)

    def step(self, buttons: Buttons) -> None:
        """Advances by one tick."""
        self.tick += 1
        self._camera(buttons)
        self._remember(buttons)
        self._hero(buttons)
        self._boss()
        self._missiles()
        self._separate()
        self._before = buttons

    def _camera(self, buttons: Buttons) -> None:
        if buttons.lock_on and not self._before.lock_on:
            self.locked = not self.locked and self.distance() < LOCK_RANGE
        if self.boss.z > OUT_OF_SIGHT or self.distance() >= LOCK_RANGE:
            self.locked = False
        if self.locked:
            self.camera_yaw = turn(self.camera_yaw, self.bearing(), 6.0 * DT)

    def _remember(self, buttons: Buttons) -> None:
        if buttons.dodge and not self._before.dodge:
            self._wanted, self._wanted_left = "dodge", BUFFER_TICKS
        elif buttons.attack and not self._before.attack:
            self._wanted, self._wanted_left = "attack", BUFFER_TICKS
        elif self._wanted_left:
            self._wanted_left -= 1
        if not self._wanted_left:
            self._wanted = ""

    def _hero(self, buttons: Buttons) -> None:
        hero = self.hero
        hero.tick += 1
        hero.rolled_ago += 1
        hero.rest = max(hero.rest - 1, 0)
        way = self._way(buttons)
        if hero.doing == "roll":
            self._roll()
        elif hero.doing == "attack":
            self._attack(way)
        elif hero.doing == "stagger" and hero.tick >= STAGGER_TICKS:
            hero.begin("free")
        if hero.doing == "free":
            self._free(buttons, way)
        if hero.rest == 0 and hero.doing in ("free", "stagger"):
            hero.sp = min(hero.sp + STAMINA_PER_TICK, HERO_MAX_SP)

    def _way(self, buttons: Buttons) -> float | None:
        """Direction asked for by the movement keys, relative to the camera; None without one."""
        ahead = buttons.move_forward - buttons.move_back
        left = buttons.move_left - buttons.move_right
        return math.atan2(left, ahead) if ahead or left else None

    def _free(self, buttons: Buttons, way: float | None) -> None:
        hero = self.hero
        hero.walk = None
        hero.dashing = False
        if self._wanted == "dodge" and self._start_roll(way):
            return
        if self._wanted == "attack" and self._start_attack(0):
            return
        if self.locked:
            hero.yaw = turn(hero.yaw, self.bearing(), HERO_TURN * DT)
        if way is None:
            return
        yaw = self.camera_yaw + way
        hero.dashing = buttons.dodge and hero.rolled_ago > 2 and hero.sp > 0
        speed = JOG if abs(way) < 1 else STRAFE
        if hero.dashing:
            speed = DASH
            hero.spend(DASH_COST)
        if not self.locked:
            hero.yaw = turn(hero.yaw, yaw, HERO_TURN * DT)
            speed = max(speed, JOG)
        self._move_hero(yaw, speed * DT)
        hero.stride += speed * DT * 2.2
        hero.walk_lean = wrap(yaw - hero.yaw)
        hero.walk = side(hero.walk_lean)

    def _start_roll(self, way: float | None) -> bool:
        hero = self.hero
        if hero.sp <= 0:
            return False
        hero.spam = hero.spam + 1 if hero.rolled_ago < ROLL_SPAM_TICKS else 0
        tired = hero.sp < ROLL_COST
        hero.roll_ticks = TIRED_ROLL_TICKS if tired else ROLL_TICKS
        hero.roll_safe = 0 if tired else max(ROLL_SAFE - ROLL_SPAM_LOSS * hero.spam, 0)
        hero.roll_yaw = hero.yaw if way is None else self.camera_yaw + way
        hero.roll_way = -1.8 if way is None else ROLL_LENGTH
        if not self.locked and way is not None:
            hero.yaw = wrap(hero.roll_yaw)
        hero.spend(ROLL_COST)
        self._wanted_left = 0
        hero.begin("roll")
        return True

    def _roll(self) -> None:
        hero = self.hero
        if hero.tick <= ROLL_MOVING:
            self._move_hero(hero.roll_yaw, hero.roll_way / ROLL_MOVING)
        if hero.tick >= hero.roll_ticks:
            hero.rolled_ago = 0
            hero.begin("free")

    def _start_attack(self, combo: int) -> bool:
        hero = self.hero
        if hero.sp <= 0:
            return False
        if self.locked:
            hero.yaw = turn(hero.yaw, self.bearing(), 0.6)
        hero.combo, hero.struck = combo, False
        hero.spend(ATTACK_COST)
        self._wanted_left = 0
        hero.begin("attack")
        return True

    def _attack(self, way: float | None) -> None:
        hero, blow = self.hero, COMBO[self.hero.combo]
        ended = hero.tick - blow.windup - blow.active
        if hero.tick <= blow.windup:
            self._move_hero(hero.yaw, 0.5 / blow.windup)
        elif ended <= 0 and not hero.struck and self._sword_hits():
            hero.struck = True
            self._wound_boss(blow.damage)
        if ended >= blow.chain_from:
            if self._wanted == "dodge" and self._start_roll(way):
                return
            following = hero.combo + 1
            if self._wanted == "attack" and following < len(COMBO):
                self._start_attack(following)
                return
        if ended >= blow.recovery:
            hero.begin("free")

    def _sword_hits(self) -> bool:
        off = abs(wrap(self.bearing() - self.hero.yaw))
        return self.distance() < SWORD_REACH and off < SWORD_HALF_ARC and self.boss.z < 1.0

    def _wound_boss(self, damage: float) -> None:
        boss = self.boss
        boss.hp = max(boss.hp - damage, 0.0)
        if boss.hp <= SECOND_PHASE * BOSS_MAX_HP and not boss.second_phase:
            boss.second_phase = True
            boss.roar = ROAR_TICKS
            boss.move, boss.z = None, 0.0

    def _wound_hero(self, damage: float, yaw: float) -> None:
        hero = self.hero
        hero.hp = max(hero.hp - damage, 0.0)
        hero.begin("stagger" if hero.hp > 0 else "dead")
        self._move_hero(yaw, 0.9)

    def _boss(self) -> None:
        boss = self.boss
        if boss.hp <= 0 or self.hero.hp <= 0:
            return
        boss.tick += 1
        if boss.roar:
            boss.roar -= 1
            if not boss.roar:
                boss.wait = 2
            return
        if boss.move is None:
            self._boss_waits()
        else:
            self._boss_attacks(boss.move)

    def _boss_waits(self) -> None:
        boss, distance = self.boss, self.distance()
        towards = wrap(self.bearing() + math.pi)
        boss.yaw = turn(boss.yaw, towards, BOSS_TURN * DT)
        boss.wait -= 1
        boss.walking = distance > 3.0
        if boss.walking:
            self._move_boss(towards, 3.2 * DT)
            boss.stride += 3.2 * DT * 1.4
        elif boss.strafe:
            self._move_boss(towards + math.pi / 2 * boss.strafe, 1.2 * DT)
            boss.stride += 1.2 * DT * 1.4
        if boss.wait > 0 or abs(wrap(towards - boss.yaw)) > 0.9:
            return
        if distance <= 4.5 or self._rng.random() < 0.15:
            boss.start(boss.choose(min(distance, 20.0), self._rng))

    def _boss_attacks(self, move: Move) -> None:
        boss = self.boss
        rise = move.ramp + move.hold
        strike = boss.tick - move.windup
        if boss.tick <= move.turning * rise:
            boss.yaw = turn(boss.yaw, wrap(self.bearing() + math.pi), BOSS_TURN * DT)
        if move.flight and rise <= boss.tick <= move.windup:
            boss.fly(move, boss.tick - rise, self.distance(), wrap(self.bearing() + math.pi))
        elif move.lunge and -3 <= strike < move.active:
            gap = self.distance() - BODY_GAP - 0.2
            step = move.lunge / (move.active + 3)
            self._move_boss(boss.yaw, min(step, max(gap, 0.0)) if step > 0 else step)
        self._strike(move, strike)
        if strike == move.active + move.second_hit:
            self._chain(move)
        recovery = move.recovery * (0.8 if boss.second_phase else 1.0)
        if boss.move is move and strike >= move.active + move.second_hit + recovery:
            boss.move = None
            low, high = (2, 7) if boss.second_phase else (3, 11)
            boss.wait = int(self._rng.integers(low, high))
            boss.strafe = int(self._rng.integers(-1, 2))

    def _strike(self, move: Move, strike: int) -> None:
        boss = self.boss
        if move.second_hit and strike == move.second_hit:
            boss.hit = False
        swings = 0 <= strike < move.active or (
            move.second_hit and 0 <= strike - move.second_hit < move.active
        )
        if strike == 0 and move.dagger:
            self.daggers.append(Dagger(boss.x, boss.y, wrap(self.bearing() + math.pi), 26))
        if strike == 0 and move.ring:
            centre = boss.point(move)
            self.rings.append(Ring(*centre, 1.0, move.ring, 0.5 * move.damage))
        if swings and not boss.hit and move.reach and self._boss_hits(move):
            boss.hit = True
            if not self.hero.safe:
                self._wound_hero(move.damage, wrap(self.bearing() + math.pi))

    def _boss_hits(self, move: Move) -> bool:
        off = abs(wrap(self.bearing() + math.pi - self.boss.yaw))
        return self.distance() <= move.reach and off <= move.half_arc

    def _chain(self, move: Move) -> None:
        boss = self.boss
        draw = self._rng.random()
        near = self.distance() < 4.5
        if near and self.hero.doing == "roll" and not boss.hit and draw > 0.85:
            boss.start(MOVES[moves.PUNISH])
            return
        for chain in move.chains:
            if draw < chain.chance:
                if near or MOVES[chain.move].dagger or MOVES[chain.move].flight:
                    boss.start(MOVES[chain.move])
                return
            draw -= chain.chance

    def _missiles(self) -> None:
        hero = self.hero
        flying = []
        for dagger in self.daggers:
            if dagger.hits(hero.x, hero.y) and hero.hp > 0 and not hero.safe:
                self._wound_hero(MOVES["throw"].damage, dagger.yaw)
            elif dagger.left > 1:
                flying.append(dagger.moved())
        self.daggers = flying
        for ring in self.rings:
            if ring.reaches(hero.x, hero.y) and hero.hp > 0 and not hero.safe:
                self._wound_hero(ring.damage, math.atan2(hero.y - ring.y, hero.x - ring.x))
        grown = [ring.grown() for ring in self.rings]
        self.rings = [ring for ring in grown if ring.radius < ring.reach]

    def _separate(self) -> None:
        gap = self.distance()
        if 1e-6 < gap < BODY_GAP and self.boss.z < 1.0 and self.hero.doing != "roll":
            push = BODY_GAP - gap
            self._move_hero(self.bearing() + math.pi, push)

    def _move_hero(self, yaw: float, way: float) -> None:
        self.hero.x = inside(self.hero.x + way * math.cos(yaw))
        self.hero.y = inside(self.hero.y + way * math.sin(yaw))

    def _move_boss(self, yaw: float, way: float) -> None:
        self.boss.x = inside(self.boss.x + way * math.cos(yaw))
        self.boss.y = inside(self.boss.y + way * math.sin(yaw))

    def scene(self) -> Scene:
        """The tick as the renderer draws it."""
        hero, boss = self.hero, self.boss
        return Scene(
            hero=hero.figure(),
            boss=boss.figure(),
            camera_yaw=self.camera_yaw,
            locked=self.locked,
            hero_health=hero.hp / HERO_MAX_HP,
            hero_stamina=hero.sp / HERO_MAX_SP,
            hero_focus=1.0,
            boss_health=boss.hp / BOSS_MAX_HP,
            second_phase=boss.second_phase,
            daggers=tuple((dagger.x, dagger.y, 1.3, dagger.yaw) for dagger in self.daggers),
            shockwaves=tuple(
                (ring.x, ring.y, ring.radius, 1 - ring.radius / ring.reach) for ring in self.rings
            ),
        )
