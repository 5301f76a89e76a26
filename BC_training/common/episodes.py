"""Opens a dataset of recorded episodes and reads from it; all of its bytes come through
`gameplay_pipeline.store.reader`."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from BC_training.common.episode import Episode
from BC_training.common.types import DataSpec, FrameContract, Problem
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import expand, is_url
from gameplay_pipeline.store import checks
from gameplay_pipeline.store.reader import Array, Entry, Reader, read_frames

MAX_LISTED = 20
"""Problems that a message names."""

REQUESTS = 16
"""Episodes whose tables are asked for at a time where they lie behind a URL."""


class Episodes:
    """The usable episodes of a dataset, in natural order."""

    episodes: tuple[Episode, ...]
    skipped: tuple[Problem, ...]
    """What was found in the episodes that are left out."""
    starts: Int[np.ndarray, "E"]
    """Row of each episode's first tick when all episodes are laid end to end."""

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
        self.path, self._validate, self._use_state = expand(str(path)), validate, use_state
        self._reader = _open(self.path)
        names = self._reader.names()
        read = (
            e if isinstance(e, DataError) else checks.take(e) for e in self._reader.entries(names)
        )
        entries = dict(zip(names, read, strict=True))
        self.attributes: dict[str, Any] = self._reader.attributes
        self.actions = self._action_names()
        self.state_names = checks.names_in(path, self.attributes, "attributes")
        if not names:
            raise UserError(
                f"{path}: there are no episodes (groups episode_0, episode_1, ...) in it"
            )
        self.frame_shape, state_columns = checks.most_common_shapes(entries.values())
        self._expected = checks.Expected(
            len(self.actions), self.state_names, state_columns, self.frame_shape
        )
        self.notes: list[Problem] = []
        """What valid episodes hold in another way than the project's, and is taken for it."""
        usable: list[Episode] = []
        problems: list[Problem] = []
        with contextlib.ExitStack() as stack:
            # Threads only hide a network's latency; files are read sooner without them.
            in_turn = stack.enter_context(ThreadPoolExecutor(REQUESTS)).map if is_url(path) else map
            for examined in in_turn(self._examine, entries.items()):
                if isinstance(examined, Episode):
                    usable.append(examined)
                else:
                    problems += examined
        self._keep(usable, problems)
        self._leave_out(self.copies())

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def parts(self) -> "tuple[Episodes, ...]":
        """The datasets that these are the episodes of, one after the other."""
        return (self,)

    @property
    def entries(self) -> Int[np.ndarray, "E"]:
        """Which entry of dataset.path each episode comes from."""
        return np.zeros(len(self), np.int64)

    def gather(self, problems: Sequence[Iterable[Problem]]) -> list[Problem]:
        """What is wrong with the episodes of each of `parts`, by the names that they have here."""
        return [problem for some in problems for problem in some]

    @property
    def ticks(self) -> int:
        """Ticks of all usable episodes together."""
        return sum(episode.length for episode in self.episodes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a decoded frame."""
        channels, height, width = self.frame_shape
        return height, width, channels

    @property
    def frame_bytes(self) -> int:
        """Bytes of a decoded frame."""
        return int(np.prod(self.frame_shape))

    @property
    def chunk_length(self) -> int:
        """Frames that can only be decoded together: those of the largest zarr chunk."""
        return max(episode.frames.chunk_length for episode in self.episodes)

    def fps(self) -> float | None:
        """Ticks a second: the dataset's, or else the median of its episodes', or else None.

        Raises:
            UserError: the attribute is no rate.
        """
        rates = [e.attributes["fps"] for e in self.episodes if "fps" in e.attributes]
        if "fps" in self.attributes:
            rates = [self.attributes["fps"]]
        for fps in rates:
            if not checks.is_rate(fps):
                raise UserError(f"{self.path}: the attribute fps is {fps!r}, not a rate above zero")
        return float(np.median(rates)) if rates else None

    def spec(self) -> DataSpec:
        """What a model must know of this dataset."""
        has_state = self._use_state and all(episode.has_state for episode in self.episodes)
        height, width, channels = self.image_shape
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
        self,
        number: int,
        ticks: Int[np.ndarray, "n"] | slice,
        out: UInt8[np.ndarray, "n H W C"] | None = None,
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Decodes frames of one episode, in the order of `ticks`.

        Args:
            number: of the episode, its position in `episodes`.
            ticks: which frames.
            out: where they are put; in memory of their own if not given.

        Raises:
            DataError: a zarr chunk is missing or can't be decoded.
        """
        episode = self.episodes[number]
        if isinstance(ticks, slice):
            ticks = np.arange(*ticks.indices(episode.length))
        return self._decode([episode.frames] * len(ticks), ticks, out)

    def read_rows(
        self, rows: Int[np.ndarray, "n"], out: UInt8[np.ndarray, "n H W C"] | None = None
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Decodes frames of any episodes, by their rows (see `starts`), as `read_frames` does.

        Raises:
            DataError: a zarr chunk is missing or can't be decoded.
        """
        numbers = np.searchsorted(self.starts, rows, "right") - 1
        arrays = [self.episodes[number].frames for number in numbers.tolist()]
        return self._decode(arrays, rows - self.starts[numbers], out)

    def without(self, problems: Sequence[Problem]) -> "Episodes":
        """The same dataset without the episodes in which something was found.

        Raises:
            UserError: broken episodes are an error, or none is left.
        """
        left = copy.copy(self)
        left._leave_out(problems)
        return left

    def only(self, names: Collection[str]) -> "Episodes":
        """The same dataset with none but the episodes of these names."""
        left = copy.copy(self)
        left._keep([e for e in self.episodes if e.name in names], self.skipped)
        return left

    def fingerprint(self) -> str:
        """Changes when anything does that decides what the frames of the usable episodes are."""
        whole = f"{self.content()} {self._reader.fingerprint()}"
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def content(self) -> str:
        """A digest of the usable episodes' names, lengths and actions; equal for copies."""
        digest = hashlib.sha256()
        for episode in self.episodes:
            digest.update(json.dumps([episode.name, episode.length, self.frame_shape]).encode())
            digest.update(episode.actions.tobytes())
        return digest.hexdigest()[:16]

    def _keep(self, episodes: Sequence[Episode], skipped: Sequence[Problem]) -> None:
        self.episodes, self.skipped = tuple(episodes), tuple(skipped)
        lengths = np.array([episode.length for episode in episodes], np.int64)
        self.starts = np.cumsum(lengths) - lengths

    def _leave_out(self, problems: Sequence[Problem]) -> None:
        names = {problem.episode for problem in problems}
        self._keep([e for e in self.episodes if e.name not in names], (*self.skipped, *problems))
        listed = "\n".join(f"  {problem}" for problem in self.skipped[:MAX_LISTED])
        if len(self.skipped) > MAX_LISTED:
            more = len(self.skipped) - MAX_LISTED
            listed += f"\n  and {more} more; analyze_dataset lists them all"
        if self.skipped and not self._validate:
            raise UserError(
                f"{self.path}: broken episodes:\n{listed}\n"
                "Mend them, or set dataset.validate_episodes to true to train without them."
            )
        if not self.episodes:
            raise UserError(f"{self.path}: none of its episodes can be used:\n{listed}")

    def _decode(
        self,
        arrays: list[Array],
        ticks: Int[np.ndarray, "n"],
        out: UInt8[np.ndarray, "n H W C"] | None,
    ) -> UInt8[np.ndarray, "n H W C"]:
        if out is None:
            out = np.empty((len(ticks), *self.image_shape), np.uint8)
        try:
            return read_frames(arrays, ticks, out)
        except DataError as error:
            advice = "Fetch that chunk again or remove the episode."
            if error.is_transient:
                advice = "Try again when it can be read."
            raise DataError(
                f"{self.path}: {error}. {advice}", error.ticks, is_transient=error.is_transient
            ) from error

    def _action_names(self) -> tuple[str, ...]:
        actions = checks.names_in(self.path, self.attributes, "keys")
        if not actions:
            raise UserError(
                f"{self.path}: the root attribute 'keys' is missing or empty; it must list the "
                "names of the action columns. Attributes found: "
                f"{', '.join(self.attributes) or 'none'}."
            )
        if twice := {name for name in actions if actions.count(name) > 1}:
            names = ", ".join(sorted(twice))
            raise UserError(f"{self.path}: 'keys' names {names} more than once")
        return actions

    def _examine(self, item: tuple[str, Entry | DataError]) -> Episode | list[Problem]:
        """The episode, or all that can be told against it without decoding its frames."""
        name, entry = item
        if isinstance(entry, DataError):
            return [Problem("error", name, str(entry))]
        if faults := list(checks.metadata_faults(entry, self._expected)):
            return [Problem("error", name, *fault) for fault in faults]
        try:
            faults = list(checks.missing_frames(entry))
            episode = Episode(entry)
            state = episode.state if self._use_state else None
            faults += checks.table_faults(state, episode.timestamps, self.state_names)
        except DataError as error:
            if error.is_transient:
                # Without it the episodes would be split otherwise than the next time.
                raise UserError(
                    f"{self.path}: {name} can't be read: {error}. Try again when it can be."
                ) from error
            faults.append(checks.Fault(f"it can't be read: {error}", error.ticks))
            return [Problem("error", name, *fault) for fault in faults]
        self.notes += [Problem("warning", name, *note) for note in checks.notes(entry)]
        return [Problem("error", name, *fault) for fault in faults] or episode

    def copies(self) -> list[Problem]:
        """Later copies of an episode: one in training and one in validation would flatter."""
        first: dict[bytes, int] = {}
        copies = []
        for number, episode in enumerate(self.episodes):
            digest = hashlib.sha256(episode.actions.tobytes()).digest()
            original = first.setdefault(digest, number)
            if original != number and self._same_frames(original, number):
                what = f"it is a copy of {self.episodes[original].name}"
                copies.append(Problem("error", episode.name, what))
        return copies

    def _same_frames(self, one: int, other: int) -> bool:
        """Whether two episodes of equal actions look the same at their ends and in between."""
        length = self.episodes[one].length
        ticks = np.unique([0, length // 3, length // 2, length - 1])
        try:
            return bool((self.read_frames(one, ticks) == self.read_frames(other, ticks)).all())
        except DataError:
            return False  # named when its frames are decoded


def split(
    episodes: Episodes, train_ratio: float, val_ratio: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Episode numbers (positions in `episodes.episodes`) for training, validation and test.

    Each of several datasets is split for itself, as it would be alone. Validation gets at least one
    episode of each if its share is above zero and training keeps one.

    Raises:
        UserError: the training split would have none of a dataset.
    """
    first, numbers = 0, ([], [], [])
    for part in episodes.parts:
        for together, some in zip(
            numbers, _split_one(part, train_ratio, val_ratio, seed), strict=True
        ):
            together += [first + number for number in some]
        first += len(part)
    return numbers


def _split_one(
    episodes: Episodes, train_ratio: float, val_ratio: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    order = np.random.default_rng(seed).permutation(len(episodes))
    train = round(train_ratio * len(episodes))
    # Rounded together, so that shares that make a whole leave no episode out.
    validation = round((train_ratio + val_ratio) * len(episodes)) - train
    if val_ratio > 0 and validation == 0 and len(episodes) > 1:
        validation = 1
    train = min(train, len(episodes) - validation)
    if train <= 0:
        raise UserError(
            f"{episodes.path}: no episode is left to train on: {len(episodes)} valid episodes, "
            f"train_ratio {train_ratio:g}, val_ratio {val_ratio:g}"
        )
    parts = np.split(order, [train, train + validation])
    return (sorted(map(int, parts[0])), sorted(map(int, parts[1])), sorted(map(int, parts[2])))


def _open(path: str | Path) -> Reader:
    if not is_url(path) and not Path(path).exists():
        raise UserError(
            f"{path}: no such dataset. Name another (dataset.path or --dataset), or record the "
            "simulated fight: uv run -m gameplay_pipeline.record --env boss_arena:BossArena-v0 "
            f"--out {path}"
        )
    try:
        return Reader(path)
    except DataError as error:
        raise UserError(f"not a zarr dataset: {error}") from error
