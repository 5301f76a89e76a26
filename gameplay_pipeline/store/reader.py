"""Reads recorded datasets in zarr format 2 and 3; the only reader of zarr."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from gameplay_pipeline.plumbing.errors import DataError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store import layout
from gameplay_pipeline.store.array import Array, ChunkReader, read_chunks
from gameplay_pipeline.store.span import Span
from gameplay_pipeline.store.storage import open_storage

ARRAYS = ("frames", "actions", "state", "timestamps")
"""What an episode may hold."""

CORRECTIONS = ("policy_actions", "intervention")
"""What an episode may hold besides, where a policy was corrected: what that wanted, bool [N, A],
and whether somebody else drove, bool [N]. The actions are what should have been pressed."""

JUDGED = "judged"
"""Attribute of an episode with an intervention: "all" where somebody said at every tick what should
have been pressed. Otherwise that is known only of the ticks at which somebody else drove."""

READ = (*ARRAYS, *CORRECTIONS)

EPISODE = re.compile(r"episode_(\d+)")

INDEXED_AT_ONCE = 1024
"""Episodes whose metadata is asked for together, so that a server can answer in parallel."""


class Entry(NamedTuple):
    """An episode as its metadata describes it; nothing of its arrays is read yet."""

    name: str
    attributes: dict[str, Any]
    arrays: "dict[str, Array]"

    @property
    def is_checksummed(self) -> bool:
        """Whether damage to any byte of its chunks is noticed when they are read."""
        return all(array.is_checksummed for array in self.arrays.values())


class Reader:
    """A dataset: a folder, a .zip, or a URL of either."""

    def __init__(self, location: str | Path):
        """Opens the root group.

        Raises:
            DataError: there is none, or it can't be read.
        """
        self.location = str(location)
        self._storage = open_storage(location)
        self._fingerprint: str | None = None
        self._consolidated: dict[str, Any] = {}
        self.zarr_format, self.attributes = self._read_root()
        # Consolidated metadata may be older than the dataset: whatever can be listed is believed.
        if is_url(location) and not any(map(EPISODE.fullmatch, self._storage.children("") or ())):
            self._consolidated = self._read_consolidated()
            self._check_consolidated()

    def names(self) -> list[str]:
        """The episodes' names, in natural order.

        Raises:
            DataError: where the dataset is, nothing can be listed, or two have one number.
        """
        if self._consolidated:
            children = list({key.partition("/")[0] for key in self._consolidated})
        else:
            children = self._storage.children("")
        if children is None:
            raise DataError(
                f"{self.location}: this server lists no folders and the dataset has no "
                "consolidated metadata; run zarr.consolidate_metadata on it, or serve it as a .zip"
            )
        found: dict[int, str] = {}
        for name in sorted(children):
            if match := EPISODE.fullmatch(name):
                other = found.setdefault(int(match[1]), name)
                if other != name:
                    raise DataError(
                        f"{self.location}: {other} and {name} have the same number; rename or "
                        "remove one of them"
                    )
        return [found[number] for number in sorted(found)]

    def entries(self, names: Sequence[str]) -> Iterator[Entry | DataError]:
        """Metadata of episodes, in that order; of one that is broken, why.

        Raises:
            DataError: where the dataset is, can't be reached any more.
        """
        for first in range(0, len(names), INDEXED_AT_ONCE):
            some = names[first : first + INDEXED_AT_ONCE]
            keys = [key for name in some for key in self._metadata_keys(name)]
            values = self._fetch_metadata(keys)
            for name in some:
                own = {key: next(values) for key in self._metadata_keys(name)}
                try:
                    yield self._entry(name, own)
                except DataError as error:
                    yield error
                except Exception as error:  # whatever damaged metadata may raise
                    yield DataError(f"its metadata can't be read: {error!s}")

    def fingerprint(self) -> str:
        """Changes when files of the dataset do; as they are when it is first asked for."""
        if self._fingerprint is None:
            self._fingerprint = self._storage.fingerprint()
        return self._fingerprint

    def other_arrays(self, name: str) -> list[str]:
        """What an episode holds besides `ARRAYS`, as far as that can be listed."""
        own = {*ARRAYS, "zarr.json"}
        children = self._storage.children(name) or []
        return sorted(child for child in children if child not in own and child[0] != ".")

    def open_array(self, key: str) -> "Array | None":
        """Any array of the dataset by its path, such as data/action; None where there is none.

        Raises:
            DataError: its metadata can't be read.
        """
        name = "zarr.json" if self.zarr_format == 3 else ".zarray"
        (metadata,) = self._fetch_metadata([f"{key}/{name}"])
        if metadata is None:
            return None
        if isinstance(metadata, Exception):
            raise DataError(f"{key}: its metadata can't be read: {metadata}") from metadata
        return Array(self._storage, key, layout.parse(key, metadata))

    def _read_root(self) -> tuple[int, dict[str, Any]]:
        new, group, attributes = self._fetch_metadata(["zarr.json", ".zgroup", ".zattrs"])
        for value, file in ((new, "zarr.json"), (attributes, ".zattrs")):
            if isinstance(value, Exception):
                raise DataError(f"{self.location}: {file} can't be read: {value}")
        if isinstance(new, dict):
            attributes = new.get("attributes")
        elif group is None:
            raise DataError(f"{self.location}: there is no zarr group in it")
        if not isinstance(attributes, dict | None):
            raise DataError(f"{self.location}: its attributes are {attributes!r}, not a mapping")
        return 3 if isinstance(new, dict) else 2, dict(attributes or {})

    def _read_consolidated(self) -> dict[str, Any]:
        """Metadata of all groups and arrays by file, where the dataset has it in one place."""
        old, new = self._fetch_metadata([".zmetadata", "zarr.json"])
        try:
            if isinstance(old, dict):
                return dict(old["metadata"])
            if isinstance(new, dict) and new.get("consolidated_metadata"):
                inner = new["consolidated_metadata"]["metadata"]
                return {"zarr.json": new, **{f"{key}/zarr.json": inner[key] for key in inner}}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.location}: its consolidated metadata is damaged: {error!r}"
            ) from error
        return {}

    def _check_consolidated(self) -> None:
        """Looks whether the last episode is as the consolidated metadata say, and is the last.

        Raises:
            DataError: they are older than the dataset.
        """
        names = self.names() if self._consolidated else []
        if not names:
            return
        following = f"episode_{int(names[-1].removeprefix('episode_')) + 1}"
        last, new = self._metadata_keys(names[-1]), self._metadata_keys(following)
        stored, self._consolidated = self._consolidated, {}
        values = dict(zip([*last, *new], self._fetch_metadata([*last, *new]), strict=True))
        self._consolidated = stored
        wrong = names[-1] if any(values[k] != stored.get(k) for k in last[1:]) else None
        if wrong is None and any(values[key] is not None for key in new):
            wrong = following
        if wrong is not None:
            raise DataError(
                f"{self.location}: {wrong} is not as the dataset's consolidated metadata say, "
                "which are older than the dataset; run zarr.consolidate_metadata on it again, or "
                "serve it as a .zip"
            )

    def _metadata_keys(self, name: str) -> list[str]:
        if self.zarr_format == 3:
            return [f"{name}/zarr.json", *(f"{name}/{array}/zarr.json" for array in READ)]
        return [f"{name}/.zattrs", *(f"{name}/{array}/.zarray" for array in READ)]

    def _fetch_metadata(self, keys: Sequence[str]) -> Iterator[Any]:
        """Parsed JSON files; None for those that are not there, an error for the unreadable."""
        if self._consolidated:
            yield from (self._consolidated.get(key) for key in keys)
            return
        done = 0
        while done < len(keys):
            try:
                for raw in self._storage.fetch([Span(key) for key in keys[done:]]):
                    done += 1
                    yield _parsed(raw)
            except DataError as error:  # ends the fetching: what follows is asked for anew
                if error.is_transient:
                    raise
                done += 1
                yield error

    def _entry(self, name: str, metadata: Mapping[str, Any]) -> Entry:
        for key, value in metadata.items():
            if isinstance(value, Exception):
                raise DataError(f"its metadata can't be read: {key}: {value}")
        group, *arrays = metadata.values()
        attributes = group or {}
        if self.zarr_format == 3:
            attributes = attributes.get("attributes", {})
        return Entry(
            name,
            dict(attributes),
            {
                array: Array(self._storage, key, layout.parse(key, value))
                for array, value in zip(READ, arrays, strict=True)
                if value is not None and (key := f"{name}/{array}")
            },
        )


def _parsed(raw: bytes | memoryview | None) -> Any:
    """What a JSON file holds, or why it can't be read; None where there is none."""
    try:
        return None if raw is None else json.loads(bytes(raw))
    except (ValueError, RecursionError) as error:
        return error


def read_frames(
    arrays: Sequence[Array],
    ticks: Int[np.ndarray, "n"],
    out: UInt8[np.ndarray, "n H W C"] | None = None,
) -> UInt8[np.ndarray, "n H W C"]:
    """Frames of arrays [N, 3, H, W] of one dataset, in that order.

    A chunk that holds several of them is decoded once.

    Args:
        arrays: arrays of each frame.
        ticks: ticks of each frame.
        out: where they are put; in memory of their own if not given.

    Raises:
        DataError: a chunk is missing or can't be decoded.
    """
    if out is None:
        channels, height, width = arrays[0].shape[1:]
        out = np.empty((len(ticks), height, width, channels), np.uint8)
    if all(array.is_image for array in arrays):
        _read_images(arrays, ticks, out)
        return out
    places: dict[tuple[Array, int], list[tuple[int, int]]] = {}
    for at, (array, tick) in enumerate(zip(arrays, ticks.tolist(), strict=True)):
        number, row = divmod(tick, array.chunk_length)
        places.setdefault((array, number), []).append((at, row))
    for chunk, targets in zip(read_chunks(list(places)), places.values(), strict=True):
        array = arrays[targets[0][0]]
        for at, row in targets:
            if array.taken_for.channels_first:
                out[at] = chunk[row]
                continue
            # Interleaves the planes many times faster than NumPy's strided copy.
            cv2.merge(tuple(chunk[row]), out[at])
    return out


def _read_images(
    arrays: Sequence[Array], ticks: Int[np.ndarray, "n"], out: UInt8[np.ndarray, "n H W C"]
) -> None:
    """`read_frames` where each frame is a chunk: what it does besides decoding counts."""
    if not arrays:
        return
    chunks = ChunkReader(
        [(a, (tick, 0, 0, 0)) for a, tick in zip(arrays, ticks.tolist(), strict=True)]
    )
    scratch = np.empty(arrays[0].layout.chunk_bytes, np.uint8)
    planes = tuple(scratch.reshape(out.shape[-1], *out.shape[1:3]))
    for target in out:
        chunks.decode_into(scratch)
        cv2.merge(planes, target)
