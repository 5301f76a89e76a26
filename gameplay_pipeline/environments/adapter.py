"""Adapts any Gymnasium environment to the interface that the recorder and the players expect.

An environment needs a MultiBinary action space and observations that are an image [H, W, 3] uint8
or a dictionary with one. What it may offer besides: scalars and vectors in that dictionary (the
state); `action_names`, `attribute_names`, `color_order`, `resize_method`; `make_expert(seed)`,
giving an object with `reset()` and `act(observation)`; `styles`, a mapping from each style in which
`make_expert(seed, style=...)` can play to the instructions that ask for it, one or more texts;
`metadata["render_fps"]`; `parallel`, False where there is but one of it. Its constructor is told
`width` and `height`, `actions`, `attributes` and `fps` where it takes them; otherwise frames are
resized and buttons are sorted here.
"""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import tyro
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from tyro.constructors import PrimitiveConstructorSpec

from gameplay_pipeline.plumbing.errors import UserError


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What an environment doesn't say about itself. Everything may be left out."""

    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the environment."""
    frame: str = "frame"
    """The observation's entry that is the image."""
    color_order: str | None = None
    """RGB or BGR; without it what the environment says, or else RGB."""
    state: tuple[str, ...] | None = None
    """The attributes that make the state. `gamevariables.1` is the second value of that entry.
    Without it those that the environment names, or else all its scalars."""
    actions: dict[str, str] = dataclasses.field(default_factory=dict)
    """The buttons: our name, and the environment's (`button_0`, `button_1`, ... where it has no
    names). Those left out are never pressed. Without it all, by the environment's names."""
    fps: float | None = None
    """Ticks a second; without it what the environment says."""

    def __post_init__(self) -> None:
        """Refuses what is no setting with a ValueError."""
        if self.color_order not in (None, "RGB", "BGR"):
            raise ValueError(f"color_order is {self.color_order!r}, but must be RGB or BGR")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}, but must be above 0")
        if len(set(self.actions.values())) < len(self.actions):
            raise ValueError(f"actions: {self.actions} gives one button two names")

    def plain(self) -> dict[str, Any]:
        """The settings that were given, as plain JSON."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        default = json.loads(json.dumps(dataclasses.asdict(Adapter())))
        return {name: value for name, value in plain.items() if value != default[name]}


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
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from error
    known = [field.name for field in dataclasses.fields(Adapter)]
    if not isinstance(raw, dict) or not raw.keys() <= set(known):
        raise ValueError(f"{text!r}: only the keys {', '.join(known)} are known")
    if isinstance(raw.get("state"), list):
        raw["state"] = tuple(raw["state"])
    return Adapter(**raw)


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
        asked = {} if style is None else {"style": style}
        return _Expert(game.make_expert(seed, **asked), self)

    def _observe(self) -> dict[str, Any]:
        raw = self._raw if isinstance(self._raw, Mapping) else {self._frame_key: self._raw}
        frame = resize(raw[self._frame_key], *self._size)
        values = {
            name: raw[entry] if index is None else np.asarray(raw[entry][index])
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
        ours = pressed[env._columns]
        if ours.sum() != pressed.sum():
            raise ValueError("the expert presses a button that `actions` leaves out")
        return ours


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
        told = {key: value for key, value in wanted._asdict().items() if value is not None}
        told = {key: value for key, value in told.items() if key in takes}
        # A size that the settings ask for is drawn, and resized here to the one that is wanted.
        if not told.keys() >= {"width", "height"} or {"width", "height"} & adapter.arguments.keys():
            told = {key: value for key, value in told.items() if key not in ("width", "height")}
        # The checker is for those who write environments, and costs time on every step.
        env = gymnasium.make(name, disable_env_checker=True, **{**told, **adapter.arguments})
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
        raise ValueError(f"resolution is {resolution!r}, but must be WIDTHxHEIGHT, such as 512x288")
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
    own = adapter.actions or {button: button for button in buttons}
    if unknown := sorted(set(own.values()) - set(buttons)):
        raise UserError(
            f"{name}: the setting actions names {', '.join(unknown)}, "
            f"but its buttons are {', '.join(buttons)}"
        )
    names = tuple(own) if wanted is None else wanted
    missing = [each for each in names if each not in own]
    extra = [each for each in own if each not in names]
    if missing or extra:
        problems = [f"has no {', '.join(missing)}"] * bool(missing)
        problems += [f"has {', '.join(extra)} besides"] * bool(extra)
        raise UserError(
            f"{name}: its buttons are not the wanted ones, it {' and '.join(problems)}; "
            'the setting environment.actions, {"our name": "its name", ...}, says which are which'
        )
    return names, [buttons.index(own[each]) for each in names]


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
    known: dict[str, tuple[str, int | None]] = {}
    for key, space in entries.items():
        if space.shape == ():
            known[key] = (key, None)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            known |= {f"{key}.{i}": (key, i) for i in range(space.shape[0])}
    scalars = tuple(key for key, (_, index) in known.items() if index is None)
    offered = tuple(getattr(game, "attribute_names", scalars))
    offered = offered if adapter.state is None else adapter.state
    names = offered if wanted.attributes is None else wanted.attributes
    if missing := [each for each in names if each not in known]:
        raise UserError(
            f"{name}: its observations lack the attributes {', '.join(missing)}; "
            f"they have {', '.join(known) or 'none'}"
        )
    return names, {each: known[each] for each in names}
