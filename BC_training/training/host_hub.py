"""What host 0 runs beside its training: it passes on what the hosts say, one JSON text a line."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

LONGEST = 2**26
"""Bytes of a line; a hundred fights have some hundred thousand."""

GONE = "it was killed or can't be reached any more; --resume goes on from the last checkpoint"

SILENCE_S = 10
"""Seconds without an answer after which a host's machine is asked whether it is there, three times
in as many seconds."""


class Hub:
    """The connections of all hosts, served by a thread."""

    def __init__(self, listener: socket.socket, count: int):
        """Begins to serve.

        Args:
            listener: where the hosts come to.
            count: of the hosts.
        """
        self._listener, self._count = listener, count
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._names: dict[int, str] = {}
        self._given: list[deque[Any]] = [deque() for _ in range(count)]
        self._passed: dict[int, int] = {}
        self._asked = False
        self._end_of_one: Mapping[str, Any] | None = None
        """What was said of the first host that ended."""
        self._parted: set[int] = set()
        threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True).start()

    def wait_for_others(self, seconds: float) -> None:
        """Waits until all hosts but the first have left, for so long at most."""
        until = time.monotonic() + seconds
        while {*self._writers} - {0} and time.monotonic() < until:
            time.sleep(0.05)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._welcome, sock=self._listener, limit=LONGEST)
        async with server:
            await server.serve_forever()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank = None
        try:
            keep_alive(writer.get_extra_info("socket"))
            hello = json.loads(await reader.readline())
            rank, name = int(hello["hello"]), str(hello["name"])
            if not 0 <= rank < self._count or rank in self._writers:
                which = f"a second host {rank}" if rank in self._writers else f"a host {rank}"
                rank, message = None, f"{which} came, of {self._count} ({name})"
                refusal = {"end": 1, "message": message}
                self._end_of_one = self._end_of_one or refusal
                self._tell(refusal)
                writer.write(json.dumps(refusal).encode() + b"\n")
                return
            self._writers[rank], self._names[rank] = writer, name
            self._greet(rank)
            while line := await reader.readline():
                self._hear(rank, json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, asyncio.LimitOverrunError):
            pass  # no host of ours, or its machine is gone
        finally:
            if rank is not None:
                self._miss(rank)
            writer.close()

    def _greet(self, rank: int) -> None:
        if self._end_of_one is not None:
            self._tell(self._end_of_one, to={rank})
        elif missing := {*range(self._count)} - {*self._names}:
            self._tell({"missing": sorted(missing)})
        else:
            self._tell({"all": [self._names[number] for number in range(self._count)]})

    def _hear(self, rank: int, message: Mapping[str, Any]) -> None:
        match message:
            case {"give": value}:
                self._given[rank].append(value)
                if all(self._given):
                    self._tell({"all": [given.popleft() for given in self._given]})
            case {"stop": _} if not self._asked:
                self._asked = True
                self._tell({"where": rank})
            case {"passed": calls}:
                self._passed[rank] = calls
                if len(self._passed) == self._count:
                    self._tell({"stop_at": max(self._passed.values()) + 1})
            case {"bye": _}:
                self._parted.add(rank)
            case {"end": status, "message": text}:
                self._end(rank, status, text)

    def _miss(self, rank: int) -> None:
        """A host that leaves without a word has died."""
        del self._writers[rank]
        if rank not in self._parted:
            self._end(rank, 1, GONE)

    def _end(self, rank: int, status: int, text: str) -> None:
        if self._end_of_one is None:
            message = f"host {rank} ({self._names[rank]}): {text}"
            self._end_of_one = {"end": status, "message": message}
            self._tell(self._end_of_one, to={*self._writers} - {rank})

    def _tell(self, message: Mapping[str, Any], to: Collection[int] | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        for rank, writer in self._writers.items():
            if to is None or rank in to:
                with contextlib.suppress(OSError):
                    writer.write(line)


def keep_alive(connection: Any) -> None:
    """Has the system find out within half a minute that the machine at the other end of a socket is
    gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    times = {
        "TCP_KEEPIDLE": SILENCE_S, "TCP_KEEPINTVL": SILENCE_S // 3, "TCP_KEEPCNT": 3,
        # Where something was sent to it meanwhile, nothing else is asked; in milliseconds.
        "TCP_USER_TIMEOUT": 2000 * SILENCE_S,
    }  # fmt: skip
    for name, value in times.items():
        if hasattr(socket, name):  # other systems have other names
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
