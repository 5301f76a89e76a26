"""Sound files, changed at random: whatever reads them has to read them or to refuse them in words,
within 10 s and 1 GiB.

    uv run python -m tests.support.fuzz --minutes 60 [--only zip]

goes on for an hour and lists what it finds, each at its smallest; tests/pipeline/test_fuzz.py tries
a few of each kind.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.fuzz_targets import TARGETS

SECONDS, GIB = 10, 1.0
"""What one reading may take, in seconds of the processor's time and in memory."""

BUSY = 12
"""How many times as long it may take by the clock, on a machine that has other work."""

VALUES = st.sampled_from([
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 10**18, 10**400, 0.5, -0.0, 1e308, math.nan,
    math.inf, "", "é", "|O", "<M8[ns]", "S5", "uint8", "float32", "..", "../../etc", "/etc/passwd",
    "{chunk_index}", "{video_key:09d}", "pure_cnn", "vla", "\x00", "[/b]", "$x^$", "zstd", "blosc",
    [], {}, [0], [-1], [10**12] * 4, [1, 3, 24, 32], [None], {"": None}, [[[[[[]]]]]],
])  # fmt: skip

PARTS = st.binary(max_size=8) | st.sampled_from([
    b"\x00" * 64, b"\xff" * 8, b"{", b"]", b'"', b",,,", b"\n\n", b"\xef\xbb\xbf", b"PK\x05\x06",
    b"NaN", b"9" * 40, b"-1", b"1e999", b"[" * 5000, b";", b"\t",
])  # fmt: skip


class Change(NamedTuple):
    """One change to one file."""

    file: int
    """Which of the files."""
    at: int
    """Which node of its tree, or which byte."""
    how: str
    value: Any
    part: bytes
    as_bytes: bool
    """Whether a file that holds a tree is changed as bytes all the same."""


CHANGES = st.lists(
    st.builds(
        Change,
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.sampled_from(["replace", "delete", "insert", "swap", "cut"]),
        VALUES,
        PARTS,
        st.sampled_from([False] * 4 + [True]),
    ),
    min_size=1,
    max_size=3,
)


def change_bytes(raw: bytes, change: Change) -> bytes:
    at = change.at % (len(raw) + 1)
    before, after = raw[:at], raw[at:]
    match change.how:
        case "replace":
            return before + change.part + after[len(change.part) :]
        case "delete":
            return before + after[1 + len(change.part) :]
        case "insert":
            return before + change.part + after
        case "swap":
            flipped = bytes([after[0] ^ 1 << change.at % 8]) if after else b""
            return before + flipped + after[1:]
        case _:
            return before


def change_tree(tree: Any, change: Change) -> Any:
    """A tree of JSON in which one node is another."""
    top = [copy.deepcopy(tree)]
    places: list[tuple[Any, Any]] = [(top, 0)]
    for holder, key in places:
        inner = holder[key]
        keys = (
            inner
            if isinstance(inner, dict)
            else range(len(inner) if isinstance(inner, list) else 0)
        )
        places += [(inner, key) for key in keys]
    holder, key = places[change.at % len(places)]
    if change.how == "delete" and holder is not top:
        del holder[key]
    elif change.how == "insert" and isinstance(holder[key], dict | list):
        inner = holder[key]
        inner.update({"x": change.value}) if isinstance(inner, dict) else inner.append(change.value)
    elif change.how == "swap":
        other, at = places[(change.at // len(places)) % len(places)]
        holder[key] = copy.deepcopy(other[at])
    else:
        holder[key] = change.value
    return top[0]


def apply(file: Path, change: Change) -> None:
    """Changes a file; one that can't be changed that way stays as it is."""
    is_tree = not change.as_bytes
    with contextlib.suppress(Exception):
        if is_tree and file.suffix == ".parquet":
            table = pq.read_table(file)
            rows = change_tree(table.to_pylist(), change)
            pq.write_table(pa.Table.from_pylist(rows), file)
        elif is_tree and (file.suffix == ".json" or file.name in ("metadata", *ZARR2)):
            file.write_text(json.dumps(change_tree(json.loads(file.read_text()), change)))
        elif file.suffix != ".parquet":  # bytes are pyarrow's to refuse
            file.write_bytes(change_bytes(file.read_bytes(), change))


ZARR2 = (".zarray", ".zattrs", ".zgroup")


class TooSlow(BaseException):
    """No Exception, so that nothing takes it for damage."""


class TooMuchMemoryError(Exception):
    """More than `GIB`."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raises where the block takes too long or too much memory (the latter on Linux)."""

    def late(*_: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def peak() -> int:
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)

    if reset.exists():
        reset.write_text("5")  # the peak begins anew
    before = peak()
    handlers = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, BUSY * SECONDS)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if peak() - before > GIB * 2**20:
        raise TooMuchMemoryError(f"{(peak() - before) / 2**20:.1f} GiB")


class Fuzzer:
    """Tries changes of one target, in a folder of its own."""

    def __init__(self, name: str, folder: Path):
        self.target, self._sound, self._changed = (
            TARGETS[name],
            folder / "sound",
            folder / "changed",
        )
        self._out = folder / "out"
        self._sound.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            self.target.make(self._sound)
        # A pattern that stands there twice is chosen twice as often.
        self._files = [
            file.relative_to(self._sound)
            for pattern in self.target.files
            for file in sorted(self._sound.glob(pattern))
            if file.is_file()
        ]
        assert self._files

    def attempt(self, changes: list[Change]) -> None:
        """Raises whatever is raised that is no refusal in words."""
        for folder in (self._changed, self._out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._sound, self._changed)
        self._out.mkdir()
        for change in changes:
            apply(self._changed / self._files[change.file % len(self._files)], change)
        silent = io.StringIO()
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            bounded(),
        ):
            warnings.simplefilter("ignore")
            self.target.use(self._changed, self._out)


QUIET = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False,
    phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
)  # fmt: skip


def _signature(error: BaseException) -> str:
    """Where in the project it was raised, and what."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "support/fuzz" not in f.filename
    ]
    inside = [f for f in frames if ".venv" not in f.filename and "lib/python" not in f.filename]
    if not frames:
        return f"{type(error).__name__} in the fuzzer"
    place = (inside or frames)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.name}"


def fuzz(minutes: float, names: list[str]) -> int:
    """Goes on for so many minutes; the number of different faults."""
    faults: dict[str, str] = {}
    tried: Counter[str] = Counter()
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            Path(work, name).mkdir()
        fuzzers = {name: Fuzzer(name, Path(work, name)) for name in names}
        while time.monotonic() < end:
            for name, fuzzer in fuzzers.items():
                _round(name, fuzzer, faults, tried, end)
            print(f"{sum(tried.values()):,} tried {dict(tried)}, {len(faults)} faults", flush=True)
    return len(faults)


def _round(
    name: str, fuzzer: Fuzzer, faults: dict[str, str], tried: Counter[str], end: float
) -> None:
    """A few dozen examples of one target; a fault that is new is printed at its smallest."""

    @settings(QUIET, max_examples=60)
    @seed(random.SystemRandom().randrange(2**32))
    @given(CHANGES)
    def search(changes: list[Change]) -> None:
        if time.monotonic() > end:
            return
        tried[name] += 1
        try:
            fuzzer.attempt(changes)
        except (Exception, TooSlow) as error:
            if f"{name}: {_signature(error)}" not in faults:
                error.changes = changes  # pyright: ignore[reportAttributeAccessIssue]
                raise

    try:
        search()
    except (Exception, TooSlow) as error:
        key = f"{name}: {_signature(error)}"
        faults[key] = str(error)
        print(f"--- {key}\n{getattr(error, 'changes', '')}", flush=True)
        traceback.print_exception(error, file=sys.stdout)
        sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", choices=TARGETS, action="append")
    given_arguments = parser.parse_args()
    sys.exit(1 if fuzz(given_arguments.minutes, given_arguments.only or list(TARGETS)) else 0)
