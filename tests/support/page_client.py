"""A browser at the page of `gameplay_pipeline.page`, without the browser."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import aiohttp

Script = Callable[[dict[str, Any]], list[dict[str, Any]] | None]


def free_port() -> int:
    """A port that nothing listened at a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


async def statuses(connection: aiohttp.ClientWebSocketResponse):
    """Yields each status that comes, with its `picture`, and says that it was shown."""
    async for message in connection:
        if message.type is aiohttp.WSMsgType.BINARY:
            size = int.from_bytes(message.data[:4], "little")
            status = json.loads(message.data[4 : 4 + size])
            await connection.send_json({"shown": status["number"]})
            yield {**status, "picture": message.data[4 + size :]}


async def _connect(session: aiohttp.ClientSession, address: str):
    """A connection, as soon as there is a server."""
    for _ in range(500):
        with contextlib.suppress(aiohttp.ClientConnectorError):
            return await session.ws_connect(f"{address}play", max_msg_size=0)
        await asyncio.sleep(0.02)
    raise AssertionError(f"no server at {address}")


async def follow(address: str, script: Script) -> int | None:
    """Does what a script says upon each status, until it says None or the server closes; gives the
    code with which it closed."""
    async with aiohttp.ClientSession() as session, await _connect(session, address) as connection:
        async for status in statuses(connection):
            messages = script(status)
            if messages is None:
                break
            for message in messages:
                await connection.send_json(message)
        return connection.close_code


def follow_in_thread(address: str, script: Script) -> threading.Thread:
    """`follow` beside the caller."""
    thread = threading.Thread(target=lambda: asyncio.run(follow(address, script)), daemon=True)
    thread.start()
    return thread
