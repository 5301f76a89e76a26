"""A scripted player that sees the game's attributes as people do: what the boss does and where it
is comes late, its direction with an error; where the hero is it knows."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from boss_arena import moves
from boss_arena.attributes import NPC_Y_OFFSET
from boss_arena.fight import JOG, OUT_OF_SIGHT
from boss_arena.geometry import wrap
from boss_arena.moves import MOVES, Move
from boss_arena.styles import BALANCED, Style

BY_ANIMATION = {move.animation: move for move in MOVES.values()}

REACTION_TICKS = (3, 5)
"""Fewest and most ticks (59 ms) before the expert reacts: the 150 to 300 ms that people need."""

HOLD_TICKS = (2, 4)
"""How long a tapped key stays down."""

ROLL_LEAD = 3
"""Ticks before a blow at which the roll is tapped."""

ROLLS = (moves.HERO_ROLL, moves.HERO_TIRED_ROLL, moves.HERO_BACKSTEP)

PACE = JOG / moves.TICKS_PER_SECOND
"""Metres that a tick brings the hero closer."""

DAGGER_TICKS = 0.85
"""Ticks that a thrown dagger needs for a metre, with the hero walking into it."""

AIM_DRIFT, AIM_NOISE = 0.9, 0.04
"""The eye's error in direction (radians) drifts: what is kept of it each tick, and what is new."""


class Look(NamedTuple):
    """What the player saw of the boss."""

    animation: int
    x: float
    y: float
    height: float
    """Above the hero."""
    yaw: float


class Seen(NamedTuple):
    """What the player makes of it now, knowing where the hero is."""

    distance: float
    facing: float
    """Angle between where the hero looks and where the boss is."""
    boss_facing: float
    """Angle between where the boss looks and where the hero is."""


class Expert:
    """Approaches locked on, rolls through blows, strikes in their recovery, rests when tired."""

    def __init__(self, seed: int, style: Style = BALANCED):
        """The seed decides reaction time and every slip of the hand."""
        self._seed = seed
        self._style = style
        self.reset()

    def reset(self) -> None:
        """Forgets the fight so far. To be called before each fight."""
        self._rng = np.random.default_rng(self._seed)
        low, high = REACTION_TICKS
        self._delay = int(self._rng.integers(low, high + 1))
        self._memory: deque[Look] = deque(maxlen=self._delay + 1)
        self._aim = 0.0
        self._animation, self._elapsed = 0, 0
        self._held: dict[str, int] = dict.fromkeys(("dodge", "attack", "lock"), 0)
        self._rest = 0
        """Ticks for which no new key is tapped."""
        self._answered = False
        """Whether the blow in progress has had its roll."""
        self._slip = 0
        self._dagger = -1.0
        """Ticks until a thrown dagger arrives; negative while there is none."""
        self._roll_side = 1
        self._strafe, self._strafe_left = 0, 0
        self._unlocked = self._delay
        """Ticks until the lock-on that is off is tapped; 0 while it is on."""
        self._astray = 0
        """Ticks for which the hero has not faced the boss."""

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Buttons, int8 [7], for the 19 attributes of an observation. `frame` is not looked at."""
        self._memory.append(_look(observation))
        late = self._memory[0]
        self._aim = AIM_DRIFT * self._aim + float(self._rng.normal(scale=AIM_NOISE))
        now = _see(observation, late, self._aim)
        self._track(late)
        self._rest = max(self._rest - 1, 0)
        hero, stamina = int(observation["HeroAnimId"]), float(observation["HeroSp"])
        move = BY_ANIMATION.get(late.animation)
        keys = {"left": False, "right": False, "back": False, "forward": False}
        rolling = self._evade(move, now, hero, stamina)
        if rolling:
            side = "left" if self._roll_side > 0 else "right"
            for key in self._style.roll:
                keys[side if key == "side" else key] = True
        else:
            self._walk(keys, now, move, stamina)
            self._strike(hero, move, now, stamina)
        self._lock(late, now, hero)
        pressed = {name: left > 0 for name, left in self._held.items()}
        self._held = {name: max(left - 1, 0) for name, left in self._held.items()}
        return np.array(
            [
                keys["left"],
                pressed["lock"],
                pressed["dodge"],
                keys["right"],
                pressed["attack"],
                keys["back"],
                keys["forward"],
            ],
            np.int8,
        )

    def _track(self, late: Look) -> None:
        """Counts how long the boss's animation has lasted; the eye is `delay` ticks behind."""
        if late.animation != self._animation:
            self._animation, self._elapsed = late.animation, self._delay
            self._answered = False
            self._slip = int(self._rng.choice((-1, 0, 0, 0, 1)))
            self._roll_side = 1 if self._rng.random() < 0.5 else -1
        else:
            self._elapsed += 1

    def _evade(self, move: Move | None, now: Seen, hero: int, stamina: float) -> bool:
        """Whether a roll is on, tapping one when a blow is due."""
        due = self._due(move, now)
        if self._held["dodge"]:
            return True
        if hero not in ROLLS:
            # The press came while the hero could not roll, or the roll is over.
            self._answered = False
        if due is None or self._answered or stamina <= 1 or due > ROLL_LEAD + self._slip:
            return False
        self._tap("dodge")
        self._answered = True
        return True

    def _due(self, move: Move | None, now: Seen) -> float | None:
        """Ticks until a blow lands here; None if none is coming."""
        self._dagger -= 1
        if move is not None and move.dagger and self._elapsed <= move.windup:
            self._dagger = move.windup - self._elapsed + now.distance * DAGGER_TICKS
        if self._dagger > -1:
            return self._dagger
        if move is None or not move.reach:
            return None
        reach = move.reach + max(move.lunge, 0.0) + 0.5
        if move.flight:
            reach = move.ring + 6
        elif move.ring:
            reach = max(reach, move.ring + 3)
        in_arc = abs(now.boss_facing) < move.half_arc + 0.5
        if now.distance > reach or not in_arc:
            return None
        due = move.windup - self._elapsed
        if move.second_hit and due == -3:
            self._answered = False
        if move.second_hit and due < -2:
            due += move.second_hit
        return due if due > -2 else None

    def _walk(self, keys: dict[str, bool], now: Seen, move: Move | None, stamina: float) -> None:
        style = self._style
        winding = move is not None and self._elapsed < move.windup
        opening = self._opening(move)
        in_time = opening > style.least_opening + (now.distance - style.strike_range) / PACE
        nearest, farthest = (0.0, style.close) if in_time else (style.nearest, style.farthest)
        if now.distance > farthest and not (winding and now.distance < 4 and stamina < 40):
            keys["forward"] = True
        tired = stamina < style.tired and now.distance < 4.5 and not opening
        if tired or now.distance < nearest:
            keys["forward"], keys["back"] = False, True
        if now.distance < 4 and winding:
            if self._strafe_left == 0:
                self._strafe = int(self._rng.choice((-1, 1)))
                self._strafe_left = int(self._rng.integers(12, 30))
            keys["left" if self._strafe > 0 else "right"] = True
        self._strafe_left = max(self._strafe_left - 1, 0)

    def _opening(self, move: Move | None) -> float:
        """Ticks left in which the boss can't answer, or is trusted not to."""
        if self._animation == moves.BOSS_ROAR:
            return 10
        if move is None:
            return max(self._style.idle_opening - self._elapsed, 0)
        over = move.windup + move.active + move.second_hit
        if self._elapsed < over:
            return 0
        return over + move.recovery - self._elapsed

    def _strike(self, hero: int, move: Move | None, now: Seen, stamina: float) -> None:
        style = self._style
        in_reach = now.distance < style.strike_range and abs(now.facing) < 0.7
        if not in_reach or stamina < style.least_stamina or self._rest or self._held["attack"]:
            return
        if hero in moves.HERO_ATTACKS[1:]:
            return
        if self._opening(move) >= style.least_opening:
            self._tap("attack")
            self._rest = style.rest

    def _lock(self, late: Look, now: Seen, hero: int) -> None:
        """Taps lock-on at the start, after the boss leapt out of sight, and when it must be off."""
        if late.height > OUT_OF_SIGHT:
            self._unlocked = 1
        free = hero == moves.HERO_IDLE or hero in moves.HERO_WALK.values()
        self._astray = self._astray + 1 if free and abs(now.facing) > 0.3 else 0
        if self._astray > 6 + self._delay:
            self._unlocked, self._astray = 1, -15
        if self._unlocked and late.height < 0.5:
            self._unlocked -= 1
            if not self._unlocked:
                self._tap("lock")

    def _tap(self, key: str) -> None:
        low, high = HOLD_TICKS
        self._held[key] = int(self._rng.integers(low, high + 1))


def _look(observation: Mapping[str, Any]) -> Look:
    return Look(
        animation=int(observation["NpcAnimId"]),
        x=float(observation["NpcGlobalPosX"]),
        y=float(observation["NpcGlobalPosY"]) - NPC_Y_OFFSET,
        height=float(observation["NpcGlobalPosZ"]) - float(observation["HeroGlobalPosZ"]),
        yaw=float(observation["NpcGlobalPosAngle"]),
    )


def _see(observation: Mapping[str, Any], boss: Look, aim: float) -> Seen:
    dx = boss.x - float(observation["HeroGlobalPosX"])
    dy = boss.y - float(observation["HeroGlobalPosY"])
    bearing = math.atan2(dy, dx) + aim
    return Seen(
        distance=math.hypot(dx, dy),
        facing=wrap(bearing - float(observation["HeroAngle"])),
        boss_facing=wrap(bearing + math.pi - boss.yaw),
    )
