"""Serves the page, and nothing else: the page itself at /, and its WebSocket at /play.

The first browser plays, others watch. To a browser go a greeting, then the newest status with the
newest frame, and another only when it has shown one of the last two: who is slow misses frames, and
nothing waits for him. From it come the buttons that are held, and what the person asks for.
"""

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from aiohttp import WSCloseCode, WSMsgType, web

from gameplay_pipeline.page.desk import REQUESTS, Desk
from gameplay_pipeline.plumbing.listening import TOKEN, is_loopback, listen

PAGE = Path(__file__).with_name("index.html")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

IN_FLIGHT = 2
"""Pictures on their way to a browser that it has not shown yet."""
STALL_S = 1.0
"""Seconds without an answer after which a browser counts as away."""
HEARTBEAT_S = 5.0
"""Seconds between two questions whether the connection still is there."""
START_S = 30.0
"""Seconds that the server's thread gets to begin."""
GOODBYE_S = 0.5
"""Seconds that a browser gets to close a connection in good order."""
LARGEST_MESSAGE = 4096
"""Bytes that a browser may send at once."""


class Greeting(NamedTuple):
    """What a browser is told first, and does not change."""

    game: str
    task: str
    """What becomes of the fights."""
    actions: tuple[str, ...]
    """Names of the A buttons."""
    fps: float
    fights: int
    """How many the dataset shall have."""
    has_policy: bool = False
    """Whether a policy plays too."""


class _Browser:
    """One open page."""

    def __init__(self, connection: web.WebSocketResponse):
        self.connection = connection
        self.changed = asyncio.Event()
        self.answered = asyncio.Event()
        self.sent = self.shown = 0
        self.sent_at: dict[int, float] = {}
        self.latency_ms: float | None = None

    def has_shown(self, number: int) -> None:
        """Takes the browser's word that it has shown a picture."""
        if number in self.sent_at:
            self.latency_ms = 1000 * (time.monotonic() - self.sent_at[number])
            self.sent_at = {later: at for later, at in self.sent_at.items() if later > number}
            self.shown = number
            self.answered.set()


class PageServer:
    """The page's side of a desk. All but `__init__` and `wake` belong to the server's thread."""

    def __init__(self, desk: Desk, greeting: Greeting, token: str | None):
        """Takes the desk.

        Args:
            desk: what is shown, and who is told what the person does.
            greeting: what a browser is told first.
            token: what the address must hold; None where only this machine can connect.
        """
        self._desk, self._greeting, self._token = desk, greeting, token
        self._actions = len(greeting.actions)
        self._browsers: list[_Browser] = []
        self._player: _Browser | None = None
        self._page = PAGE.read_text(encoding="utf-8")

    def app(self) -> web.Application:
        """The application, for a server or a test."""
        app = web.Application()
        app.router.add_get("/", self._serve_page)
        app.router.add_get("/play", self._serve_browser)
        app.on_shutdown.append(self._say_goodbye)
        return app

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says, from any thread, that there is something new to show."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for browser in self._browsers:
            browser.changed.set()

    def _check(self, request: web.Request) -> None:
        """Refuses whoever does not know the token, or, where there is none, another page's script
        that reaches this machine by the name of its own host."""
        if self._token is not None:
            given = request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise web.HTTPForbidden(
                    text="Wrong or no token: open the address as it was printed."
                )
            return
        host = urlsplit(f"//{request.host}").hostname or ""
        origin = request.headers.get("Origin")
        if not is_loopback(host) or (origin and urlsplit(origin).netloc != request.host):
            raise web.HTTPForbidden(text="This page is open to this machine's own browsers only.")

    async def _serve_page(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.Response(text=self._page, content_type="text/html", headers=HEADERS)

    async def _serve_browser(self, request: web.Request) -> web.WebSocketResponse:
        self._check(request)
        connection = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=LARGEST_MESSAGE, timeout=GOODBYE_S
        )
        await connection.prepare(request)
        browser = _Browser(connection)
        self._browsers.append(browser)
        if self._player is None:
            self._player = browser
        self._wake()
        showing = asyncio.ensure_future(self._show(browser))
        try:
            async for message in connection:
                if message.type is not WSMsgType.TEXT or not self._hear(browser, message.data):
                    await connection.close(code=WSCloseCode.POLICY_VIOLATION)
        finally:
            showing.cancel()
            self._leave(browser)
        return connection

    async def _say_goodbye(self, _: web.Application) -> None:
        is_over = self._desk.newest()[0]["phase"] == "ended"
        code = WSCloseCode.OK if is_over else WSCloseCode.GOING_AWAY
        for browser in [*self._browsers]:
            await browser.connection.close(code=code)

    def _leave(self, browser: _Browser) -> None:
        self._browsers.remove(browser)
        if self._player is browser:
            self._player = None
            self._desk.leave("The player's page was closed or lost its connection.")
            self._wake()

    async def _show(self, browser: _Browser) -> None:
        """Sends the newest there is, again and again."""
        with contextlib.suppress(ConnectionError):
            await browser.connection.send_json(self._greeting._asdict())
            pictured: bytes | None = None
            while True:
                await browser.changed.wait()
                await self._wait_for_answer(browser)
                browser.changed.clear()
                browser.sent += 1
                shown, picture = self._desk.newest()
                header = json.dumps({**shown, **self._status(browser)}).encode()
                body = picture if picture is not None and picture is not pictured else b""
                pictured = picture
                browser.sent_at[browser.sent] = time.monotonic()
                await self._send(browser, len(header).to_bytes(4, "little") + header + body)

    def _status(self, browser: _Browser) -> dict[str, Any]:
        """What a browser is told of itself and of others."""
        return {
            "number": browser.sent,
            "role": "player" if browser is self._player else "watcher",
            "seat_is_free": self._player is None,
            "watchers": len(self._browsers) - (self._player is not None),
            "latency": browser.latency_ms,
        }

    async def _send(self, browser: _Browser, message: bytes) -> None:
        sending = asyncio.ensure_future(browser.connection.send_bytes(message))
        try:
            await asyncio.wait_for(asyncio.shield(sending), STALL_S)
        except TimeoutError:
            self._is_away(browser)
            await sending
        finally:
            sending.cancel()

    async def _wait_for_answer(self, browser: _Browser) -> None:
        while browser.sent - browser.shown >= IN_FLIGHT:
            browser.answered.clear()
            try:
                await asyncio.wait_for(browser.answered.wait(), STALL_S)
            except TimeoutError:
                self._is_away(browser)

    def _is_away(self, browser: _Browser) -> None:
        if browser is self._player:
            self._desk.leave("The player's browser has stopped answering.")

    def _hear(self, browser: _Browser, text: str) -> bool:
        """Does what a message asks for; whether it is one of the page's."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return False
        match message:
            case {"shown": int(number)}:
                browser.has_shown(number)
            case {"held": list(buttons)} if all(self._is_button(button) for button in buttons):
                if browser is self._player:
                    self._desk.hold(buttons)
            case {"ask": "play"}:
                self._player = self._player or browser
                self._wake()
            case {"ask": "leave"}:
                if browser is self._player:
                    self._desk.leave("Paused, because the page was left.")
            case {"ask": str(request)} if request in REQUESTS:
                if browser is self._player:
                    self._desk.ask(request)
            case _:
                return False
        return True

    def _is_button(self, button: Any) -> bool:
        return type(button) is int and 0 <= button < self._actions


@contextlib.contextmanager
def serve_page(desk: Desk, greeting: Greeting, host: str, port: int) -> Iterator[str]:
    """Serves the page from a thread, until the context ends; gives its address.

    At another address than this machine's own loopback, the address holds a token: that of the
    environment variable RANNI_TOKEN, or else a new one.

    Raises:
        UserError: nothing can listen there.
    """
    local = is_loopback(host)
    token = None if local else os.environ.get(TOKEN) or secrets.token_urlsafe(16)
    server = PageServer(desk, greeting, token)
    listener = listen(host, port)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(server, listener, started)), daemon=True
    )
    thread.start()
    loop, ended = started.result(START_S)
    desk.on_change = lambda: server.wake(loop)
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 (compared)
    name = f"[{name}]" if ":" in name else name
    question = "" if token is None else f"?token={quote(token, safe='')}"
    try:
        yield f"http://{name}:{listener.getsockname()[1]}/{question}"
    finally:
        desk.on_change = lambda: None
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _serve(
    server: PageServer,
    listener: socket.socket,
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    runner = web.AppRunner(server.app(), shutdown_timeout=GOODBYE_S, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    ended = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), ended))
    await ended.wait()
    await runner.cleanup()
