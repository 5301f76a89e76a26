"""A folder, or a .zip, behind a URL."""

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.store.archive import Archive
from gameplay_pipeline.store.span import MAX_WHOLE, Span, Storage

CONNECT_S = 15.0
"""Seconds after which a server that takes no connection is given up."""

ANSWER_S = 30.0
"""Seconds after which a server that sends nothing is given up."""

SAID_AFTER_S = 5.0
"""Seconds of waiting after which that is said."""


def open_remote(url: str) -> Storage:
    """Opens a folder or a .zip behind a URL.

    Raises:
        DataError: there is no such file, it can't be reached, or it is a damaged archive.
    """
    filesystem, path = _filesystem(url)
    if not url.partition("?")[0].endswith(".zip"):
        return Remote(filesystem, path, url)
    folder, _, name = path.rpartition("/")
    remote = Remote(filesystem, folder, url)
    # Opening it below would call everything "not found".
    if next(remote.fetch([Span(name, 0, 4)])) is None:
        raise DataError(f"{url}: there is no such file", is_transient=True)
    try:
        with _saying_that_it_waits(url), filesystem.open(path) as file:
            return Archive(remote, name, file, url)
    except DataError:
        raise
    except Exception as error:  # each protocol raises its own
        raise DataError(f"{url}: {_why(error)}", is_transient=True) from error


class Remote:
    """A folder behind a URL."""

    is_checksummed = False

    def __init__(self, filesystem: Any, path: str, url: str):
        self._filesystem, self._path, self._url = filesystem, path.rstrip("/"), url

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | None]:
        if not spans:
            return
        with _saying_that_it_waits(self._url):
            values = self._filesystem.cat_ranges(
                [f"{self._path}/{key}" for key, _, _ in spans],
                [start for _, start, _ in spans],
                [None if size is None else start + size for _, start, size in spans],
                on_error="return",
            )
        for span, value in zip(spans, values, strict=True):
            if isinstance(value, FileNotFoundError):
                yield None
            elif isinstance(value, Exception):
                raise DataError(
                    f"{self._url}: {span.key}: {_why(value)}", is_transient=True
                ) from value
            elif len(value) > span.limit():
                raise DataError(
                    f"{self._url}: the server sends whole files when asked for parts of them; "
                    "download the dataset, or use a server that supports Range requests",
                    is_transient=True,
                )
            else:
                yield value

    def children(self, folder: str) -> list[str] | None:
        path = f"{self._path}/{folder}".rstrip("/")
        try:
            with _saying_that_it_waits(self._url):
                paths = self._filesystem.ls(path, detail=False)
        except Exception:  # each protocol has its own way to say that it has no listing
            return None
        return [name.rstrip("/").rpartition("/")[2] for name in paths]

    def fingerprint(self) -> str:
        """Changes when the file does that the URL names; of a folder, when its metadata do."""
        keys = [".zmetadata", "zarr.json", ".zattrs"]
        try:
            parts = list(self.fetch([Span(key) for key in keys]))
        except DataError:
            parts = []
        digest = hashlib.sha256(self._url.encode())
        for part in parts:
            digest.update(part or b"")
        with contextlib.suppress(Exception):  # a folder has no such information over HTTP
            information = dict(self._filesystem.info(self._filesystem._strip_protocol(self._url)))
            information.pop("url", None)  # where a server redirects to, signed anew each time
            digest.update(json.dumps(information, sort_keys=True, default=str).encode())
        return digest.hexdigest()


@contextlib.contextmanager
def _saying_that_it_waits(url: str) -> Iterator[None]:
    """Says on stderr when the block takes long, once."""

    def say() -> None:
        print(f"{url}: waiting for the server ...", file=sys.stderr, flush=True)

    timer = threading.Timer(SAID_AFTER_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _http_client() -> dict[str, Any]:
    """Settings of an HTTP client that neither waits nor reads without end."""
    import aiohttp  # here, since no dataset on this machine needs it

    class Bounded(aiohttp.ClientResponse):
        """An answer that may hold what was asked for, and no more."""

        async def read(self) -> bytes:
            if self._body is None:
                first, _, last = self.request_info.headers.get("Range", "").rpartition("-")
                limit = MAX_WHOLE
                if self.status == 206 and last:
                    start = int(first.removeprefix("bytes=") or 0)
                    limit = int(last) + 1 - (start if first != "bytes=" else 0)
                parts, size = [], 0
                async for part in self.content.iter_any():
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        self.close()
                        raise aiohttp.ClientPayloadError(
                            f"the server sends more than the {limit} bytes that can be meant"
                        )
                self._body = b"".join(parts)
            return self._body

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S)
    return {"timeout": timeout, "response_class": Bounded}


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        if url.startswith("hf://"):
            # Plain HTTP: the hub's own file system reads one range after the other.
            token = os.environ.get("HF_TOKEN")
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            client = {**_http_client(), "headers": headers}
            return fsspec.core.url_to_fs(_hub_address(url), client_kwargs=client)
        if url.startswith(("http://", "https://")):
            return fsspec.core.url_to_fs(url, client_kwargs=_http_client())
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url}: {error}. https:// and hf:// work as they are; s3:// and gs:// need the extra "
            "`cloud`: uv run --extra cloud ...",
            is_transient=True,
        ) from error


def _hub_address(url: str) -> str:
    """Where hf://datasets/ACCOUNT/NAME[@REVISION]/PATH is served."""
    parts = url.removeprefix("hf://").split("/")
    if len(parts) < 4 or parts[0] != "datasets":
        raise DataError(f"{url}: expected hf://datasets/ACCOUNT/NAME/PATH", is_transient=True)
    name, _, revision = parts[2].partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    path = "/".join(parts[3:])
    return f"{endpoint}/datasets/{parts[1]}/{name}/resolve/{revision or 'main'}/{path}"


def _why(error: Exception) -> str:
    """An error of a protocol in a line: its message, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
