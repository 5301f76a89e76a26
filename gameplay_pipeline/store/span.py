"""What every place that holds a dataset's bytes offers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

MAX_WHOLE = 2**28
"""Bytes of a file that is asked for whole, which is how metadata are; more can't be meant."""


class Span(NamedTuple):
    """Bytes of a file: from `start` (negative: counted from its end), at most `size` or all."""

    key: str
    start: int = 0
    size: int | None = None

    def limit(self) -> int:
        """The most bytes that this can be."""
        if self.size is not None:
            return self.size
        return -self.start if self.start < 0 else MAX_WHOLE


class Storage(Protocol):
    """Files by key, such as episode_0/frames/.zarray."""

    is_checksummed: bool
    """Whether damage to a file that is read whole is noticed."""

    def fetch(self, spans: Sequence[Span]) -> Iterator[bytes | memoryview | None]:
        """The bytes of each span, in that order; None where there is no such file.

        They may stand on memory that the next ones take over.

        Raises:
            DataError: a file is there but can't be read.
        """
        ...

    def children(self, folder: str) -> list[str] | None:
        """Names of what is directly in a folder; None where that can't be listed."""
        ...

    def fingerprint(self) -> str:
        """Changes when files do, as far as can be told without reading them."""
        ...
