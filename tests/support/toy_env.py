"""Small environments that recorder tests make by id, also in spawned workers."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS = ("left", "right", "hit")
STATE = ("hp", "animation", "tick")
ANIMATION = 180_032_304
"""Above 2**24, where float32 no longer holds every integer."""


class Expert:
    """Presses what its own random numbers and the observation say, and remembers what it saw."""

    def __init__(self, seed: int, least: float = 0.2):
        self._seed = seed
        self._least = least

    def reset(self) -> None:
        self._rng = np.random.default_rng(self._seed)

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        likely = self._least + 0.6 * (observation["frame"][0, 0, 0] > 128)
        return (self._rng.random(3) < likely).astype(np.int8)


class Toy(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Noise that depends on the seed and on every action; one frame buffer is used all along, and
    the first frame of an episode is black."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": 17}
    action_names = ACTIONS
    attribute_names = STATE
    color_order = "RGB"

    def __init__(self, width: int = 40, height: int = 30):
        self.action_space = spaces.MultiBinary(3)
        self.observation_space = spaces.Dict(
            {
                "frame": spaces.Box(0, 255, (height, width, 3), np.uint8),
                "hp": spaces.Box(0, 1e9, (), np.float32),
                "animation": spaces.Box(0, 2**31, (), np.int64),
                "tick": spaces.Box(0, 1e9, (), np.float32),
            }
        )
        self._frame = np.zeros((height, width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._tick, self._hp = 0, 100.0
        self._length = int(self.np_random.integers(10, 30))
        self._frame[:] = 0
        return self._observe(), {}

    def step(self, action: np.ndarray):
        time.sleep(float(os.environ.get("TOY_SECONDS_A_TICK", "0")))
        self._tick += 1
        self._hp -= float(action.sum()) * self.np_random.random()
        self._frame[:] = self.np_random.integers(0, 256, self._frame.shape, np.uint8)
        self._frame[0, 0] = 255 * action.astype(np.uint8)
        over = self._tick == self._length
        info = {
            "outcome": "won" if self._hp > 80 else "lost",
            "boss_health_removed": np.float32(0.5),
            "not_json": object(),
            "not_finite": float("nan"),
        }
        return self._observe(), 0.0, over, False, info

    def make_expert(self, seed: int) -> Expert:
        return Expert(seed)

    def _observe(self) -> dict[str, Any]:
        return {
            "frame": self._frame,
            "hp": np.array(self._hp, np.float32),
            "animation": np.array(ANIMATION + self._tick, np.int64),
            "tick": np.array(self._tick, np.float32),
        }


class Mute(Toy):
    """Has no expert."""

    make_expert = property()


class Live(Toy):
    """Goes on by itself, as far as it says."""

    is_real_time = True


class Long(Toy):
    """Longer than a shard of frames."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        result = super().reset(seed=seed)
        self._length = 515
        return result


class Crashing(Toy):
    """Raises in the middle of episodes whose length is a multiple of 3."""

    def step(self, action: np.ndarray):
        if self._length % 3 == 0 and self._tick == 5:
            raise ZeroDivisionError("the boss fell through the floor")
        return super().step(action)


class Lazy(Toy):
    """Rewards buttons that are left alone, and the more of them, the more is removed."""

    def step(self, action: np.ndarray):
        observation, _, over, truncated, info = super().step(action)
        left = 1 - float(action.mean())
        return observation, left, over, truncated, info | {"boss_health_removed": left}


class Killed(Toy):
    """Takes its whole process down, as running out of memory does."""

    def step(self, action: np.ndarray):
        os._exit(9)


class Accompanied(Toy):
    """A game in a process of its own, whose number it leaves in a folder."""

    def __init__(self, width: int = 40, height: int = 30):
        super().__init__(width, height)
        self._game = subprocess.Popen(["sleep", "600"])
        (Path(os.environ["TOY_GAMES"]) / str(self._game.pid)).touch()

    def close(self):
        self._game.kill()
        self._game.wait()


class Styled(Toy):
    """Its expert has styles of play."""

    styles: ClassVar[dict[str, Any]] = {
        "calm": ("take it easy", "stay calm", "no hurry"),
        "wild": ("go wild", "hit everything"),
        "idle": ("do nothing at first",),
    }

    def make_expert(self, seed: int, style: str = "calm") -> Expert:
        return Expert(seed, {"calm": 0.2, "wild": 0.4, "idle": 0.0}[style])


class Unspoken(Styled):
    """One of its styles has a text where a sequence of texts belongs."""

    styles: ClassVar[dict[str, Any]] = {"calm": ("take it easy",), "wild": "go wild"}


class Plain(gymnasium.Env[np.ndarray, np.ndarray]):
    """A bare image, and nothing else that the recorder could use."""

    def __init__(self):
        self.action_space = spaces.MultiBinary(2)
        self.observation_space = spaces.Box(0, 255, (60, 80, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return self._noise(), {}

    def step(self, action: np.ndarray):
        return self._noise(), 0.0, False, self.np_random.random() < 0.1, {}

    def _noise(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (60, 80, 3), np.uint8)


class Joystick(Plain):
    """Its actions are no buttons."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(4)


class Blind(Plain):
    """Its observations are no image."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)


class Misnamed(Toy):
    """Names fewer buttons than it has."""

    action_names = ACTIONS[:2]


class Only(Toy):
    """There is but one."""

    parallel = False


class Buffers(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Says nothing of itself: an image in BGR under another name, its variables in a vector."""

    def __init__(self, frame_skip: int = 1):
        self.action_space = spaces.MultiBinary(3)
        self.observation_space = spaces.Dict(
            {
                "screen": spaces.Box(0, 255, (60, 80, 3), np.uint8),
                "gamevariables": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )
        self.pressed: list[list[int]] = []
        self.frame_skip = frame_skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.pressed.clear()
        return self._observe(), {}

    def step(self, action: np.ndarray):
        self.pressed.append(action.tolist())
        return self._observe(), 1.0, len(self.pressed) == 12, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        image = self.np_random.integers(0, 256, (60, 80, 3), np.uint8)
        return {"screen": image, "gamevariables": np.array([len(self.pressed), 7], np.float32)}


class Unmakeable(Toy):
    """Can't be built."""

    def __init__(self):
        raise RuntimeError("the game is not installed")


_CLASSES = (
    Toy,
    Mute,
    Live,
    Long,
    Crashing,
    Lazy,
    Killed,
    Styled,
    Unspoken,
    Plain,
    Joystick,
    Blind,
    Misnamed,
    Only,
    Buffers,
    Unmakeable,
    Accompanied,
)
for _class in _CLASSES:
    gymnasium.register(f"{_class.__name__}-v0", entry_point=f"{__name__}:{_class.__name__}")
