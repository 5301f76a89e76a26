"""Sessions of the simulated fight, recorded as a screen recorder and loggers of memory and input
would record them."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from gameplay_pipeline.plumbing.video import LOSSLESS, Encoding, VideoWriter

BUTTONS = {
    "move_left": [("key", "A")],
    "lock_on": [("key", "Q"), ("mouse", "MIDDLE")],
    "dodge_roll/dash": [("key", "SPACE")],
    "move_right": [("key", "D"), ("key", "RIGHT")],
    "attack": [("mouse", "LEFT")],
    "move_back": [("key", "S")],
    "move_forward": [("key", "W"), ("key", "UP")],
}

START_US = 1_700_000_000_000_000


class Truth(NamedTuple):
    """What was played."""

    times: np.ndarray
    """Microseconds [N]."""
    frames: np.ndarray
    """[N, H, W, 3]."""
    actions: np.ndarray
    """Bool [N, A]."""
    state: np.ndarray
    """Float64 [N, S]."""


def write_keybinds(path: Path) -> Path:
    """The key bindings of `BUTTONS`."""
    actions = {}
    for index, (name, buttons) in enumerate(BUTTONS.items()):
        found = {k: [n for kind, n in buttons if kind == k] or None for k in ("key", "mouse")}
        actions[name] = {"index": index, **found}
    path.write_text(json.dumps({"version": "2.0", "actions": actions}))
    return path


def play(seed: int, ticks: int, size: tuple[int, int]) -> Truth:
    """Has the expert play the beginning of a fight, at a rate that wavers a little."""
    env = gymnasium.make("boss_arena:BossArena-v0", width=size[0], height=size[1])
    game: Any = env.unwrapped
    rng = np.random.default_rng(seed)
    steps = rng.integers(57_000, 60_600, ticks - 1)
    times = START_US + np.concatenate([[0], np.cumsum(steps)])
    observation, _ = env.reset(seed=seed)
    expert = game.make_expert(seed)
    expert.reset()
    frames, actions, state = [], [], []
    for _ in range(ticks):
        action = np.asarray(expert.act(observation), bool)
        frames.append(observation["frame"].copy())
        state.append([observation[name] for name in game.attribute_names])
        actions.append(action)
        observation, _, terminated, truncated, _ = env.step(action.astype(np.int8))
        if terminated or truncated:
            break
    env.close()
    return Truth(
        times[: len(actions)],
        np.stack(frames),
        np.stack(actions),
        np.array(state, np.float64),
    )


def make_session(
    folder: Path,
    seed: int = 0,
    *,
    ticks: int = 60,
    size: tuple[int, int] = (96, 64),
    metadata: bool = True,
    video: Encoding = LOSSLESS,
) -> Truth:
    """Records a session into a folder.

    Events and samples are between the ticks: a press begins in the first half of its first tick and
    ends in the second half of its last; held keys repeat themselves; of two samples a tick only the
    nearer to the frame is the truth.
    """
    truth = play(seed, ticks, size)
    folder.mkdir(parents=True)
    with VideoWriter(folder / "video.mp4", size, 17, video) as writer:
        for frame, time in zip(truth.frames, truth.times, strict=True):
            writer.append(frame, int(time - START_US))
    if metadata:
        (folder / "metadata.json").write_text(json.dumps({"start_timestamp_us": START_US}))
    rng = np.random.default_rng(seed + 1)
    _write_memory(folder / "memory_data.csv", truth, rng, first_is_start=not metadata)
    _write_inputs(folder / "inputs.csv", truth, rng)
    return truth


def write_table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def _write_memory(
    path: Path, truth: Truth, rng: np.random.Generator, *, first_is_start: bool
) -> None:
    env: Any = gymnasium.make("boss_arena:BossArena-v0", width=64, height=36).unwrapped
    rows = []
    for tick, (time, values) in enumerate(zip(truth.times, truth.state, strict=True)):
        shift = 0 if first_is_start and tick == 0 else int(rng.integers(-3000, 3000))
        rows.append([time + shift, *(repr(float(value)) for value in values)])
        rows.append([time + 25_000, *(-1.0 for _ in values)])
    write_table(path, ["timestamp_us", *env.attribute_names], rows)


def _write_inputs(path: Path, truth: Truth, rng: np.random.Generator) -> None:
    rows = []
    ends = np.append(truth.times[1:], truth.times[-1] + 58_000)
    for column, buttons in enumerate(BUTTONS.values()):
        held: tuple[str, str] | None = None
        for tick, is_pressed in enumerate(truth.actions[:, column]):
            begin, length = int(truth.times[tick]), int(ends[tick] - truth.times[tick])
            if is_pressed and held is None:
                held = buttons[rng.integers(len(buttons))]
                time = begin + int(rng.integers(0, length // 2))
                rows.append([time, f"{held[0].upper()}_DOWN", held[1]])
            elif is_pressed and held is not None and held[0] == "key":
                rows.append([begin + length // 2, "KEY_DOWN", held[1].lower()])
            following = tick + 1 < len(truth.actions) and truth.actions[tick + 1, column]
            if held is not None and not following:
                time = begin + int(rng.integers(length // 2 + 1, length + 1))
                rows.append([time, f"{held[0].upper()}_UP", held[1]])
                held = None
    write_table(path, ["timestamp_us", "event_type", "key_or_button"], sorted(rows, key=_time))


def _time(row: list[Any]) -> int:
    return row[0]
