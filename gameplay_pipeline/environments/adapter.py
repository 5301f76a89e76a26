"""Adapts any Gymnasium environment to the interface that the recorder and the players expect.

An environment needs a MultiBinary action space and observations that are an image [H, W, 3] uint8
or a dictionary with one. What it may offer besides: scalars and vectors in that dictionary (the
state); `action_names`, `attribute_names`, `color_order`, `resize_method`; `make_expert(seed)`,
giving an object with `reset()` and `act(observation)`; `styles`, a mapping from each style in which
`make_expert(seed, style=...)` can play to the instructions that ask for it, one or more texts;
`metadata["render_fps"]`; `parallel`, False where there is but one of it; `is_real_time`, True where
it goes on by itself; `picture()`, a frame for people, larger than a policy needs. Its constructor
is told `width` and `height`, `actions`, `attributes` and `fps` where it takes them; otherwise
frames are resized and buttons are sorted here.
"""

import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import pydantic
import tyro
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from jaxtyping import UInt8
from pydantic import Field
from tyro.constructors import PrimitiveConstructorSpec

from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.section import Section, in_words


class Adapter(Section):
    """What an environment doesn't say about itself. Everything may be left out."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments that the environment is made with."""
    frame: str = "frame"
    """The entry of the environment's observation that is the image."""
    color_order: Literal["RGB", "BGR"] | None = None
    """Order of the image's colours; null is what the environment says, or else RGB."""
    state: tuple[str, ...] | None = None
    """Attributes that make the state, entry.1 being the second value of an entry; null is those
    that the environment names, or else all its scalars."""
    actions: dict[str, str] = Field(default_factory=dict)
    """Our name of each button, and the environment's (button_0, ... where it has no names). Those
    left out are never pressed; {} is all of them, by the environment's names."""
    fps: float | None = Field(default=None, gt=0)
    """Ticks a second; null is what the environment says."""

    @pydantic.field_validator("actions")
    @classmethod
    def _are_different(cls, actions: dict[str, str]) -> dict[str, str]:
        if len(set(actions.values())) < len(actions):
            raise ValueError(f"{actions} gives one button two names")
        return actions

    def plain(self) -> dict[str, Any]:
        """The settings that were given, as plain JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)


SIMULATED = frozenset(
    {
        "boss_arena:BossArena-v0",
        "vizdoom_games:TakeCover-v0",
        "vizdoom_games:DefendTheCenter-v0",
    }
)
"""The project's environments that touch nothing outside of their process."""

AS_IT_IS = Adapter()
"""For an environment that says everything about itself."""


def parse_adapter(text: str) -> Adapter:
    """An adapter from JSON, as it is given on the command line.

    Raises:
        ValueError: it is no JSON, or holds what is no setting.
    """
    try:
        return Adapter.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise ValueError("; ".join(_refusal(text, detail) for detail in error.errors())) from error


def _refusal(text: str, detail: Any) -> str:
    keys = ", ".join(Adapter.model_fields)
    match detail["type"]:
        case "json_invalid":
            return f"{text!r} is not JSON: {detail['ctx']['error']}"
        case "extra_forbidden" | "model_type":
            return f"{text!r}: only the keys {keys} are known"
    return in_words(".".join(map(str, detail["loc"])), detail)


AdapterFlag = Annotated[
    Adapter,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: parse_adapter(words[0]),
        is_instance=lambda value: isinstance(value, Adapter),
        str_from_instance=lambda adapter: [json.dumps(adapter.plain())],
    ),
    tyro.conf.arg(metavar="JSON"),
]
"""An `Adapter` on a command line."""


class Wanted(NamedTuple):
    """What the recorder or a policy needs of an environment; None is whatever it has."""

    width: int
    height: int
    actions: tuple[str, ...] | None = None
    """In the order of the columns."""
    attributes: tuple[str, ...] | None = None
    fps: float | None = None


@runtime_checkable
class Player(Protocol):
    """What plays a fight."""

    def reset(self) -> None: ...

    def act(self, observation: Any) -> npt.NDArray[Any]: ...


class Environment(gymnasium.Wrapper[dict[str, Any], np.ndarray, Any, np.ndarray]):
    """An environment whose observations hold `frame` [H, W, 3] uint8 and the state's scalars."""

    def __init__(self, env: gymnasium.Env[Any, Any], name: str, adapter: Adapter, wanted: Wanted):
        """Wraps an environment.

        Raises:
            UserError: it lacks what a recorder or a player needs, or what is wanted.
        """
        super().__init__(env)
        game: Any = env.unwrapped
        self.name = name
        """The Gymnasium id, with the module that registers it."""
        self._frame_key = adapter.frame
        self._size = (wanted.width, wanted.height)
        self._raw: Any = None
        buttons = _buttons(env.action_space, game, name)
        self.action_names, self._columns = _actions(buttons, adapter, wanted.actions, name)
        self._buttons = len(buttons)
        image, scalars = _observed(env.observation_space, adapter.frame, name)
        self.attribute_names, self._sources = _attributes(scalars, game, adapter, wanted, name)
        self.color_order = adapter.color_order or getattr(game, "color_order", "RGB")
        resized = image[:2] != (wanted.height, wanted.width)
        self.resize_method = "area" if resized else getattr(game, "resize_method", "none")
        fps = adapter.fps or env.metadata.get("render_fps")
        self.fps = None if fps is None else float(fps)
        self.metadata = {**env.metadata, "render_fps": self.fps}
        self.has_expert = hasattr(game, "make_expert")
        self.styles: Mapping[str, Sequence[str]] = getattr(game, "styles", {})
        """The expert's styles, each with the instructions that ask for it."""
        self.parallel = bool(getattr(game, "parallel", True))
        """Whether several may run at the same time."""
        self.is_real_time = bool(getattr(game, "is_real_time", False))
        """Whether it goes on by itself, and each step waits for its tick."""
        self.action_space = spaces.MultiBinary(len(self.action_names))
        self.observation_space = spaces.Dict(
            {
                "frame": spaces.Box(0, 255, (wanted.height, wanted.width, 3), np.uint8),
                **{
                    attribute: scalars[attribute]
                    if attribute in scalars
                    else spaces.Box(-np.inf, np.inf, (), np.float32)
                    for attribute in self.attribute_names
                },
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self._raw, info = self.env.reset(seed=seed, options=options)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        pressed = np.zeros(self._buttons, np.int8)
        pressed[self._columns] = action
        self._raw, reward, terminated, truncated, info = self.env.step(pressed)
        return self._observe(), reward, terminated, truncated, info

    def make_expert(self, seed: int, style: str | None = None) -> Player:
        """The environment's own expert, in one of its styles. It sees what the environment itself
        gives."""
        game: Any = self.env.unwrapped
        keywords = {} if style is None else {"style": style}
        return _Expert(game.make_expert(seed, **keywords), self)

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current frame as a person wants to see it: as the environment draws it for people, or
        else before it is resized."""
        game: Any = self.env.unwrapped
        return game.picture() if hasattr(game, "picture") else self._frame()

    def _frame(self) -> UInt8[np.ndarray, "h w 3"]:
        return self._raw[self._frame_key] if isinstance(self._raw, Mapping) else self._raw

    def _observe(self) -> dict[str, Any]:
        frame = resize(self._frame(), *self._size)
        values = {
            name: self._raw[entry] if index is None else np.asarray(self._raw[entry][index])
            for name, (entry, index) in self._sources.items()
        }
        return {"frame": frame, **values}


class _Expert:
    """An environment's expert, playing with our buttons."""

    def __init__(self, expert: Player, environment: Environment):
        self._expert = expert
        self._environment = environment

    def reset(self) -> None:
        self._expert.reset()

    def act(self, observation: Any) -> npt.NDArray[Any]:
        env = self._environment
        pressed = np.asarray(self._expert.act(env._raw), np.int8)
        columns = pressed[env._columns]
        if columns.sum() != pressed.sum():
            raise ValueError("the expert presses a button that `actions` leaves out")
        return columns


def make(name: str, adapter: Adapter, wanted: Wanted) -> Environment:
    """Makes an environment as it is wanted.

    Args:
        name: Gymnasium id, with the module that registers it, such as boss_arena:BossArena-v0.
        adapter: what it doesn't say about itself.
        wanted: size, buttons, attributes and tick rate.

    Raises:
        UserError: it can't be made, or doesn't fit.
    """
    try:
        module, _, short = name.rpartition(":")
        if module:
            importlib.import_module(module)
        entry = gymnasium.spec(short).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        takes = () if creator is None else inspect.signature(creator).parameters
        keywords = {key: value for key, value in wanted._asdict().items() if value is not None}
        keywords = {key: value for key, value in keywords.items() if key in takes}
        # A size that the settings ask for is drawn, and resized here to the one that is wanted.
        if (
            not keywords.keys() >= {"width", "height"}
            or {"width", "height"} & adapter.arguments.keys()
        ):
            keywords = {
                key: value for key, value in keywords.items() if key not in ("width", "height")
            }
        # The checker is for those who write environments, and costs time on every step.
        env = gymnasium.make(name, disable_env_checker=True, **{**keywords, **adapter.arguments})
    except Exception as error:  # whatever importing and building somebody's environment may raise
        raise UserError(f"{name} can't be made: {error}") from error
    try:
        return Environment(env, name, adapter, wanted)
    except BaseException:
        env.close()
        raise


def parse_size(resolution: str) -> tuple[int, int]:
    """Width and height from WIDTHxHEIGHT.

    Raises:
        ValueError: it is written otherwise.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", resolution)
    if match is None:
        raise ValueError(f"{resolution!r} must be WIDTHxHEIGHT, such as 512x288")
    return int(match[1]), int(match[2])


def resize(frame: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """A frame [h, w, 3] at the given size, by area; one that has it stays as it is."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _buttons(space: spaces.Space[Any], game: Any, name: str) -> tuple[str, ...]:
    """The environment's own names of its buttons."""
    if not isinstance(space, spaces.MultiBinary) or len(space.shape) != 1:
        raise UserError(
            f"{name}: its action space is {space}; only MultiBinary(n), a button a column, will do"
        )
    count = space.shape[0]
    names = tuple(getattr(game, "action_names", [f"button_{i}" for i in range(count)]))
    if len(names) != count:
        raise UserError(
            f"{name}: its action space has {count} buttons, but its action_names are "
            f"{', '.join(names)}"
        )
    return names


def _actions(
    buttons: tuple[str, ...], adapter: Adapter, wanted: tuple[str, ...] | None, name: str
) -> tuple[tuple[str, ...], list[int]]:
    """Our names of the buttons, and the environment's column of each."""
    button_of = adapter.actions or {button: button for button in buttons}
    if unknown := sorted(set(button_of.values()) - set(buttons)):
        raise UserError(
            f"{name}: the setting actions names {', '.join(unknown)}, "
            f"but its buttons are {', '.join(buttons)}"
        )
    names = tuple(button_of) if wanted is None else wanted
    missing = [action for action in names if action not in button_of]
    extra = [action for action in button_of if action not in names]
    if missing or extra:
        problems = [f"has no {', '.join(missing)}"] * bool(missing)
        problems += [f"has {', '.join(extra)} besides"] * bool(extra)
        raise UserError(
            f"{name}: its buttons are not the wanted ones, it {' and '.join(problems)}; "
            'the setting environment.actions, {"our name": "its name", ...}, says which are which'
        )
    return names, [buttons.index(button_of[action]) for action in names]


def _observed(
    space: spaces.Space[Any] | None, frame: str, name: str
) -> tuple[tuple[int, ...], dict[str, spaces.Space[Any]]]:
    """The image's shape, and the other entries of the observation."""
    entries = dict(space.items()) if isinstance(space, spaces.Dict) else {frame: space}
    image = entries.pop(frame, None)
    shape = image.shape if isinstance(image, spaces.Box) and image.dtype == np.uint8 else ()
    if len(shape) != 3 or shape[2] != 3:
        raise UserError(
            f"{name}: its observation space is {space}; only an image (a Box of uint8, height x "
            f"width x 3) or a Dict with one as {frame!r} will do"
        )
    return shape, {key: value for key, value in entries.items() if value is not None}


def _attributes(
    entries: Mapping[str, spaces.Space[Any]],
    game: Any,
    adapter: Adapter,
    wanted: Wanted,
    name: str,
) -> tuple[tuple[str, ...], dict[str, tuple[str, int | None]]]:
    """The attributes, and where in the observation each is: an entry, and an index into it."""
    sources: dict[str, tuple[str, int | None]] = {}
    for key, space in entries.items():
        if space.shape == ():
            sources[key] = (key, None)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            sources |= {f"{key}.{i}": (key, i) for i in range(space.shape[0])}
    scalars = tuple(key for key, (_, index) in sources.items() if index is None)
    offered = tuple(getattr(game, "attribute_names", scalars))
    offered = offered if adapter.state is None else adapter.state
    names = offered if wanted.attributes is None else wanted.attributes
    if missing := [attribute for attribute in names if attribute not in sources]:
        raise UserError(
            f"{name}: its observations lack the attributes {', '.join(missing)}; "
            f"they have {', '.join(sources) or 'none'}"
        )
    return names, {attribute: sources[attribute] for attribute in names}
