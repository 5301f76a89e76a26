"""A checkpoint that plays a game on another machine, over a WebSocket.

uv run -m BC_training.serve --checkpoint checkpoints/pure_cnn --port 8765
"""

import dataclasses
import hmac
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import tyro
from aiohttp import WSMsgType, web

from BC_training.play.description import describe_policy
from BC_training.play.policy import Policy
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.listening import TOKEN, is_loopback, listen
from ranni_player.remote import pack_decision, unpack_tick


def serve(checkpoint: Path, port: int = 8765, host: str = "127.0.0.1") -> int:
    """Answers a player's observations with what to press. It serves one client at a time.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        port: where to listen; 0 for any that is free.
        host: the address to listen at. Any but this machine's own loopback needs a token in the
            environment variable RANNI_TOKEN, which the player has to know too.
    """
    token = os.environ.get(TOKEN)
    if not is_loopback(host) and not token:
        raise UserError(f"--host {host}: others could connect; set the variable {TOKEN} to a token")
    server = PolicyServer(Policy.load(checkpoint), token)
    app = web.Application()
    app.router.add_get("/", server.handle)
    listener = listen(host, port)
    address = f"ws://{host}:{listener.getsockname()[1]}"
    print(f"serving {checkpoint} at {address}", flush=True)
    web.run_app(app, sock=listener, print=None, handle_signals=False, shutdown_timeout=0.1)
    raise KeyboardInterrupt  # only that ends it, and it keeps that to itself


class PolicyServer:
    """One policy for one client at a time."""

    def __init__(self, policy: Policy, token: str | None):
        self._policy, self._token = policy, token
        self._manifest = describe_policy(policy.bundle)
        self._is_taken = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serves a client until it leaves."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPUnauthorized
        # Browsers send an origin; a page must not reach a policy on this machine.
        if "Origin" in request.headers:
            raise web.HTTPForbidden
        if self._is_taken:
            raise web.HTTPConflict
        self._is_taken = True
        try:
            client = web.WebSocketResponse(heartbeat=10, max_msg_size=64 << 20)
            await client.prepare(request)
            await client.send_json(dataclasses.asdict(self._manifest))
            async for message in client:
                await self._answer(client, message.type, message.data)
            return client
        finally:
            self._is_taken = False

    async def _answer(self, client: web.WebSocketResponse, kind: WSMsgType, data: Any) -> None:
        try:
            if kind is WSMsgType.BINARY:
                observation = unpack_tick(data, self._manifest.spec())
                began = time.perf_counter()
                decision = self._policy.act(observation)
                milliseconds = 1000 * (time.perf_counter() - began)
                await client.send_bytes(pack_decision(decision, milliseconds))
            elif kind is WSMsgType.TEXT:
                self._policy.reset(**_reset_of(data))
                await client.send_json({})
        except UserError as error:
            await client.send_json({"error": str(error)})


def _reset_of(text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
        instruction, seed = raw["instruction"], raw["seed"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"a reset must be JSON with instruction and seed: {error}") from error
    if not isinstance(instruction, str | None) or not isinstance(seed, int) or seed < 0:
        raise UserError("a reset's instruction must be a text or null, its seed a number from 0")
    return {"instruction": instruction, "seed": seed}


def main() -> int:
    return tyro.cli(serve, use_underscores=True, prog="python -m BC_training.serve")


if __name__ == "__main__":
    sys.exit(command.run(main, "the server has ended"))
