"""Web servers on this machine, for datasets behind a URL."""

import contextlib
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, as object stores and web servers do; Python's own handler can't."""

    protocol_version = "HTTP/1.1"
    honours_ranges = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if "forbidden" in self.path or not path.is_file():
            self._answer(403 if "forbidden" in self.path else 404, b"")
            return
        data = path.read_bytes()
        asked = re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None or not self.honours_ranges:
            self._answer(200, data)
            return
        first = int(asked[1]) if asked[1] else max(len(data) - int(asked[2]), 0)
        if first >= len(data) > 0:
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        last = min(int(asked[2]), len(data) - 1) if asked[1] and asked[2] else len(data) - 1
        content = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._answer(206, data[first : last + 1], content)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        ranges = {"Accept-Ranges": "bytes"} if self.honours_ranges else {}
        sizes = {"Content-Length": str(len(data))}
        for name, value in {**sizes, **ranges, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Whole(Ranged):
    """A server that knows no ranges."""

    honours_ranges = False


@contextlib.contextmanager
def serving(folder: Path, handler: type[Ranged] = Ranged) -> Iterator[str]:
    """Serves a folder for a while; gives the server's address."""
    made = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
