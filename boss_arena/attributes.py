"""The buttons and the game state as the live game's client names them."""

ACTIONS = (
    "move_left",
    "lock_on",
    "dodge_roll/dash",
    "move_right",
    "attack",
    "move_back",
    "move_forward",
)

ATTRIBUTES = (
    "HeroHp",
    "HeroMaxHp",
    "HeroSp",
    "HeroMaxSp",
    "HeroFp",
    "HeroMaxFp",
    "HeroGlobalPosX",
    "HeroGlobalPosY",
    "HeroGlobalPosZ",
    "HeroAngle",
    "HeroAnimId",
    "NpcHp",
    "NpcMaxHp",
    "NpcId",
    "NpcGlobalPosX",
    "NpcGlobalPosY",
    "NpcGlobalPosZ",
    "NpcGlobalPosAngle",
    "NpcAnimId",
)

WHOLE = frozenset({"HeroAnimId", "NpcId", "NpcAnimId"})
"""Attributes that are exact integers; the others are float32."""

ORIGIN = (104.0, 512.0, 12.5)
"""Where the court's centre lies in the game's world. The vertical axis is Z."""

NPC_Y_OFFSET = -8.0
"""The game reports NPC positions with a constant offset in Y against the hero's."""

NPC_ID = 21300014

LARGEST = 1e5
"""Bound on every attribute that is no id."""
