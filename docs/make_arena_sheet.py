"""Draws docs/arena.png: moments of an expert's fight. uv run python docs/make_arena_sheet.py"""

from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np

WIDTH, HEIGHT, COLUMNS, GAP = 256, 144, 3, 4
SEEDS = range(6)
TARGET = Path(__file__).parent / "arena.png"


def moments() -> list[np.ndarray]:
    """One frame for each kind of moment, taken from whichever fight shows it first."""
    wanted: dict[str, np.ndarray | None] = dict.fromkeys(
        (
            "approach",
            "slash windup",
            "roll through",
            "boss recovers",
            "hero strikes",
            "thrust windup",
            "leap windup",
            "throw active",
            "roar",
            "hammer windup",
            "hammer active",
            "won",
        )
    )
    env: Any = gymnasium.make("boss_arena:BossArena-v0", width=WIDTH, height=HEIGHT).unwrapped
    for seed in SEEDS:
        expert = env.make_expert(seed)
        expert.reset()
        observation, info = env.reset(seed=seed)
        while not info["outcome"]:
            for name in _names(env._fight):
                if wanted.get(name, observation["frame"]) is None:
                    wanted[name] = observation["frame"]
            observation, _, _, _, info = env.step(expert.act(observation))
        if info["outcome"] == "won" and wanted["won"] is None:
            wanted["won"] = observation["frame"]
    missing = [name for name, frame in wanted.items() if frame is None]
    if missing:
        raise SystemExit(f"no fight of seeds 0 to {SEEDS[-1]} shows: {', '.join(missing)}")
    return [frame for frame in wanted.values() if frame is not None]


def _names(fight: Any) -> list[str]:
    scene = fight.scene()
    hero, boss, names = scene.hero, scene.boss, []
    distance = fight.distance()
    if fight.tick == 12:
        names.append("approach")
    if boss.phase == "windup" and boss.progress > 0.7 and (distance < 6 or boss.pose == "leap"):
        names.append(f"{boss.pose} windup")
    if boss.phase == "active":
        names.append(f"{boss.pose} active")
        if hero.pose == "roll" and distance < 4:
            names.append("roll through")
    if boss.phase == "recovery" and boss.progress > 0.3 and distance < 3 and hero.pose == "walk":
        names.append("boss recovers")
    if hero.pose == "attack" and hero.phase == "active" and boss.phase == "recovery":
        names.append("hero strikes")
    if boss.pose == "roar" and boss.progress > 0.4:
        names.append("roar")
    return names


def main() -> None:
    frames = moments()
    rows = -(-len(frames) // COLUMNS)
    sheet = np.full((rows * (HEIGHT + GAP) - GAP, COLUMNS * (WIDTH + GAP) - GAP, 3), 255, np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // COLUMNS * (HEIGHT + GAP), index % COLUMNS * (WIDTH + GAP)
        sheet[top : top + HEIGHT, left : left + WIDTH] = frame
    cv2.imwrite(str(TARGET), sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{TARGET.name}: {len(frames)} frames, {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
