"""Reads the tables of a recorded session: samples of the game's memory, and what was pressed."""

import codecs
import csv
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from gameplay_pipeline.convert.keybinds import Button
from gameplay_pipeline.plumbing.errors import DataError

TIME = "timestamp_us"

TIME_LIMIT_US = 2**62
"""A time that no table reaches."""

MAX_HEADER = 1_000_000
"""Characters in a table's first line, at most."""

UNNAMED = re.compile(r"(Unnamed: \d+)?")
"""The header of a column without a name, such as an index that pandas wrote, and then read and
wrote again."""

EVENTS = {"KEY_DOWN": "key", "KEY_UP": "key", "MOUSE_DOWN": "mouse", "MOUSE_UP": "mouse"}
"""The kind of button, as key bindings name it, that an event is about."""


class Memory(NamedTuple):
    """Samples of the game's memory, in order of time."""

    times: Int64[np.ndarray, "M"]
    """Microseconds."""
    values: Float64[np.ndarray, "M S"]
    notes: list[str]


class Event(NamedTuple):
    """A button goes down or up."""

    time: int
    """Microseconds."""
    is_down: bool
    button: Button


class Inputs(NamedTuple):
    """Events of buttons, in order of time."""

    events: list[Event]
    notes: list[str]
    counts: Counter[str]
    """Events of other kinds, by their description."""


def read_attribute_names(path: Path) -> tuple[str, ...]:
    """Reads the names of a memory table's columns, without that of time.

    Raises:
        DataError: the file is no such table.
    """
    _, header = next(_read_rows(path, ()))
    return tuple(name for name in header if name not in (TIME, ""))


def read_memory(path: Path, attributes: Sequence[str]) -> Memory:
    """Reads the samples of the game's memory.

    Raises:
        DataError: a column is missing, a value is not a number, or there is no sample.
    """
    times, values = array("q"), array("d")
    rows = _read_rows(path, attributes)
    header = next(rows)[1]
    others = [name or "a column without a name" for name in header
              if name not in (TIME, *attributes)]  # fmt: skip
    notes = [f"{path.name}: not carried over: {', '.join(others)}"] if others else []
    for line, (time, *row) in rows:
        times.append(_whole(time, path, line))
        for name, text in zip(attributes, row, strict=True):
            values.append(_number(text, name, path, line))
    if not times:
        raise DataError(f"{path.name} contains no sample")
    order, disorder = _sorted(np.array(times, np.int64), path, is_unique=True)
    table = np.array(values).reshape(len(times), len(attributes))
    return Memory(np.array(times, np.int64)[order], table[order], notes + disorder)


def read_inputs(path: Path) -> Inputs:
    """Reads when buttons went down and up.

    Raises:
        DataError: a column is missing, or a time is not a whole number.
    """
    events: list[Event] = []
    counts: Counter[str] = Counter()
    rows = _read_rows(path, ("event_type", "key_or_button"))
    next(rows)
    for line, (time, kind, name) in rows:
        stamp = _whole(time, path, line)
        if kind not in EVENTS:
            counts[f"events that concern no button, {kind}"] += 1
        else:
            events.append(Event(stamp, kind.endswith("DOWN"), (EVENTS[kind], name.strip().lower())))
    times = np.array([event.time for event in events], np.int64)
    order, notes = _sorted(times, path, is_unique=False)
    return Inputs([events[i] for i in order.tolist()], notes, counts)


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the table's header, then of each row the time and the wanted columns; each with its
    line number. A column without a name is "".

    Raises:
        DataError: the file is no such table.
    """
    try:
        with path.open(newline="", encoding=_encoding(path)) as file:
            separator = _separator(file.readline(MAX_HEADER))
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = ["" if UNNAMED.fullmatch(name.strip()) else name.strip()
                      for name in next(reader, [])]  # fmt: skip
            named = [name for name in header if name]
            if twice := sorted({name for name in named if named.count(name) > 1}):
                raise DataError(f"{path.name} has more than one column {twice[0]!r}")
            if missing := [name for name in (TIME, *columns) if name not in header]:
                there = f"; its columns are {', '.join(named)}" if named else ""
                raise DataError(f"{path.name} has no column {', '.join(missing)}{there}")
            yield reader.line_num, header
            places = [header.index(name) for name in (TIME, *columns)]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path.name}, line {reader.line_num}: {len(row)} values for "
                        f"{len(header)} columns"
                    )
                if separator == ";":  # then numbers may have commas; a comma alone is a key
                    row = [v if v.strip() == "," else v.replace(",", ".") for v in row]
                yield reader.line_num, [row[place] for place in places]
    except UnicodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8 or UTF-16; save it as UTF-8 ({error})"
        ) from error
    except csv.Error as error:
        raise DataError(f"{path.name}: {error}") from error


def _encoding(path: Path) -> str:
    """Tells UTF-16, as spreadsheets and PowerShell write it, from UTF-8."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return "utf-8-sig"


def _separator(header: str) -> str:
    """Tells by the header what separates the columns: commas, semicolons or tabs."""
    return max(",;\t", key=header.count)


def _whole(text: str, path: Path, line: int) -> int:
    """Parses a time; one that was written as 500000.0 or 5e5 is whole too."""
    try:
        value = Decimal(text.strip())
        if abs(value) < TIME_LIMIT_US and value == int(value):
            return int(value)
    except (ArithmeticError, ValueError):
        pass
    raise DataError(f"{path.name}, line {line}: {TIME} is {text!r}, not a whole number")


def _number(text: str, name: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{path.name}, line {line}: {name} is {text!r}, not a number")
    return value


def _sorted(
    times: Int64[np.ndarray, "M"], path: Path, *, is_unique: bool
) -> tuple[Int64[np.ndarray, "M"], list[str]]:
    """Sorts rows by time.

    Args:
        times: times of the rows.
        path: path of the table, for the notes.
        is_unique: whether two rows at one time deserve a note.

    Returns:
        The order, and notes on what was not as it should be.
    """
    steps, notes = np.diff(times), []
    if back := int((steps < 0).sum()):
        notes.append(
            f"{path.name}: {back:,} of {len(times):,} times are before the one above them; sorted"
        )
    if is_unique and (same := len(times) - len(np.unique(times))):
        notes.append(
            f"{path.name}: {same:,} of {len(times):,} times are there twice; the last counts"
        )
    return np.argsort(times, kind="stable"), notes
