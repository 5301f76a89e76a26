"""Several datasets as one."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from BC_training.common.episodes import Episodes
from BC_training.common.types import DataSpec, Problem
from gameplay_pipeline.plumbing.errors import UserError


class Part(NamedTuple):
    """One of several datasets."""

    episodes: Episodes
    label: str
    """Tells its episodes from those of the others, which have the same names."""
    entry: int
    """Which entry of dataset.path it comes from."""


def open_datasets(entries: Sequence[Sequence[str | Path]], **options: Any) -> Episodes:
    """Opens the datasets of each entry of dataset.path; `options` are those of `Episodes`.

    Raises:
        UserError: one can't be used, or they don't agree in actions, state or frames.
    """
    paths = [(str(path), number) for number, some in enumerate(entries) for path in some]
    if len(paths) == 1:
        return Episodes(paths[0][0], **options)
    names = [path.rstrip("/").rpartition("/")[2] for path, _ in paths]
    parts = [
        Part(Episodes(path, **options), name if names.count(name) == 1 else path, entry)
        for (path, entry), name in zip(paths, names, strict=True)
    ]
    joined = JoinedEpisodes(parts)
    return joined.without(joined.copies())


class JoinedEpisodes(Episodes):
    """The usable episodes of several datasets, one dataset after the other; their columns are in
    the order of the first. Episodes are called label/episode_0, and so on."""

    def __init__(self, parts: Sequence[Part]):
        """Lays datasets end to end.

        Raises:
            UserError: they don't agree in actions, state or frames; each difference is named.
        """
        first = parts[0].episodes
        for part in parts[1:]:
            _require_same(first, part.episodes)
        self._parts = tuple(parts)
        self.path = " + ".join(part.episodes.path for part in parts)
        self.actions, self.state_names = first.actions, first.state_names
        self.frame_shape = first.frame_shape
        self._validate, self._use_state = first._validate, first._use_state
        self.attributes: dict[str, Any] = {}
        for part in reversed(parts):  # what the first does not say, another may
            self.attributes |= part.episodes.attributes
        self.notes = self.gather([part.episodes.notes for part in parts])
        self._keep(
            [
                episode.renamed(
                    f"{part.label}/{episode.name}",
                    _order(part.episodes.actions, self.actions),
                    _order(part.episodes.state_names, self.state_names),
                )
                for part in parts
                for episode in part.episodes.episodes
            ],
            self.gather([part.episodes.skipped for part in parts]),
        )

    @property
    def parts(self) -> tuple[Episodes, ...]:
        return tuple(part.episodes for part in self._parts)

    @property
    def entries(self) -> Int[np.ndarray, "E"]:
        counts = [len(part.episodes) for part in self._parts]
        return np.repeat([part.entry for part in self._parts], counts)

    def gather(self, problems: Sequence[Iterable[Problem]]) -> list[Problem]:
        return [
            problem._replace(episode=f"{part.label}/{problem.episode}")
            for part, some in zip(self._parts, problems, strict=True)
            for problem in some
        ]

    def read_frames(
        self,
        number: int,
        ticks: Int[np.ndarray, "n"] | slice,
        out: UInt8[np.ndarray, "n H W C"] | None = None,
    ) -> UInt8[np.ndarray, "n H W C"]:
        for part in self.parts:
            if number < len(part):
                return part.read_frames(number, ticks, out)
            number -= len(part)
        raise IndexError(number)

    def read_rows(
        self, rows: Int[np.ndarray, "n"], out: UInt8[np.ndarray, "n H W C"] | None = None
    ) -> UInt8[np.ndarray, "n H W C"]:
        if out is None:
            out = np.empty((len(rows), *self.image_shape), np.uint8)
        first = 0
        for part in self.parts:
            within = (rows >= first) & (rows < first + part.ticks)
            if within.any():
                out[within] = part.read_rows(rows[within] - first)
            first += part.ticks
        return out

    def without(self, problems: Sequence[Problem]) -> "JoinedEpisodes":
        if not problems:
            return self
        kept = []
        for part in self._parts:
            start = f"{part.label}/"
            here = [
                problem._replace(episode=problem.episode.removeprefix(start))
                for problem in problems
                if problem.episode is not None and problem.episode.startswith(start)
            ]
            kept.append(
                part._replace(episodes=part.episodes.without(here) if here else part.episodes)
            )
        return JoinedEpisodes(kept)

    def only(self, names: Collection[str]) -> "JoinedEpisodes":
        chosen = [
            part._replace(
                episodes=part.episodes.only(
                    [e.name for e in part.episodes.episodes if f"{part.label}/{e.name}" in names]
                )
            )
            for part in self._parts
        ]
        return JoinedEpisodes([part for part in chosen if len(part.episodes)] or chosen[:1])

    def fingerprint(self) -> str:
        return _digest(part.fingerprint() for part in self.parts)

    def content(self) -> str:
        return _digest(part.content() for part in self.parts)


def _require_same(first: Episodes, other: Episodes) -> None:
    one, two = first.spec(), other.spec()
    differences = [*_differences("actions", one, two), *_differences("state", one, two)]
    frame, offered = one.frame.model_dump(), two.frame.model_dump()
    differences += [
        f"{key} is {offered[key]}, not {frame[key]}"
        for key in frame
        if frame[key] != offered[key] and not {None, "unknown"} & {frame[key], offered[key]}
    ]
    if differences:
        advice = "; dataset.use_state: false does without the state" * (one.state != two.state)
        raise UserError(
            f"dataset.path: {other.path} can't be trained on together with {first.path}: "
            f"{'; '.join(differences)}{advice}"
        )


def _differences(kind: str, one: DataSpec, two: DataSpec) -> Iterable[str]:
    """What a second dataset lacks, or has besides, whatever the order."""
    wanted, offered = getattr(one, kind), getattr(two, kind)
    if missing := [name for name in wanted if name not in offered]:
        yield f"its {kind} lack {', '.join(missing)}"
    if extra := [name for name in offered if name not in wanted]:
        yield f"its {kind} have {', '.join(extra)} besides"


def _order(there: Sequence[str], here: Sequence[str]) -> list[int]:
    """Columns of a dataset in the order of another; as they are where they can't be compared."""
    is_same = len(there) == len(here) and set(there) == set(here)
    return [there.index(name) for name in here] if is_same else list(range(len(there)))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
