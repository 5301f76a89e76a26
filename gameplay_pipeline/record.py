"""Records a Gymnasium environment, played by a policy, as a dataset.

    uv run -m gameplay_pipeline.record --env boss_arena:BossArena-v0 --policy expert \\
        --episodes 100 --resolution 512x288 --out dataset/boss_arena.zarr

Frame and state t are what the policy saw when it chose action t; what follows the last action is
not stored. Episode i depends on `seed + i` alone, not on the workers or on interruptions: a run
that is stopped continues when repeated, and gives what it would have given. A person (`--policy
human`) meets the same fights.

What an environment must have, and what the setting --adapter can add, is in
`gameplay_pipeline/environments/adapter.py`.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import tyro
from jaxtyping import Bool
from pydantic import Field
from rich.console import Console
from rich.table import Table

from gameplay_pipeline.environments.adapter import (
    AS_IT_IS,
    AdapterFlag,
    Environment,
    Wanted,
    make,
)
from gameplay_pipeline.environments.person import HumanPlayer
from gameplay_pipeline.environments.play import Failure, attempt, play
from gameplay_pipeline.environments.players import make_player
from gameplay_pipeline.environments.recorder import dataset_info, storable, writing, writing_aside
from gameplay_pipeline.environments.recording import RecordSettings
from gameplay_pipeline.environments.stretches import Stretches
from gameplay_pipeline.page.desk import Desk
from gameplay_pipeline.page.person import PagePerson
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.section import in_words
from gameplay_pipeline.plumbing.workers import in_processes
from gameplay_pipeline.store.writer import (
    DatasetInfo,
    EpisodeWriter,
    ZarrFormat,
    discard_episode,
    episode_attributes,
    open_dataset,
    size_on_disk,
    sole_writer,
)

MIXED = "mixed"
"""Asks for the expert's styles in turn."""

DISTURBED_TICKS = (3, 12)
"""Shortest and longest stretch of other buttons."""

MAX_LISTED = 10
"""Failed episodes that a message names."""


class RecordConfig(RecordSettings):
    """Records a Gymnasium environment, played by a policy, as a dataset."""

    out: Path
    """The dataset; one recorded with the same settings is continued."""
    env: str = "boss_arena:BossArena-v0"
    """Gymnasium id, with the module that registers it."""
    policy: Literal["expert", "random", "human"] = "expert"
    """The environment's own expert, random buttons, or you, at a page in a browser."""
    seed: int = Field(default=0, ge=0)
    """Episode i is played with this plus i."""
    zarr_format: ZarrFormat = 3
    """3 (sharded), or 2 for readers that know no other."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that record at the same time; the usable cores if not given."""
    adapter: AdapterFlag = AS_IT_IS
    """What the environment doesn't say about itself, such as '{"frame": "screen"}'."""
    host: str = "127.0.0.1"
    """Address of the page for the policy human. Any but this machine's own loopback needs a token,
    which is then part of the address that is printed."""
    port: int = Field(default=8017, ge=0, le=65535)
    """Port of the page; 0 for any that is free."""

    def __init__(self, **settings: Any):
        """Takes the settings by name.

        Raises:
            ValueError: they can't be recorded with; each is named with what is wrong with it.
        """
        try:
            super().__init__(**settings)
        except pydantic.ValidationError as error:
            details = ((".".join(map(str, line["loc"])), line) for line in error.errors())
            raise ValueError("; ".join(in_words(*detail) for detail in details)) from None

    @pydantic.field_validator("out")
    @classmethod
    def _has_name(cls, out: Path) -> Path:
        if not out.name:
            raise ValueError(f"{str(out)!r} must name the dataset to be made")
        return out

    @pydantic.model_validator(mode="after")
    def _only_experts_have_styles(self) -> "RecordConfig":
        if self.style is not None and self.policy != "expert":
            raise ValueError(f"style: {self.style!r}, but only the policy expert has styles")
        return self

    @pydantic.model_validator(mode="after")
    def _people_are_left_alone(self) -> "RecordConfig":
        if self.disturb and self.policy == "human":
            raise ValueError("disturb: a person's buttons are recorded as they are pressed")
        if self.workers is not None and self.policy == "human":
            raise ValueError("workers: a person plays one fight at a time")
        return self


class Summary(NamedTuple):
    """What a dataset holds after recording."""

    episodes: int
    frames: int
    seconds: float | None
    """Seconds of play; None where the environment doesn't say how many ticks a second has."""
    size: int
    """Bytes on disk."""
    frames_per_second: float | None
    """Recorded by this run; None where nothing was left to record."""
    won: int | None
    """Episodes with the outcome "won"; None where no episode has an outcome."""


def record(recording: RecordConfig) -> None:
    """Records the episodes that the dataset at `recording.out` lacks.

    Shows its progress, and at the end what the dataset holds. An episode in which the environment
    or the policy fails is not written; the others are recorded all the same.

    Raises:
        UserError: the environment can't be made, doesn't fit or failed, the dataset was recorded
            with other settings, or it can't be written. Episodes that are complete by then are
            kept.
        KeyboardInterrupt: likewise.
    """
    info, parallel = _inspect(recording)
    with sole_writer(recording.out):
        _play_all(recording, info, parallel)


def _play_all(recording: RecordConfig, info: DatasetInfo, parallel: bool) -> None:
    done = open_dataset(recording.out, info, recording.zarr_format)
    pending = [number for number in range(recording.episodes) if number not in done]
    if done:
        print(
            f"{recording.out}: {recording.episodes - len(pending)} of {recording.episodes} "
            f"episodes are recorded already, {len(pending) or 'none'} left",
            flush=True,
        )
    began = time.monotonic()
    frames = 0
    failures: list[Failure] = []
    record_episode = functools.partial(_record_episode, recording, info)
    if recording.policy == "human":
        results = _by_hand(recording, info, pending)
    else:
        results = in_processes(record_episode, pending, recording.workers if parallel else 1)
    # Closed before anything is discarded: until then its processes write.
    with contextlib.closing(results):
        for result in track(
            results,
            "Recording episodes",
            total=recording.episodes,
            done=len(done),
            frames_of=lambda result: 0 if isinstance(result, Failure) else result,
        ):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                frames += result
    speed = frames / (time.monotonic() - began) if pending else None
    print(f"{recording.out}:")
    Console(highlight=False, markup=False, emoji=False).print(
        _table(_summarise(recording.out, info, speed))
    )
    if failures:
        lines = [
            f"\n  episode_{failure.seed - recording.seed}: seed {failure.seed}: {failure.reason}"
            for failure in sorted(failures, key=lambda failure: failure.seed)[:MAX_LISTED]
        ]
        raise UserError(
            f"{recording.env} failed in {len(failures)} of {len(pending)} episodes, "
            f"which are missing from {recording.out}:{''.join(lines)}"
            + ("\n  ..." if len(failures) > MAX_LISTED else "")
        )


def _inspect(recording: RecordConfig) -> tuple[DatasetInfo, bool]:
    """What the environment says about itself, and whether several may run at the same time."""
    env = _make(recording)
    try:
        if recording.policy == "expert" and not env.has_expert:
            raise UserError(
                f"{recording.env} brings no expert (make_expert); record it with --policy random"
            )
        if recording.policy == "human" and env.fps is None:
            raise UserError(
                f"{recording.env} doesn't say how many ticks a second has, which a person needs to "
                "know; say it: --adapter '{\"fps\": 20}'"
            )
        if recording.style is not None:
            _check_style(recording.env, env.styles, recording.style)
        source = {"env": recording.env, "policy": recording.policy, "seed": recording.seed}
        adapter = recording.adapter.plain()
        source |= {} if recording.style is None else {"style": recording.style}
        source |= {"disturb": recording.disturb} if recording.disturb else {}
        source |= {"adapter": adapter} if adapter else {}
        return dataset_info(env, source), env.parallel
    finally:
        env.close()


def _check_style(env: str, styles: Mapping[str, Sequence[str]], style: str) -> None:
    """Raises a UserError unless the environment's expert can be asked for the style."""
    if not styles:
        raise UserError(
            f"{env}: its expert has no styles of play (styles); record it without --style"
        )
    if style not in (MIXED, *styles):
        raise UserError(
            f"{env}: its expert has no style {style!r}; it has {', '.join(styles)}, and {MIXED} "
            "for all of them in turn"
        )
    for name, texts in styles.items():
        # A text alone would pass for a sequence of letters.
        if isinstance(texts, str) or not texts:
            raise UserError(
                f"{env}: the instructions of its style {name!r} are {texts!r}, "
                "but must be one or more texts"
            )


def _make(recording: RecordConfig) -> Environment:
    return make(recording.env, recording.adapter, Wanted(*recording.size))


def _by_hand(
    recording: RecordConfig, info: DatasetInfo, pending: Sequence[int]
) -> Generator[int | Failure]:
    """Has a person play, at a page that is served until the person or Ctrl-C ends it."""
    from gameplay_pipeline.page.fights import fights_by_hand  # the page's server takes a while
    from gameplay_pipeline.page.server import Greeting, serve_page

    desk = Desk(len(info.keys))
    assert info.fps is not None
    greeting = Greeting(
        recording.env, f"recording {recording.out.name}", info.keys, info.fps, recording.episodes
    )
    with serve_page(desk, greeting, recording.host, recording.port) as address:
        print(f"play at {address} (fights that are over are kept; Ctrl-C ends it)", flush=True)
        yield from fights_by_hand(
            desk,
            pending,
            lambda number: _record_episode(recording, info, number, desk),
            lambda number: discard_episode(recording.out, number),
        )


def _record_episode(
    recording: RecordConfig, info: DatasetInfo, number: int, desk: Desk | None = None
) -> int | Failure:
    """Plays and writes one episode, with the person at the desk if there is one; returns its ticks,
    or why it could not be played.

    The environment is made anew, so that nothing of an earlier episode can matter.
    """
    seed = recording.seed + number
    env = _make(recording)

    def write() -> int:
        request = _style_and_instruction(env, recording.style, seed)
        with EpisodeWriter(recording.out, number, info, recording.zarr_format) as writer:
            attributes = {"seed": seed, "policy": recording.policy, **request}
            if desk is not None:
                person = PagePerson(desk, env)
                human = HumanPlayer(person, len(info.keys))
                with writing_aside(writer) as append:
                    outcome = play(env, lambda _: human, seed, [append])
                person.show_end(outcome)
                attributes = {**storable(outcome.info), **attributes, **person.rate()}
                return writer.finish(attributes, timestamps=person.timestamps())
            outcome = play(
                env,
                lambda player_seed: make_player(
                    env, recording.policy, player_seed, request.get("style")
                ),
                seed,
                [writing(writer)],
                _Disturbance(recording.disturb, len(info.keys), seed),
            )
            return writer.finish({**storable(outcome.info), **attributes})

    with contextlib.closing(env):
        return attempt(write, recording.policy, seed)


class _Disturbance:
    """Other buttons than were chosen, a few ticks in a row (Laskey et al. 2017, "DART: noise
    injection for robust imitation learning")."""

    def __init__(self, share: float, actions: int, seed: int):
        self._actions = actions
        self._rng = np.random.default_rng([seed, 3])
        self._stretches = Stretches(share, DISTURBED_TICKS, self._rng)
        self._pressed = np.zeros(actions, bool)

    def __call__(self, chosen: Bool[np.ndarray, "A"]) -> Bool[np.ndarray, "A"]:
        if not self._stretches():
            return chosen
        if self._stretches.begins:
            self._pressed = self._rng.random(self._actions) < 0.3
        return self._pressed


def _style_and_instruction(env: Environment, style: str | None, seed: int) -> dict[str, str]:
    """The style and the instruction of the episode with this seed; empty where none is asked for.

    Styles take turns rather than being drawn, so that few episodes hold all of them.
    """
    if style is None:
        return {}
    name = list(env.styles)[seed % len(env.styles)] if style == MIXED else style
    texts = env.styles[name]
    chosen = int(np.random.default_rng([seed, 2]).integers(len(texts)))
    return {"style": name, "instruction": texts[chosen]}


def _summarise(path: Path, info: DatasetInfo, frames_per_second: float | None) -> Summary:
    episodes = episode_attributes(path).values()
    frames = sum(episode["frame_count"] for episode in episodes)
    outcomes = [episode["outcome"] for episode in episodes if "outcome" in episode]
    return Summary(
        episodes=len(episodes),
        frames=frames,
        seconds=None if info.fps is None else frames / info.fps,
        size=size_on_disk(path),
        frames_per_second=frames_per_second,
        won=outcomes.count("won") if outcomes else None,
    )


def _table(summary: Summary) -> Table:
    table = Table(show_header=False)
    rows = {
        "episodes": f"{summary.episodes:,}",
        "frames": f"{summary.frames:,}",
        "seconds of play": None if summary.seconds is None else f"{summary.seconds:,.0f}",
        "size on disk": f"{summary.size / 2**20:,.1f} MiB "
        f"({summary.size / max(summary.frames, 1) / 2**10:,.1f} KiB a frame)",
        "recorded": None
        if summary.frames_per_second is None
        else f"{summary.frames_per_second:,.0f} frames/s",
        "won": None if summary.won is None else f"{summary.won:,}",
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, value)
    return table


def main() -> int:
    """The command; returns the exit status."""
    recording = tyro.cli(RecordConfig, prog="gameplay_pipeline.record")
    return command.run(lambda: record(recording), command.to_be_continued(recording.out))


if __name__ == "__main__":
    sys.exit(main())
