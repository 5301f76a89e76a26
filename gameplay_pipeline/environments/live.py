"""The live game as an environment: Elden Ring through eldengym and a Siphon server.

    gymnasium.make("gameplay_pipeline.environments.live:Margit-v0", host="192.168.0.7:50051")

eldengym comes with the dependency group `eldengym`. The server runs beside the game on its Windows
machine. Whatever ends a fight, every key that was pressed is let go of. Where this process is
killed outright (SIGKILL), the next one does it.
"""

import atexit
import contextlib
import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from gameplay_pipeline.environments.adapter import resize

try:
    import eldengym
    import grpc
    from pysiphon.generated import siphon_service_pb2
    from pysiphon.generated import siphon_service_pb2_grpc as siphon
except ImportError as error:
    raise ImportError(
        f"the live game's client is not installed ({error}); run the command with: "
        "uv run --group eldengym ..."
    ) from error

messages: Any = siphon_service_pb2
"""Its classes are made when it is imported, where no type checker sees them."""

gymnasium.register("Margit-v0", entry_point=f"{__name__}:LiveGame", kwargs={"boss": "Margit-v0"})

OUTCOME = ("HeroHp", "HeroMaxHp", "NpcHp", "NpcMaxHp")
"""Attributes from which the end of a fight is seen; read whether or not they are asked for."""

CALL_S = 1.0
"""Seconds that the server gets to answer a read or a key."""
TAP_S = 10.0
"""Seconds for what holds a key by itself, or starts something."""
COMMAND_S = 60.0
"""Seconds to copy a save file."""
NEW_FRAME_S = 0.005
"""How long a tick waits for a frame that is not there yet."""
STALL_S = 3.0
"""Seconds without a frame, or without any attribute, after which the game counts as lost."""
BEGIN_S = 20.0
"""Seconds that a fight gets to begin once the menus are through."""
RELEASE_S = 5.0
"""Seconds for which a server that is gone is waited for, to let go of the keys."""

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK")
ENDING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
"""Signals by which somebody ends a process; which of them there are is the system's choice."""
COUNTS = ("repeated_frames", "broken_frames", "failed_reads", "stream_restarts", "late_ticks")


class GameLost(Exception):  # noqa: N818 - what happened, told without a traceback
    """The game can't be reached, or does not go on; the message says what to look at."""


class LiveGame(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A boss of the live game.

    Observations are a dict of `frame` [H, W, 3] uint8 BGR and the attributes, whole ones as exact
    integers. Actions are the client's named buttons, as 0 or 1. A step presses the keys, waits for
    the tick, and looks: so what is seen is as fresh as can be. Where no new frame is there, or an
    attribute can't be read, the last one is repeated. `info` holds `outcome` ("" while the fight
    goes on, then "won", "lost" or "timeout"), `boss_health_removed`, `seconds`, and `counts`:
    `repeated_frames`, of these `broken_frames` that could not be decoded, `failed_reads`,
    `stream_restarts` and `late_ticks`. The reward is that of the simulated fight: the share of the
    boss's health removed minus the hero's share lost, plus 1 for a win and minus 1 for a death.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium's own
    color_order = "BGR"
    resize_method = "area"
    parallel = False
    is_real_time = True

    def __init__(
        self,
        boss: str,
        host: str = "localhost:50051",
        width: int = 512,
        height: int = 288,
        actions: Sequence[str] | None = None,
        attributes: Sequence[str] = OUTCOME,
        fps: float = 17.2,
        max_seconds: float = 300.0,
        **client: Any,
    ):
        """Connects to the server and prepares it.

        Args:
            boss: eldengym's id.
            host: host and port of the Siphon server.
            width: width of the frame in pixels, to which the screen is resized by area.
            height: its height.
            actions: the buttons, by the client's names; by default all of them.
            attributes: the state.
            fps: ticks a second.
            max_seconds: seconds after which a fight is over.
            client: further arguments of eldengym's environment.

        Raises:
            GameLost: the server does not answer.
            ValueError: an action is not known to the client.
            RuntimeError: the server does not find the game.
        """
        self.metadata = {**self.metadata, "render_fps": fps}
        self._host, self._size, self._tick_s = host, (width, height), 1 / fps
        self._max_seconds = max_seconds
        self._closed = False
        self._down: set[str] = set()
        """Keys that may be down: from before a press is sent until a release is confirmed."""
        self._require_server()
        self._game = eldengym.make(
            boss,
            **{"launch_game": False, **client},
            host=host,
            actions=None if actions is None else list(actions),
            memory_attributes=list(attributes),
        )
        self._client: Any = self._game.client
        self._bound_calls()
        self.action_names = tuple(self._game.action_keys)
        self.attribute_names = tuple(attributes)
        self._read = tuple(dict.fromkeys((*attributes, *OUTCOME)))
        self.action_space = spaces.MultiBinary(len(self.action_names))
        state = {name: spaces.Box(-np.inf, np.inf, (), np.float64) for name in attributes}
        frame = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.observation_space = spaces.Dict({**state, "frame": frame})
        # Those that a run which was killed left down.
        self._down |= set(self._game._action_to_key.values())
        self.release()
        atexit.register(self.close)
        _exit_on_signals()

    def _bound_calls(self) -> None:
        """Gives every call of the client an end, so that a game that hangs is noticed."""
        stub = self._client.stub
        for method in ("GetAttribute", "InputKeyToggle"):
            setattr(stub, method, functools.partial(getattr(stub, method), timeout=CALL_S))
        for method in ("SetAttribute", "InputKeyTap", "MoveMouse"):
            setattr(stub, method, functools.partial(getattr(stub, method), timeout=TAP_S))
        stub.ExecuteCommand = functools.partial(stub.ExecuteCommand, timeout=COMMAND_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Goes through the menus to the boss, which takes more than half a minute.

        Raises:
            GameLost: the fight does not begin.
        """
        super().reset(seed=seed)
        self.release()
        self._values: dict[str, int | float] = {}
        self._frame: npt.NDArray[np.uint8] | None = None
        self._counts = dict.fromkeys(COUNTS, 0)
        self._read_at = math.inf  # until the fight begins, nothing is overdue
        self._require_server()
        self._enter()
        self._wait_for_fight()
        self._counts = dict.fromkeys(self._counts, 0)
        self._began = self._due = self._seen_at = self._read_at = time.monotonic()
        return self._observation(), self._info("")

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Presses, waits for the tick, and looks.

        Raises:
            GameLost: the server does not answer any more; the keys are released.
        """
        hero, boss = self._share("Hero"), self._share("Npc")
        try:
            self._press(action)
            self._wait_for_tick()
            self._look()
        except BaseException:
            self.release()
            raise
        outcome = self._outcome()
        if outcome:
            self.release()
        reward = boss - self._share("Npc") - (hero - self._share("Hero"))
        reward += (outcome == "won") - (outcome == "lost")
        over = outcome in ("won", "lost")
        return self._observation(), reward, over, outcome == "timeout", self._info(outcome)

    def release(self) -> None:
        """Lets go of every key that may be down; says which, if the server can't be reached."""
        if not self._down:
            return
        with _signals_blocked():
            until = time.monotonic() + RELEASE_S
            stub = siphon.SiphonServiceStub(self._client.channel)
            for key in sorted(self._down):
                request = messages.InputKeyToggleRequest(key=key, toggle=False)
                left = max(CALL_S, until - time.monotonic())
                with contextlib.suppress(grpc.RpcError):
                    if stub.InputKeyToggle(request, timeout=left, wait_for_ready=True).success:
                        self._down.discard(key)
            if self._down:
                print(
                    f"warning: {self._host} does not answer; these keys may still be down on its "
                    f"machine: {', '.join(sorted(self._down))}. Press each of them there once.",
                    file=sys.stderr,
                )

    def close(self) -> None:
        """Lets go of the keys and of the server."""
        if self._closed:
            return
        self._closed = True
        self.release()
        atexit.unregister(self.close)
        # The channel first: the thread that reads frames from it waits for the next one.
        self._client.close()
        self._client.stop_frame_stream(self._game._stream_handle)

    def _require_server(self) -> None:
        """Finds out in seconds whether the server is there; the client's own calls wait forever."""
        with grpc.insecure_channel(self._host) as channel:
            stub = siphon.SiphonServiceStub(channel)
            try:
                stub.GetServerStatus(messages.GetServerStatusRequest(), timeout=TAP_S)
            except grpc.RpcError as error:
                why = error.details() if isinstance(error, grpc.Call) else error
                raise GameLost(
                    f"no Siphon server answers at {self._host} ({why}); start it on the machine "
                    "of the game, and check the setting environment.arguments.host, the port and "
                    "the firewall"
                ) from error

    def _enter(self) -> None:
        """The client's own way to a new fight, without its look at the game, which would fail for
        want of an attribute that is not there yet."""
        game, client = self._game, self._client
        client.quit_to_title()
        if game.save_file_name and game.save_file_dir:
            client.copy_save_file(game.save_file_name, game.save_file_dir)
        client.enter_menu()
        try:
            client.start_scenario(game.scenario_name)
        except TypeError as error:  # it computes with what it could not read
            raise GameLost(f"{self._host}: the hero's position can't be read") from error

    def _wait_for_fight(self) -> None:
        """Waits until there is a frame, every attribute was read, and both are alive."""
        until = time.monotonic() + BEGIN_S
        self._client.get_latest_frame(self._game._stream_handle)  # of the menus
        while True:
            frame = self._next_frame()
            self._frame = self._frame if frame is None else frame
            self._read_attributes()
            problems = [f"{name} can't be read" for name in self._read if name not in self._values]
            problems += ["no frame came"] if self._frame is None else []
            problems += [f"{n} is 0" for n in OUTCOME if self._values.get(n, 1) <= 0]
            if not problems:
                return
            if time.monotonic() > until:
                broken = self._counts["broken_frames"]
                problems += [f"{broken} frames were broken"] * (broken > 0)
                raise GameLost(f"{self._host}: the fight does not begin: {'; '.join(problems)}")
            time.sleep(0.05)

    def _press(self, action: np.ndarray) -> None:
        for name, wanted in zip(self.action_names, action, strict=True):
            key = self._game._action_to_key[name]
            if bool(wanted) == (key in self._down):
                continue
            self._down.add(key)
            answer = self._client.input_key_toggle(key, bool(wanted))
            if not answer["success"]:
                raise GameLost(f"{self._host} does not take the key {key}: {answer['message']}")
            if not wanted:
                self._down.discard(key)

    def _wait_for_tick(self) -> None:
        self._due += self._tick_s
        now = time.monotonic()
        if now > self._due:
            self._counts["late_ticks"] += 1
            self._due = now
        else:
            time.sleep(self._due - now)

    def _look(self) -> None:
        frame = self._next_frame()
        now = time.monotonic()
        if frame is not None:
            self._frame, self._seen_at = frame, now
        else:
            self._counts["repeated_frames"] += 1
            if now - self._seen_at > STALL_S:
                raise GameLost(
                    f"{self._host} sent no frame for {STALL_S:g} s, of "
                    f"{self._counts['broken_frames']} broken ones and after "
                    f"{self._counts['stream_restarts']} restarts of the stream"
                )
        self._read_attributes()

    def _next_frame(self) -> npt.NDArray[np.uint8] | None:
        """A frame that has not been seen yet, or None."""
        handle = self._game._stream_handle
        data = self._client.get_latest_frame(handle)
        if data is None:
            time.sleep(NEW_FRAME_S)
            data = self._client.get_latest_frame(handle)
        if data is None:
            if not handle.stream_thread.is_alive():
                self._counts["stream_restarts"] += 1
                self._game._stream_handle = self._client.start_frame_stream(
                    format=self._game.frame_format, quality=self._game.frame_quality
                )
            return None
        image = None
        if data.data:
            image = cv2.imdecode(np.frombuffer(data.data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            self._counts["broken_frames"] += 1
            return None
        return resize(np.asarray(image, np.uint8), *self._size)

    def _read_attributes(self) -> None:
        began = time.monotonic()
        for name in self._read:
            value = self._client.get_attribute(name)["value"]
            now = time.monotonic()
            if value is not None:
                self._values[name], self._read_at = value, now
                continue
            self._counts["failed_reads"] += 1
            if now - max(began, self._read_at) > STALL_S:
                raise GameLost(f"{self._host}: nothing can be read any more, such as {name}")

    def _share(self, who: str) -> float:
        """Share of its health that it has left, 0 to 1."""
        return min(max(self._values[f"{who}Hp"] / max(self._values[f"{who}MaxHp"], 1), 0.0), 1.0)

    def _outcome(self) -> str:
        # In this order: with the hero's death the game lets go of the boss.
        if self._share("Hero") <= 0:
            return "lost"
        if self._share("Npc") <= 0:
            return "won"
        return "timeout" if time.monotonic() - self._began > self._max_seconds else ""

    def _observation(self) -> dict[str, Any]:
        assert self._frame is not None
        values = {name: np.asarray(self._values[name]) for name in self.attribute_names}
        return {"frame": self._frame, **values}

    def _info(self, outcome: str) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "boss_health_removed": 1 - self._share("Npc"),
            "seconds": time.monotonic() - self._began,
            "counts": dict(self._counts),
        }


def _exit_on_signals() -> None:
    """Has `finally` and `atexit` take their turn where a signal would end the process outright."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Lets an impatient second Ctrl-C not keep keys down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
