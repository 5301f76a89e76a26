"""A policy on another machine, over a WebSocket.

The server greets with its manifest as JSON. A reset is JSON; a tick is bytes: the frame, then the
attributes as float64, little-endian; the answer is bytes too: the buttons as uint8, then the
probabilities as float32 and the milliseconds of the inference as float64. An error is JSON.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import numpy as np
from jaxtyping import Bool, Float

from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.listening import TOKEN
from ranni_player.button_decoder import Decision
from ranni_player.manifest import parse_manifest
from ranni_player.observations import ObservationReader, ObservationSpec

PATIENCE_S = 5.0
"""Seconds that the server gets to answer before a fight."""
TICK_S = 2.0
"""Seconds that it gets at a tick, while the keys of the tick before stay down."""

REFUSALS = {
    401: f"wrong or no token; set the variable {TOKEN} to the server's",
    403: "pages in a browser are not served",
    409: "another player is connected",
}
"""What the server means by the status with which it refuses a connection."""


class RemotePlayer:
    """Plays as `Player` does, with the network elsewhere. A context manager."""

    def __init__(self, url: str, token: str | None):
        """Keeps the address; entering the context connects."""
        self._url, self._token = url, token
        self._loop = asyncio.new_event_loop()
        self._ticks = 0
        self.inference_ms: list[float] = []
        """How long each tick took on the other machine; the rest of its latency is the way."""

    def __enter__(self) -> "RemotePlayer":
        try:
            self._socket = self._wait(self._connect())
            self.manifest = parse_manifest(self._answer_json(), self._url)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def reset(self, instruction: str | None = None, seed: int = 0) -> None:
        """Begins a fight; `Player.reset` has the arguments and errors."""
        self._wait(self._socket.send_json({"instruction": instruction, "seed": seed}))
        self._answer_json()
        self._ticks = 0

    def act(
        self, observation: Mapping[str, Any], previous: Bool[np.ndarray, "A"] | None = None
    ) -> Decision:
        """Has the other machine decide. Its policy remembers what it pressed itself.

        Raises:
            UserError: the observation is refused, or the connection is lost.
        """
        assert previous is None, "the other machine remembers what was pressed"
        tick = pack_tick(observation, self.manifest.spec())
        message = self._wait(self._ask(tick), TICK_S)
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise self._refusal(message)
        decision, milliseconds = unpack_decision(message.data, len(self.manifest.actions))
        self.inference_ms.append(milliseconds)
        self._ticks += 1
        return decision

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        self._session = aiohttp.ClientSession()
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        return await self._session.ws_connect(self._url, headers=headers, max_msg_size=0)

    async def _ask(self, tick: bytes) -> aiohttp.WSMessage:
        await self._socket.send_bytes(tick)
        return await self._socket.receive()

    def _answer_json(self) -> dict[str, Any]:
        message = self._wait(self._socket.receive())
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise self._refusal(message)
        answer = json.loads(message.data)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def _refusal(self, message: aiohttp.WSMessage) -> UserError:
        if message.type is aiohttp.WSMsgType.TEXT:
            return UserError(json.loads(message.data)["error"])
        return UserError(f"{self._url}: the connection was lost at tick {self._ticks}")

    def _wait(self, work: Any, seconds: float = PATIENCE_S) -> Any:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, seconds))
        except aiohttp.WSServerHandshakeError as error:
            reason = REFUSALS.get(error.status, f"HTTP status {error.status}")
            raise UserError(f"{self._url}: refused: {reason}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UserError(
                f"{self._url}: the connection was lost at tick {self._ticks}: "
                f"{error or type(error).__name__}"
            ) from error

    def _close(self) -> None:
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()


def pack_tick(observation: Mapping[str, Any], spec: ObservationSpec) -> bytes:
    """Returns an observation as bytes.

    Raises:
        UserError: it is not what the policy was trained on.
    """
    ObservationReader(spec).read(observation)
    state = np.array([observation[name] for name in spec.attributes], "<f8")
    return np.ascontiguousarray(observation["frame"]).tobytes() + state.tobytes()


def unpack_tick(data: bytes, spec: ObservationSpec) -> dict[str, Any]:
    """Returns the observation that `pack_tick` packed.

    Raises:
        UserError: the message has another length.
    """
    size = int(np.prod(spec.frame))
    expected = size + 8 * len(spec.attributes)
    if len(data) != expected:
        raise UserError(f"a tick of {len(data)} bytes came, but this policy takes {expected}")
    frame = np.frombuffer(data, np.uint8, size).reshape(spec.frame)
    state = np.frombuffer(data, "<f8", offset=size)
    return {"frame": frame, **dict(zip(spec.attributes, state, strict=True))}


def pack_decision(decision: Decision, milliseconds: float) -> bytes:
    """Returns a decision and the time it took as bytes."""
    parts = (decision.pressed.astype(np.uint8), decision.probabilities.astype("<f4"))
    return b"".join(part.tobytes() for part in (*parts, np.array(milliseconds, "<f8")))


def unpack_decision(data: bytes, actions: int) -> tuple[Decision, float]:
    """Returns what `pack_decision` packed."""
    pressed = np.frombuffer(data, np.uint8, actions).astype(bool)
    probabilities: Float[np.ndarray, "A"] = np.frombuffer(data, "<f4", actions, actions)
    return Decision(pressed, probabilities), float(np.frombuffer(data, "<f8", 1, 5 * actions)[0])
