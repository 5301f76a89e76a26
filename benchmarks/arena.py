"""How fast the arena runs on one core, and how hard its fight is.

    uv run python benchmarks/arena.py [--fights 100]

Prints two tables and writes them to benchmarks/results/arena.json.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

ENV = "boss_arena:BossArena-v0"
SIZES = ((128, 72), (256, 144), (512, 288))
RESULTS = Path(__file__).parent / "results" / "arena.json"
LEFT, LOCK, DODGE, RIGHT, ATTACK, BACK, FORWARD = range(7)

T = TypeVar("T")
Policy = Callable[[dict[str, Any], int], np.ndarray]


def _buttons(*pressed: int) -> np.ndarray:
    action = np.zeros(7, np.int8)
    action[list(pressed)] = 1
    return action


def _held(*keys: int) -> Policy:
    action = _buttons(*keys)
    return lambda observation, tick: action


def _tapped(key: int, *held: int) -> Policy:
    down, up = _buttons(key, *held), _buttons(*held)
    return lambda observation, tick: down if tick % 2 == 0 else up


def _random(env: gymnasium.Env, seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    return lambda observation, tick: rng.integers(0, 2, 7, np.int8)


def _expert(env: Any, seed: int) -> Policy:
    expert = env.unwrapped.make_expert(seed)
    expert.reset()
    return lambda observation, tick: expert.act(observation)


POLICIES: dict[str, Callable[[Any, int], Policy]] = {
    "expert": _expert,
    "random": _random,
    "nothing": lambda env, seed: _held(),
    "attack held": lambda env, seed: _held(ATTACK),
    "attack tapped": lambda env, seed: _tapped(ATTACK),
    # lock_on is a toggle: held from the first tick on, it locks once.
    "walk in locked, attack held": lambda env, seed: _held(ATTACK, FORWARD, LOCK),
    "walk in locked, attack tapped": lambda env, seed: _tapped(ATTACK, FORWARD, LOCK),
    "roll held": lambda env, seed: _held(DODGE),
    "roll tapped": lambda env, seed: _tapped(DODGE),
    "walk in locked, roll tapped": lambda env, seed: _tapped(DODGE, FORWARD, LOCK),
}


def fight(env: gymnasium.Env, policy: Policy, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Plays one fight. Returns the last `info` and the actions [N, 7]."""
    observation, info = env.reset(seed=seed)
    actions = []
    while not info["outcome"]:
        action = policy(observation, len(actions))
        actions.append(np.array(action))
        observation, _, _, _, info = env.step(action)
    return info, np.stack(actions)


def _track(steps: Sequence[T], name: str, console: Console) -> Iterable[T]:
    if not console.is_terminal:
        console.print(f"{name} ...")
        return steps
    return track(steps, name, console=console, transient=True)


def difficulty(fights: int, console: Console) -> dict[str, Any]:
    """Every policy over the seeds 0 to fights - 1, without drawing."""
    env = gymnasium.make(ENV, render_frames=False)
    names: tuple[str, ...] = env.unwrapped.action_names  # type: ignore[attr-defined]
    results = {}
    for name, make in POLICIES.items():
        runs = [fight(env, make(env, seed), seed) for seed in _track(range(fights), name, console)]
        infos = [info for info, _ in runs]
        removed = [info["boss_health_removed"] for info in infos]
        seconds = [info["seconds"] for info in infos]
        actions = np.concatenate([actions for _, actions in runs])
        results[name] = {
            "fights": fights,
            "won": sum(info["outcome"] == "won" for info in infos),
            "timeouts": sum(info["outcome"] == "timeout" for info in infos),
            "boss_health_removed": round(statistics.mean(removed), 4),
            "seconds_median": round(statistics.median(seconds), 1),
            "seconds_min": round(min(seconds), 1),
            "seconds_max": round(max(seconds), 1),
            "pressed": dict(zip(names, actions.mean(0).round(4).tolist(), strict=True)),
        }
    return results


def speed(repeats: int, console: Console) -> dict[str, Any]:
    """Ticks a second of `step` alone, on one core, over a fight that the expert played before."""
    cv2.setNumThreads(1)
    plain = gymnasium.make(ENV, render_frames=False)
    played = [fight(plain, _expert(plain, seed), seed)[1] for seed in range(3)]
    cases: list[tuple[str, dict[str, Any]]] = [("simulation only", {"render_frames": False})]
    cases += [(f"{height}x{width}", {"width": width, "height": height}) for width, height in SIZES]
    results = {}
    for name, options in _track(cases, "speed", console):
        env = gymnasium.make(ENV, **options)
        rates = [_rate(env, played) for _ in range(repeats)]
        results[name] = {
            "ticks_per_second_median": round(statistics.median(rates)),
            "ticks_per_second": [round(rate) for rate in rates],
        }
    return results


def _rate(env: gymnasium.Env, played: list[np.ndarray]) -> float:
    took = 0.0
    for seed, actions in enumerate(played):
        env.reset(seed=seed)
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        took += time.perf_counter() - start
    return sum(map(len, played)) / took


def main(fights: int = 100, repeats: int = 5) -> None:
    """Measures the arena.

    Args:
        fights: fights of every policy.
        repeats: repetitions of every timing; the median is reported.
    """
    console = Console()
    rates = speed(repeats, console)
    table = Table(title="Ticks a second on one core, simulation included")
    for column in ("frame (H x W)", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column.startswith("frame") else "right")
    for name, rate in rates.items():
        low, high = min(rate["ticks_per_second"]), max(rate["ticks_per_second"])
        table.add_row(name, f"{rate['ticks_per_second_median']:,}", f"{low:,}", f"{high:,}")
    console.print(table)

    outcomes = difficulty(fights, console)
    table = Table(title=f"{fights} fights each")
    for column in ("policy", "won", "boss health removed", "seconds (median)", "dodge", "attack"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, result in outcomes.items():
        table.add_row(
            name,
            str(result["won"]),
            f"{100 * result['boss_health_removed']:.1f} %",
            f"{result['seconds_median']:.1f}",
            f"{100 * result['pressed']['dodge_roll/dash']:.1f} %",
            f"{100 * result['pressed']['attack']:.1f} %",
        )
    console.print(table)

    machine = {
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"machine": machine, "speed": rates, "fights": outcomes}, indent=2) + "\n"
    )
    console.print(f"Written to {RESULTS}")


if __name__ == "__main__":
    tyro.cli(main)
