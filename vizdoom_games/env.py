"""ViZDoom's scenarios in the dress of the simulated fight: a frame, attributes, an expert.

They are played through ViZDoom's own Gymnasium ids.
"""

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from vizdoom_games.experts import Aimer, Ball, Dodger, Target, View

try:
    import vizdoom
    import vizdoom.gymnasium_wrapper  # registers its ids
except ImportError as error:
    raise ImportError(
        "ViZDoom is not installed; run the command with: uv run --group vizdoom ..."
    ) from error

TICRATE = 35
"""The game's own ticks a second; a tick of the environment is several."""


class Game(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A scenario of ViZDoom.

    Observations are a dict of `frame` [240, 320, 3] uint8 RGB and the scenario's variables, each a
    scalar. Actions are the scenario's buttons, as 0 or 1. The reward is the scenario's own. `info`
    holds `seconds`. ViZDoom has no picture of a game that is over and gives zeros; here the last
    observation is repeated instead.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium's own
    color_order = "RGB"
    resize_method = "none"

    scenario: ClassVar[str]
    """ViZDoom's own id."""
    action_names: ClassVar[tuple[str, ...]]
    attribute_names: ClassVar[tuple[str, ...]]
    timeout: ClassVar[int]
    """Tics after which the game is over."""

    def __init__(self, frame_skip: int = 2, render_mode: str | None = None):
        """Starts no game yet.

        Args:
            frame_skip: the game's tics, 35 a second, in a tick of this environment.
            render_mode: None or rgb_array.
        """
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": TICRATE / frame_skip}
        self._skip = frame_skip
        self._folder = tempfile.TemporaryDirectory(prefix="vizdoom_")
        env = gymnasium.make(
            self.scenario,
            disable_env_checker=True,
            frame_skip=frame_skip,
            labels_buffer_enabled=True,
            episode_timeout=self.timeout,
            # The engine writes its settings there; by default into the current folder.
            doom_config_path=str(Path(self._folder.name) / "vizdoom.ini"),
        )
        self._env: Any = env.unwrapped
        self.action_space = spaces.MultiBinary(len(self.action_names))
        entries: dict[str, spaces.Space[Any]] = {
            "frame": self._env.observation_space["screen"],
            **{name: spaces.Box(-1e9, 1e9, (), np.float32) for name in self.attribute_names},
        }
        self.observation_space = spaces.Dict(entries)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._tick = 0
        raw, _ = self._env.reset(seed=int(self.np_random.integers(2**31)))
        self._observation = self._observe(raw)
        return self._observation, self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        raw, reward, terminated, truncated, _ = self._env.step(np.asarray(action, np.int8))
        self._tick += 1
        if self._env.state is not None:
            self._observation = self._observe(raw)
        # ViZDoom calls a game that timed out terminated as well.
        terminated = terminated and not truncated
        return self._observation, float(reward), terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The current frame, where render_mode is rgb_array."""
        return self._observation["frame"] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._env.close()
        self._folder.cleanup()

    def view(self) -> View:
        """What the experts see: positions, which no policy is given."""
        game, state = self._env.game, self._env.state
        assert state is not None
        variables = vizdoom.GameVariable
        return View(
            tic=self._tick * self._skip,
            x=game.get_game_variable(variables.POSITION_X),
            y=game.get_game_variable(variables.POSITION_Y),
            speed=game.get_game_variable(variables.VELOCITY_Y),
            width=game.get_screen_width(),
            balls=[
                Ball(
                    label.object_id,
                    label.object_position_x,
                    label.object_position_y,
                    label.object_velocity_x,
                    label.object_velocity_y,
                )
                for label in state.labels
                if label.object_name == "DoomImpBall"
            ],
            targets=[
                Target(label.object_position_x, label.object_position_y, label.x, label.width)
                for label in state.labels
                if label.object_name in ("Demon", "MarineChainsawVzd")
            ],
        )

    def _observe(self, raw: dict[str, Any]) -> dict[str, Any]:
        scalars = {
            name: np.array(value, np.float32)
            for name, value in zip(self.attribute_names, raw["gamevariables"], strict=True)
        }
        return {"frame": raw["screen"], **scalars}

    def _info(self) -> dict[str, Any]:
        return {"seconds": self._tick * self._skip / TICRATE}


class TakeCover(Game):
    """Dodging: imps throw fireballs, and each tic alive counts 1. Over after 60 seconds."""

    scenario = "VizdoomTakeCover-MultiBinary-v1"
    action_names = ("move_left", "move_right")
    attribute_names = ("HEALTH",)
    timeout = 2100

    def make_expert(self, seed: int) -> Dodger:
        """A scripted player of this very game. It sees where the fireballs are and fly."""
        return Dodger(self.view)


class DefendTheCenter(Game):
    """Aiming: foes close in from all sides; a kill counts 1, death -1. 26 shots, 60 seconds."""

    scenario = "VizdoomDefendCenter-MultiBinary-v1"
    action_names = ("turn_left", "turn_right", "attack")
    attribute_names = ("AMMO2", "HEALTH")
    timeout = 2100

    def make_expert(self, seed: int) -> Aimer:
        """A scripted player of this very game. It sees where the foes are."""
        return Aimer(self.view)
