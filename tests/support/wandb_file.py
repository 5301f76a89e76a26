"""Reads what Weights & Biases wrote offline, without its own code but for the records' schema."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = 7


def records(file: Path) -> Iterator[Any]:
    """Records of a .wandb file: LevelDB's log format, behind seven bytes that name it."""
    raw = file.read_bytes()
    assert raw[:4] == b":W&B", raw[:7]
    at, parts = HEADER, []
    while at + HEADER <= len(raw):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        if kind == 0:
            break
        parts.append(raw[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def items(entries: Any) -> dict[str, Any]:
    """Values by name, nested ones under names joined by slashes."""
    return {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in entries}
