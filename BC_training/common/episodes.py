"""Opens, validates and splits a dataset of recorded episodes. The only reader of zarr."""

import dataclasses
import hashlib
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
import zarr
from jaxtyping import Bool, Float, Int, UInt8
from zarr.storage import ZipStore

from BC_training.common.types import DataSpec, FrameContract, UserError

EPISODE = re.compile(r"episode_(\d+)")


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded fight. Its frames stay on disk."""

    name: str
    actions: Bool[np.ndarray, "N A"]
    state: Float[np.ndarray, "N S"] | None
    attributes: dict[str, Any]

    @property
    def length(self) -> int:
        return len(self.actions)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An episode that can't be used, and why."""

    name: str
    reason: str


class Episodes:
    """The valid episodes of a dataset, in natural order."""

    def __init__(self, path: str | Path, *, validate: bool = True, threads: int = 2):
        """Opens a dataset: a zarr directory or a .zip of one, with or without a top folder.

        Args:
            path: the dataset.
            validate: skip broken episodes and list them in `skipped`; otherwise they are an error.
            threads: for decoding frames.

        Raises:
            UserError: the path is missing or no such dataset, or it has no valid episode.
        """
        self.path = Path(path)
        self._store = _Store(self.path, threads)
        root = self._store.root
        self.attributes: dict[str, Any] = dict(root.attrs)
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
        names = sorted(
            (name for name in root.group_keys() if EPISODE.fullmatch(name)),
            key=lambda name: int(name.removeprefix("episode_")),
        )
        if not names:
            raise UserError(
                f"{path}: there are no episodes (groups episode_0, episode_1, ...) in it"
            )
        self.episodes: list[Episode] = []
        self.skipped: list[Skipped] = []
        opened = {name: self._open(name) for name in names}
        self.frame_shape, self._state_width = _commonest(opened.values())
        for name, group in opened.items():
            try:
                self.episodes.append(self._read(name, group))
            except _BrokenEpisodeError as error:
                self.skipped.append(Skipped(name, str(error)))
        self._refuse(validate)
        self.starts: Int[np.ndarray, "E"] = np.cumsum(
            [0] + [episode.length for episode in self.episodes[:-1]]
        )
        """Row of each episode's first tick when all episodes are laid end to end."""

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def ticks(self) -> int:
        """Ticks of all valid episodes together."""
        return sum(episode.length for episode in self.episodes)

    def fps(self) -> float | None:
        """Ticks a second: the dataset's, or else the median of its episodes', or else None."""
        known = [e.attributes["fps"] for e in self.episodes if "fps" in e.attributes]
        if "fps" in self.attributes:
            known = [self.attributes["fps"]]
        for fps in known:
            if not isinstance(fps, int | float) or not 0 < fps < float("inf"):
                raise UserError(f"{self.path}: the attribute fps is {fps!r}, not a rate above zero")
        return float(np.median(known)) if known else None

    def spec(self, *, use_state: bool = True) -> DataSpec:
        """What a model must know of this dataset."""
        has_state = use_state and all(episode.state is not None for episode in self.episodes)
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
        self, number: int, ticks: Int[np.ndarray, "n"] | slice
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Decodes frames of one episode, in the order of `ticks`.

        Raises:
            UserError: a chunk is missing or can't be decoded.
        """
        name = self.episodes[number].name
        try:
            frames = self._store.frames(name)[ticks].read().result()
        except Exception as error:  # tensorstore raises many kinds; all mean the same to a person
            raise UserError(
                f"{self.path}: {name}/frames can't be read: {error}. Mend or remove the episode. "
                "(A chunk that was left out because it is all black counts as missing: write such "
                "chunks too.)"
            ) from error
        return np.ascontiguousarray(np.moveaxis(frames, 1, -1))

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
        digest.update(self._store.fingerprint().encode())
        return digest.hexdigest()[:16]

    def _names(self, attribute: str) -> tuple[str, ...]:
        value = self.attributes.get(attribute, [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise UserError(
                f"{self.path}: the root attribute {attribute!r} must be a list of names"
            )
        return tuple(value)

    def _open(self, name: str) -> "_Opened | _BrokenEpisodeError":
        try:
            group = self._store.root[name]
            assert isinstance(group, zarr.Group)
            return _Opened(dict(group.arrays()), dict(group.attrs))
        except Exception as error:  # zarr raises whatever its parsers do
            return _BrokenEpisodeError(f"its metadata can't be read: {error}")

    def _read(self, name: str, opened: "_Opened | _BrokenEpisodeError") -> Episode:
        if isinstance(opened, _BrokenEpisodeError):
            raise opened
        arrays = opened.arrays
        for needed in ("frames", "actions"):
            if needed not in arrays:
                raise _BrokenEpisodeError(f"it has no array {needed!r}")
        frames, actions, state = arrays["frames"], arrays["actions"], arrays.get("state")
        if frames.dtype != np.uint8:
            raise _BrokenEpisodeError(f"frames are {frames.dtype}, not uint8")
        if actions.dtype != np.bool_:
            raise _BrokenEpisodeError(f"actions are {actions.dtype}, not bool")
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise _BrokenEpisodeError(f"frames have shape {frames.shape}, not (N, 3, H, W)")
        if actions.ndim != 2 or actions.shape[1] != len(self.actions):
            raise _BrokenEpisodeError(
                f"actions have shape {actions.shape}, but 'keys' names {len(self.actions)} actions"
            )
        length = frames.shape[0]
        if actions.shape[0] != length:
            raise _BrokenEpisodeError(f"{length} frames but {actions.shape[0]} actions")
        if length == 0:
            raise _BrokenEpisodeError("it is empty")
        if state is not None:
            if state.ndim != 2 or (self.state_names and state.shape[1] != len(self.state_names)):
                raise _BrokenEpisodeError(
                    f"state has shape {state.shape}, but 'attributes' names "
                    f"{len(self.state_names)} columns"
                )
            if state.shape[0] != length:
                raise _BrokenEpisodeError(f"{length} frames but {state.shape[0]} states")
            if not np.issubdtype(state.dtype, np.floating):
                raise _BrokenEpisodeError(f"state is {state.dtype}, not float32")
        shape = (int(frames.shape[1]), int(frames.shape[2]), int(frames.shape[3]))
        if shape != self.frame_shape:
            raise _BrokenEpisodeError(f"frames are {shape}, most are {self.frame_shape}")
        width = 0 if state is None else int(state.shape[1])
        if width != self._state_width:
            raise _BrokenEpisodeError(f"state has {width} columns, most have {self._state_width}")
        try:
            pressed = np.asarray(actions[:])
            values = None if state is None else np.asarray(state[:], np.float32)
        except Exception as error:  # any codec may fail in its own way
            raise _BrokenEpisodeError(f"actions or state can't be read: {error}") from error
        return Episode(name, pressed, values, opened.attributes)

    def _refuse(self, validate: bool) -> None:
        listed = "\n".join(f"  {skipped.name}: {skipped.reason}" for skipped in self.skipped)
        if self.skipped and not validate:
            raise UserError(
                f"{self.path}: broken episodes:\n{listed}\n"
                "Mend them, or set dataset.validate_episodes to true to train without them."
            )
        if not self.episodes:
            raise UserError(f"{self.path}: none of its episodes can be used:\n{listed}")


class _BrokenEpisodeError(Exception):
    """Why an episode can't be used."""


class _Opened(NamedTuple):
    """An episode's metadata."""

    arrays: dict[str, zarr.Array]
    attributes: dict[str, Any]


def _commonest(
    episodes: Iterable[_Opened | _BrokenEpisodeError],
) -> tuple[tuple[int, int, int], int]:
    """The frame shape and state width that most episodes have."""
    found: Counter[tuple[tuple[int, int, int], int]] = Counter()
    for episode in episodes:
        if isinstance(episode, _BrokenEpisodeError):
            continue
        frames, state = episode.arrays.get("frames"), episode.arrays.get("state")
        if frames is not None and frames.ndim == 4:
            channels, height, width = (int(size) for size in frames.shape[1:])
            columns = int(state.shape[1]) if state is not None and state.ndim == 2 else 0
            found[(channels, height, width), columns] += 1
    return found.most_common(1)[0][0] if found else ((3, 0, 0), 0)


class _Store:
    """Where a dataset's bytes are: zarr-python reads its metadata, tensorstore its frames."""

    def __init__(self, path: Path, threads: int):
        if not path.exists():
            raise UserError(
                f"{path}: no such dataset. Set dataset.path, or record the simulated fight: "
                f"python -m gameplay_pipeline.record --env boss_arena:BossArena-v0 --out {path}"
            )
        self._path = path
        self._top = ""
        self._context = ts.Context({"data_copy_concurrency": {"limit": threads}})
        try:
            if path.is_dir():
                self.root = zarr.open_group(path, mode="r")
            else:
                self._top = _top_folder(path)
                store = ZipStore(path, mode="r")
                self.root = zarr.open_group(store, path=self._top, mode="r")
        except (zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
            # zarr's own errors for "no group here" derive from these.
            raise UserError(
                f"{path}: not a zarr dataset (a zarr directory, or a .zip of one): {error}"
            ) from error

    def frames(self, episode: str) -> ts.TensorStore:
        """The frames of an episode; a chunk that is missing on disk is an error, not zeros."""
        if self._path.is_dir():
            kvstore = {"driver": "file", "path": f"{self._path.resolve()}/{episode}/frames/"}
        else:
            base = {"driver": "file", "path": str(self._path.resolve())}
            prefix = f"{self._top}/" if self._top else ""
            kvstore = {"driver": "zip", "base": base, "path": f"{prefix}{episode}/frames/"}
        driver = "zarr" if self.root.metadata.zarr_format == 2 else "zarr3"
        spec = {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}
        return ts.open(spec, read=True, context=self._context).result()

    def fingerprint(self) -> str:
        """Names, sizes and times of all files; of a zip, its own."""
        files: Sequence[Path]
        if self._path.is_dir():
            folders = [Path(folder) for folder, _, _ in os.walk(self._path)]
            files = [Path(e) for folder in folders for e in os.scandir(folder) if e.is_file()]
        else:
            files = [self._path]
        digest = hashlib.sha256(str(self._path.resolve()).encode())
        for file in sorted(files):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _top_folder(path: Path) -> str:
    """The folder inside a zip that holds the root group; empty where it is the zip's own root."""
    with zipfile.ZipFile(path) as archive:
        metadata = [
            n for n in archive.namelist() if n.rpartition("/")[2] in (".zgroup", "zarr.json")
        ]
    if not metadata:
        raise UserError(f"{path}: no zarr group in this zip")
    return min(metadata, key=lambda name: name.count("/")).rpartition("/")[0]
