"""The page's server: what it serves, to whom, and what becomes of held keys."""

import asyncio
import base64
import os
import socket
import threading
import time

import aiohttp
import cv2
import numpy as np
import pytest

from gameplay_pipeline.page import server
from gameplay_pipeline.page.desk import Desk
from gameplay_pipeline.page.person import find_gauges, jpeg
from gameplay_pipeline.page.server import Greeting, serve_page
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.page_client import statuses

GREETING = Greeting("toy", "recording", ("left", "right", "hit"), 17.0, 3)


@pytest.fixture
def desk():
    return Desk(3)


@pytest.fixture
def address(desk):
    with serve_page(desk, GREETING, "127.0.0.1", 0) as address:
        yield address


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def fighting(desk):
    """Begins a fight, as the game's thread does."""
    desk.rest("ready")
    threading.Timer(0.01, desk.ask, ["start"]).start()
    assert desk.wait() == "start"


async def status_of(address, path="", **keywords):
    async with aiohttp.ClientSession() as session, session.get(address + path, **keywords) as got:
        return got.status, got.headers, await got.text()


def test_nothing_but_the_page_is_served(address):
    code, headers, text = asyncio.run(status_of(address))
    assert code == 200
    assert "<canvas" in text
    assert "//" not in text.replace("// ", "")  # no other host is named
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    for path in ("index.html", "server.py", "../pyproject.toml", "..%2f..%2fpyproject.toml",
                 "%2e%2e/%2e%2e/etc/passwd", "play/../server.py", "/etc/passwd"):  # fmt: skip
        assert asyncio.run(status_of(address, path))[0] in (403, 404), path


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_pages_of_other_hosts_can_not_reach_a_page_without_a_token(address, headers):
    for path in ("", "play"):
        assert asyncio.run(status_of(address, path, headers=headers))[0] == 403


def test_at_another_address_the_token_is_needed(desk, monkeypatch):
    monkeypatch.setenv("RANNI_TOKEN", "gehe+im/ö&k#")
    with serve_page(desk, GREETING, "0.0.0.0", 0) as address:
        base, _, question = address.partition("?")
        local = f"http://127.0.0.1:{base.rpartition(':')[2]}"
        for path in ("", "play"):
            for wrong in ("", "?token=", "?token=gehe", "?token=%ff"):
                assert asyncio.run(status_of(local, path + wrong))[0] == 403
        assert asyncio.run(status_of(local, "?" + question))[0] == 200
    monkeypatch.delenv("RANNI_TOKEN")
    addresses = []
    for _ in range(2):
        with serve_page(desk, GREETING, "0.0.0.0", 0) as address:
            addresses.append(address.partition("?token=")[2])
    assert len(addresses[0]) > 20
    assert addresses[0] != addresses[1]


def test_a_port_in_use_is_named(desk, address):
    port = int(address.rstrip("/").rpartition(":")[2])
    with (
        pytest.raises(UserError, match=f"--port {port}: can't listen .* choose another port"),
        serve_page(desk, GREETING, "127.0.0.1", port),
    ):
        pass


def test_the_second_page_watches_until_the_first_is_closed(desk, address):
    async def two():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{address}play") as first,
            session.ws_connect(f"{address}play") as second,
        ):
            ours, theirs = statuses(first), statuses(second)
            assert (await anext(ours))["role"] == "player"
            assert (await anext(theirs))["role"] == "watcher"
            await asyncio.to_thread(fighting, desk)
            await second.send_json({"held": [0]})
            await second.send_json({"ask": "abandon"})
            await second.send_json({"ask": "play"})
            await first.send_json({"held": [2]})
            await asyncio.to_thread(wait_for, lambda: desk._buttons._down[2])
            await asyncio.sleep(0.05)
            assert desk.take().tolist() == [False, False, True]
            await first.close()
            while not (status := await anext(theirs))["seat_is_free"]:
                pass
            assert (status["role"], status["phase"]) == ("watcher", "paused")
            await second.send_json({"ask": "play"})
            while (await anext(theirs))["role"] != "player":
                pass
            await second.send_json({"ask": "resume"})
            await second.send_json({"held": [0]})
            await asyncio.to_thread(wait_for, lambda: desk._buttons._down[0])

    asyncio.run(two())


def test_a_lost_connection_releases_what_was_held(desk, address):
    async def hold_and_vanish():
        async with aiohttp.ClientSession() as session:
            connection = await session.ws_connect(f"{address}play")
            await asyncio.to_thread(fighting, desk)
            await connection.send_json({"held": [0, 2]})
            await asyncio.to_thread(wait_for, lambda: desk._buttons._down.any())
            connection._response.connection.transport.abort()

    asyncio.run(hold_and_vanish())
    wait_for(lambda: desk.newest()[0]["phase"] == "paused")
    assert not desk.take().any()
    assert "lost its connection" in desk.newest()[0]["notice"]
    desk.ask("resume")
    assert not desk.take().any()


def test_a_browser_that_stops_reading_blocks_nothing_and_loses_the_buttons(desk, address):
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as deaf:
        key = base64.b64encode(os.urandom(16)).decode()
        deaf.sendall(
            f"GET /play HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        wait_for(lambda: desk.on_change is not None and deaf.recv(1))
        fighting(desk)
        desk.hold([1])
        began, picture = time.monotonic(), bytes(1 << 20)
        for tick in range(200):
            desk.show(picture + bytes([tick]), tick=tick)
        assert time.monotonic() - began < 1

        def paused():
            desk.show(picture)  # the game goes on: a server that was busy sent but the newest tick
            return desk.newest()[0]["phase"] == "paused"

        wait_for(paused)
    assert "stopped answering" in desk.newest()[0]["notice"]
    assert not desk.take().any()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 4000, '{"held": [3]}', '{"held": [-1]}', '{"held": [true]}', '{"held": 1}',
     '{"ask": "rm"}', '{"ask": ["start"]}', '{"shown": "1"}', '{"path": "/etc/passwd"}'],
)  # fmt: skip
def test_what_is_not_a_message_of_the_page_ends_the_connection(address, text):
    async def send():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{address}play") as connection,
        ):
            await connection.send_str(text)
            async for _ in connection:
                pass
            return connection.close_code

    assert asyncio.run(send()) == 1008


def test_a_slow_browser_gets_the_newest_and_no_queue(desk, address, monkeypatch):
    monkeypatch.setattr(server, "STALL_S", 60)

    async def watch():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{address}play") as connection,
        ):
            await connection.receive()  # the greeting
            ticks = []
            for tick in range(300):
                desk.show(b"picture", tick=tick)
                if tick % 100 == 0:
                    await asyncio.sleep(0.05)
            while not ticks or ticks[-1] != 299:
                message = await connection.receive()
                size = int.from_bytes(message.data[:4], "little")
                status = server.json.loads(message.data[4 : 4 + size])
                ticks.append(status.get("tick"))
                await connection.send_json({"shown": status["number"]})
            return ticks

    assert len(asyncio.run(watch())) <= 4


def test_a_tap_shorter_than_a_tick_is_pressed_for_one(desk):
    fighting(desk)
    desk.hold([0])
    desk.hold([])
    desk.hold([1])
    assert desk.take().tolist() == [True, True, False]
    assert desk.take().tolist() == [False, True, False]
    desk.leave("away")
    desk.hold([2])  # on its way when the page was left
    desk.ask("resume")
    assert desk.take().tolist() == [False, False, False]


@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (2, 301)])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_frames_of_any_size_are_shown_in_their_colours(shape, order):
    frame = np.zeros((*shape, 3), np.uint8)
    frame[..., "RGB".index("R") if order == "RGB" else 2] = 200
    image = cv2.imdecode(np.frombuffer(jpeg(frame, order), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (*shape, 3)
    assert abs(image.mean(axis=(0, 1)) - [0, 0, 200]).max() < 4


def test_health_and_stamina_are_found_by_their_names():
    names = ("HeroHp", "HeroMaxHp", "HeroAngle", "HeroSp", "HeroMaxSp", "NpcHp", "NpcMaxHp")
    assert find_gauges(names) == [
        ("HeroHp", "HeroMaxHp"), ("HeroSp", "HeroMaxSp"), ("NpcHp", "NpcMaxHp"),
    ]  # fmt: skip
    assert find_gauges(("AMMO2", "HEALTH", "x")) == [("AMMO2", None), ("HEALTH", None)]
