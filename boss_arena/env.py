"""The fight as a Gymnasium environment that looks like the live game's client."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from boss_arena import moves
from boss_arena.attributes import ACTIONS, ATTRIBUTES, LARGEST, NPC_ID, NPC_Y_OFFSET, ORIGIN, WHOLE
from boss_arena.expert import Expert
from boss_arena.fight import Buttons, Fight
from boss_arena.fighters import BOSS_MAX_HP, HERO_MAX_FP, HERO_MAX_HP, HERO_MAX_SP
from boss_arena.renderer import Renderer
from boss_arena.styles import STYLES

MIN_WIDTH, MIN_HEIGHT = 64, 36
PICTURE = 512, 288
"""Width and height at which people see what goes on."""


class BossArena(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One hero, one boss, up to 90 seconds.

    Observations are a dict of `frame` [H, W, 3] uint8 RGB and the 19 attributes, each a scalar.
    Actions are seven buttons, `ACTIONS`, as 0 or 1. The reward is the share of the boss's health
    removed in the tick minus the hero's share lost, plus 1 for a win and minus 1 for a death.
    `info` holds `boss_health_removed` (share of the whole), `outcome` ("" while the fight goes on,
    then "won", "lost" or "timeout") and `seconds`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it on the instance
        "render_modes": ["rgb_array"],
        "render_fps": moves.TICKS_PER_SECOND,
    }
    action_names = ACTIONS
    attribute_names = ATTRIBUTES
    color_order = "RGB"
    resize_method = "none"
    styles: Mapping[str, tuple[str, ...]] = {
        name: style.instructions for name, style in STYLES.items()
    }
    """The expert's styles of play, each with the instructions that ask for it."""

    def __init__(
        self,
        width: int = 512,
        height: int = 288,
        render_frames: bool = True,
        render_mode: str | None = None,
    ):
        """Makes an arena.

        Args:
            width: of the frame in pixels, at least 64.
            height: at least 36.
            render_frames: whether to draw; otherwise `frame` is black, which is faster.
            render_mode: None or rgb_array.

        Raises:
            ValueError: the frame is too small.
        """
        if width < MIN_WIDTH or height < MIN_HEIGHT:
            raise ValueError(
                f"frames are at least {MIN_WIDTH}x{MIN_HEIGHT} (width x height), "
                f"not {width}x{height}"
            )
        self.render_mode = render_mode
        self._shape = (height, width, 3)
        self._renderer = Renderer(width, height) if render_frames else None
        self._large_renderer: Renderer | None = None
        self._fight: Fight | None = None
        self.action_space = spaces.MultiBinary(len(ACTIONS))
        entries: dict[str, spaces.Space[Any]] = {"frame": spaces.Box(0, 255, self._shape, np.uint8)}
        for name in ATTRIBUTES:
            entries[name] = (
                spaces.Box(0, np.iinfo(np.int32).max, (), np.int64)
                if name in WHOLE
                else spaces.Box(-LARGEST, LARGEST, (), np.float32)
            )
        self.observation_space = spaces.Dict(entries)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._fight = Fight(int(self.np_random.integers(2**63)))
        return self._observe(self._fight), self._info(self._fight)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        fight = self._running()
        boss_hp, hero_hp = fight.boss.hp, fight.hero.hp
        fight.step(Buttons(*(bool(pressed) for pressed in action)))
        dealt = (boss_hp - fight.boss.hp) / BOSS_MAX_HP
        taken = (hero_hp - fight.hero.hp) / HERO_MAX_HP
        outcome = fight.outcome
        reward = dealt - taken + (outcome == "won") - (outcome == "lost")
        terminated = outcome in ("won", "lost")
        truncated = outcome == "timeout"
        return self._observe(fight), float(reward), terminated, truncated, self._info(fight)

    def render(self) -> np.ndarray | None:
        """The current frame, where render_mode is rgb_array."""
        return self._frame(self._running()) if self.render_mode == "rgb_array" else None

    def picture(self) -> np.ndarray:
        """The current frame for a person: where frames are small, drawn larger."""
        fight = self._running()
        if self._renderer is None or self._shape[0] >= PICTURE[1]:
            return self._frame(fight)
        self._large_renderer = self._large_renderer or Renderer(*PICTURE)
        return self._large_renderer.draw(fight.scene())

    def make_expert(self, seed: int, style: str = "balanced") -> Expert:
        """A scripted player for this environment. It looks at attributes, not at pixels.

        Raises:
            ValueError: there is no such style.
        """
        if style not in STYLES:
            raise ValueError(f"no style {style!r}; the expert has {', '.join(STYLES)}")
        return Expert(seed, STYLES[style])

    def _running(self) -> Fight:
        if self._fight is None:
            raise gymnasium.error.ResetNeeded("call reset() before step() and render()")
        return self._fight

    def _frame(self, fight: Fight) -> np.ndarray:
        if self._renderer is None:
            return np.zeros(self._shape, np.uint8)
        return self._renderer.draw(fight.scene())

    def _observe(self, fight: Fight) -> dict[str, Any]:
        hero, boss = fight.hero, fight.boss
        x, y, z = ORIGIN
        values = (
            hero.hp,
            HERO_MAX_HP,
            hero.sp,
            HERO_MAX_SP,
            HERO_MAX_FP,
            HERO_MAX_FP,
            x + hero.x,
            y + hero.y,
            z,
            hero.yaw,
            hero.animation(),
            boss.hp,
            BOSS_MAX_HP,
            NPC_ID,
            x + boss.x,
            y + boss.y + NPC_Y_OFFSET,
            z + boss.z,
            boss.yaw,
            boss.animation(),
        )
        observation: dict[str, Any] = {"frame": self._frame(fight)}
        for name, value in zip(ATTRIBUTES, values, strict=True):
            observation[name] = np.array(value, np.int64 if name in WHOLE else np.float32)
        return observation

    def _info(self, fight: Fight) -> dict[str, Any]:
        return {
            "boss_health_removed": 1 - fight.boss.hp / BOSS_MAX_HP,
            "outcome": fight.outcome,
            "seconds": fight.tick / moves.TICKS_PER_SECOND,
        }
