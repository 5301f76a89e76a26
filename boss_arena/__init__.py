"""A simulated boss fight as a Gymnasium environment: gymnasium.make("boss_arena:BossArena-v0")."""

import gymnasium

gymnasium.register("BossArena-v0", entry_point="boss_arena.env:BossArena")
