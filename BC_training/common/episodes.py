"""Opens, validates and splits a dataset of recorded episodes; all of its bytes come through
`gameplay_pipeline.store.reader`."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from BC_training.common.frames.buffer_pool import Recycled
from BC_training.common.types import DataSpec, FrameContract, Problem
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import is_url
from gameplay_pipeline.store.checks import (
    Expected,
    metadata_faults,
    missing_frames,
    most_common_shapes,
    table_faults,
)
from gameplay_pipeline.store.reader import Array, Entry, Reader, read_frames

LISTED = 20
"""Problems that a message names."""

REQUESTS = 16
"""Episodes whose tables are asked for at a time where they lie behind a URL."""


class Episode:
    """One recorded fight. Its frames and its state stay on disk."""

    def __init__(self, entry: Entry, actions: Bool[np.ndarray, "N A"]):
        self.name, self.attributes, self.actions = entry.name, entry.attributes, actions
        self.frames = entry.arrays["frames"]
        self._entry = entry

    @property
    def length(self) -> int:
        return len(self.actions)

    @property
    def state(self) -> Float[np.ndarray, "N S"] | None:
        """Read anew each time, for it weighs ten times what the actions do."""
        return self._table("state", np.float32)

    @property
    def timestamps(self) -> Float[np.ndarray, "N"] | None:
        """Seconds at which each frame was taken, where the recorder knew."""
        return self._table("timestamps", np.float64)

    @property
    def has_state(self) -> bool:
        return "state" in self._entry.arrays

    def _table(self, name: str, dtype: type[np.floating]) -> Any:
        array = self._entry.arrays.get(name)
        return None if array is None else array.read().astype(dtype, copy=False)


class Episodes:
    """The valid episodes of a dataset, in natural order."""

    def __init__(self, path: str | Path, *, validate: bool = True, use_state: bool = True):
        """Opens a dataset: a zarr directory, a .zip of one with or without a top folder, or a URL
        of either.

        Args:
            path: the dataset.
            validate: skip broken episodes and list them in `skipped`; otherwise they are an error.
            use_state: whether an episode's state, where it has any, must be sound.

        Raises:
            UserError: the path is missing or no such dataset, or it has no valid episode.
        """
        self.path, self._validate, self._use_state = str(path), validate, use_state
        if not is_url(path) and not Path(path).exists():
            raise UserError(
                f"{path}: no such dataset. Set dataset.path, or record the simulated fight: "
                f"uv run -m gameplay_pipeline.record --env boss_arena:BossArena-v0 --out {path}"
            )
        try:
            self._reader = Reader(path)
        except DataError as error:
            raise UserError(f"not a zarr dataset: {error}") from error
        names = self._reader.names()
        entries = dict(zip(names, self._reader.entries(names), strict=True))
        self.attributes: dict[str, Any] = self._reader.attributes
        self.actions = self._names("keys")
        if not self.actions:
            raise UserError(
                f"{path}: the root attribute 'keys' is missing or empty; it must list the names of "
                f"the action columns. Attributes found: {', '.join(self.attributes) or 'none'}."
            )
        twice = {name for name in self.actions if self.actions.count(name) > 1}
        if twice:
            raise UserError(f"{path}: 'keys' names {', '.join(sorted(twice))} more than once")
        self.state_names = self._names("attributes")
        if not names:
            raise UserError(
                f"{path}: there are no episodes (groups episode_0, episode_1, ...) in it"
            )
        self.frame_shape, state_columns = most_common_shapes(entries.values())
        self._expected = Expected(
            len(self.actions), self.state_names, state_columns, self.frame_shape
        )
        self.episodes: list[Episode] = []
        self.skipped: list[Problem] = []
        with contextlib.ExitStack() as stack:
            # Threads only hide a network's latency; files are read sooner without them.
            in_turn = stack.enter_context(ThreadPoolExecutor(REQUESTS)).map if is_url(path) else map
            for found in in_turn(self._examine, entries.items()):
                if isinstance(found, Episode):
                    self.episodes.append(found)
                else:
                    self.skipped += found
        self.drop(self._copies())

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def ticks(self) -> int:
        """Ticks of all valid episodes together."""
        return sum(episode.length for episode in self.episodes)

    @property
    def frame_bytes(self) -> int:
        """Of one decoded frame."""
        return int(np.prod(self.frame_shape))

    @property
    def chunk_length(self) -> int:
        """Frames that can only be decoded together: those of the largest chunk."""
        return max(episode.frames.chunk_length for episode in self.episodes)

    def fps(self) -> float | None:
        """Ticks a second: the dataset's, or else the median of its episodes', or else None."""
        known = [e.attributes["fps"] for e in self.episodes if "fps" in e.attributes]
        if "fps" in self.attributes:
            known = [self.attributes["fps"]]
        for fps in known:
            if not isinstance(fps, int | float) or not 0 < fps < float("inf"):
                raise UserError(f"{self.path}: the attribute fps is {fps!r}, not a rate above zero")
        return float(np.median(known)) if known else None

    def spec(self) -> DataSpec:
        """What a model must know of this dataset."""
        has_state = self._use_state and all(episode.has_state for episode in self.episodes)
        channels, height, width = self.frame_shape
        return DataSpec(
            actions=self.actions,
            state=self.state_names if has_state else (),
            frame=FrameContract(
                height=height,
                width=width,
                channels=channels,
                color_order=str(self.attributes.get("color_order", "unknown")),
                resize=str(self.attributes.get("resize", "unknown")),
                fps=self.fps(),
            ),
        )

    def read_frames(
        self, number: int, ticks: Int[np.ndarray, "n"] | slice, memory: Recycled | None = None
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Decodes frames of one episode, in the order of `ticks`.

        Args:
            number: of the episode, its position in `episodes`.
            ticks: which frames.
            memory: where they are put; in memory of their own if not given.

        Raises:
            DataError: a chunk is missing or can't be decoded.
        """
        episode = self.episodes[number]
        if isinstance(ticks, slice):
            ticks = np.arange(*ticks.indices(episode.length))
        return self._decode([episode.frames] * len(ticks), ticks, memory)

    def read_rows(
        self, rows: Int[np.ndarray, "n"], memory: Recycled | None = None
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Decodes frames of any episodes, by their rows (see `starts`), as `read_frames` does.

        Raises:
            DataError: a chunk is missing or can't be decoded.
        """
        numbers = np.searchsorted(self.starts, rows, "right") - 1
        arrays = [self.episodes[number].frames for number in numbers.tolist()]
        return self._decode(arrays, rows - self.starts[numbers], memory)

    def _decode(
        self, arrays: list[Array], ticks: Int[np.ndarray, "n"], memory: Recycled | None
    ) -> UInt8[np.ndarray, "n H W C"]:
        channels, height, width = self.frame_shape
        out = (memory or Recycled()).empty((len(ticks), height, width, channels))
        try:
            return read_frames(arrays, ticks, out)
        except DataError as error:
            advice = "Fetch that chunk again or remove the episode."
            if error.is_transient:
                advice = "Try again when it can be read."
            raise DataError(
                f"{self.path}: {error}. {advice}", error.ticks, is_transient=error.is_transient
            ) from error

    def drop(self, problems: Sequence[Problem]) -> None:
        """Sets aside the episodes in which something was found.

        Raises:
            UserError: broken episodes are an error, or none is left.
        """
        names = {problem.episode for problem in problems}
        self.skipped += problems
        self.episodes = [episode for episode in self.episodes if episode.name not in names]
        lengths = np.array([episode.length for episode in self.episodes], np.int64)
        self.starts: Int[np.ndarray, "E"] = np.cumsum(lengths) - lengths
        """Row of each episode's first tick when all episodes are laid end to end."""
        listed = "\n".join(f"  {problem}" for problem in self.skipped[:LISTED])
        if len(self.skipped) > LISTED:
            listed += f"\n  and {len(self.skipped) - LISTED} more; analyze_dataset lists them all"
        if self.skipped and not self._validate:
            raise UserError(
                f"{self.path}: broken episodes:\n{listed}\n"
                "Mend them, or set dataset.validate_episodes to true to train without them."
            )
        if not self.episodes:
            raise UserError(f"{self.path}: none of its episodes can be used:\n{listed}")

    def split(
        self, train_ratio: float, val_ratio: float, seed: int
    ) -> tuple[list[int], list[int], list[int]]:
        """Episode numbers (positions in `episodes`) for training, validation and test.

        Validation gets at least one episode if its share is above zero and training keeps one.

        Raises:
            UserError: the training split would be empty.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        train = round(train_ratio * len(self))
        # Rounded together, so that shares that make a whole leave no episode out.
        validation = round((train_ratio + val_ratio) * len(self)) - train
        if val_ratio > 0 and validation == 0 and len(self) > 1:
            validation = 1
        train = min(train, len(self) - validation)
        if train <= 0:
            raise UserError(
                f"{self.path}: no episode is left to train on: {len(self)} valid episodes, "
                f"train_ratio {train_ratio:g}, val_ratio {val_ratio:g}"
            )
        parts = np.split(order, [train, train + validation])
        return (sorted(map(int, parts[0])), sorted(map(int, parts[1])), sorted(map(int, parts[2])))

    def fingerprint(self) -> str:
        """Changes when anything does that decides what the frames of the valid episodes are."""
        digest = hashlib.sha256()
        for episode in self.episodes:
            digest.update(json.dumps([episode.name, episode.length, self.frame_shape]).encode())
            digest.update(episode.actions.tobytes())
        digest.update(self._reader.fingerprint().encode())
        return digest.hexdigest()[:16]

    def _names(self, attribute: str) -> tuple[str, ...]:
        value = self.attributes.get(attribute, [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise UserError(
                f"{self.path}: the root attribute {attribute!r} must be a list of names"
            )
        return tuple(value)

    def _examine(self, item: tuple[str, Entry | DataError]) -> Episode | list[Problem]:
        """The episode, or all that can be told against it without decoding its frames."""
        name, entry = item
        if isinstance(entry, DataError):
            return [Problem("error", name, str(entry))]
        if wrong := [Problem("error", name, *f) for f in metadata_faults(entry, self._expected)]:
            return wrong
        try:
            wrong = [Problem("error", name, *fault) for fault in missing_frames(entry)]
            episode = Episode(entry, entry.arrays["actions"].read())
            state = episode.state if self._use_state else None
            faults = table_faults(state, episode.timestamps, self.state_names)
            wrong += [Problem("error", name, *fault) for fault in faults]
        except DataError as error:
            if error.is_transient:
                # Without it the episodes would be split otherwise than the next time.
                raise UserError(
                    f"{self.path}: {name} can't be read: {error}. Try again when it can be."
                ) from error
            wrong.append(Problem("error", name, f"it can't be read: {error}", error.ticks))
            return wrong
        return wrong or episode

    def _copies(self) -> list[Problem]:
        """Later copies of an episode: one in training and one in validation would flatter."""
        first: dict[bytes, int] = {}
        found = []
        for number, episode in enumerate(self.episodes):
            digest = hashlib.sha256(episode.actions.tobytes()).digest()
            original = first.setdefault(digest, number)
            if original != number and self._same_frames(original, number):
                what = f"it is a copy of {self.episodes[original].name}"
                found.append(Problem("error", episode.name, what))
        return found

    def _same_frames(self, one: int, other: int) -> bool:
        """Whether two episodes of equal actions look the same at their ends and in between."""
        length = self.episodes[one].length
        ticks = np.unique([0, length // 3, length // 2, length - 1])
        try:
            return bool((self.read_frames(one, ticks) == self.read_frames(other, ticks)).all())
        except DataError:
            return False  # found, and named, when its frames are read
