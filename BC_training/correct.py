"""A checkpoint fights, and somebody who knows better corrects it: a dataset to train on further.

    uv run -m BC_training.correct --checkpoint checkpoints/demo --env boss_arena:BossArena-v0 \\
        --out corrections.zarr

You take over at a page in a browser; with --expert, the environment's expert judges every tick.
Episode i depends on `seed + i` alone: a run that is stopped continues when repeated.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import tyro

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.play.corrections import CorrectedFight, CorrectionSetup, correct_by_expert
from BC_training.play.fights import FightSetup, choose_environment, choose_workers
from BC_training.play.takeover import correct_at_keyboard, correct_at_page
from gameplay_pipeline.environments.adapter import AdapterFlag
from gameplay_pipeline.environments.play import Failure
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.store.writer import open_dataset, sole_writer

MAX_LISTED = 10
"""Failed fights that a message names."""


def correct(
    checkpoint: Path,
    out: Path,
    env: str | None = None,
    expert: bool = False,
    share: float | None = None,
    fights: int = 16,
    seed: int = 500_000,
    workers: int | None = None,
    instruction: str | None = None,
    video: Path | None = None,
    adapter: AdapterFlag | None = None,
    host: str = "127.0.0.1",
    port: int = 8017,
    keys: dict[str, str] | None = None,
) -> int:
    """Records fights of a checkpoint with what should have been pressed: where you take over, at a
    page in a browser, or where an expert says so.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        out: the dataset; one recorded with the same settings is continued.
        env: a Gymnasium id such as boss_arena:BossArena-v0; by default the one that the
            checkpoint's configuration names, if it is one of the project's simulated ones.
        expert: the environment's expert judges every tick while the checkpoint drives (DAgger).
        share: share of the ticks, in stretches of one to three seconds, that the expert drives;
            none by default.
        fights: that the dataset shall have.
        seed: seed of the first fight, the next is one higher; far from those of recordings and of
            rollouts.
        workers: processes that fight at the same time, by default one a core.
        instruction: how to play, for models that read it.
        video: an .mp4 of the first fight that --expert corrects, with who drives.
        adapter: what the environment doesn't say about itself, as JSON; by default as in rollout.
        host: address of the page. Any but this machine's own loopback needs a token, which is then
            part of the address that is printed.
        port: port of the page; 0 for any that is free.
        keys: the key of each button on this machine's keyboard, such as attack j dodge space,
            instead of a page; for a game that goes on by itself, on its own machine.
    """
    for name, value in (("share", share), ("workers", workers), ("video", video)):
        if value is not None and not expert:
            raise UserError(f"--{name}: only with --expert")
    if keys is not None and expert:
        raise UserError("--keys: not with --expert; they are for a person")
    _check(share, fights, workers, video)
    folder = checkpoints.locate(checkpoint)
    env_id, offered = choose_environment(read_bundle(folder).config.environment, env)
    fought = FightSetup(folder, env_id, adapter or offered)
    setup = CorrectionSetup(
        fought, out, seed, (share or 0.0) if expert else None, instruction, video
    )
    if keys is None:
        by_person = functools.partial(correct_at_page, host=host, port=port)
    else:
        by_person = functools.partial(correct_at_keyboard, keys=keys)
    _record(setup, fights, workers, by_person)
    return 0


def _check(share: float | None, fights: int, workers: int | None, video: Path | None) -> None:
    """Raises a UserError where a value can't be meant."""
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"--share: {share:g} is no share between 0 and 1")
    for name, value in (("fights", fights), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is not at least 1")
    if video is not None and video.suffix != ".mp4":
        raise UserError(f"--video: {video} does not end in .mp4")
    require_folders(video=video)


def _record(
    setup: CorrectionSetup,
    fights: int,
    workers: int | None,
    by_person: Callable[..., Generator[CorrectedFight | Failure]],
) -> None:
    """Records the fights that a dataset lacks, and prints what they came to."""
    with contextlib.closing(setup.make_env()) as env:
        info = setup.info(env)
        workers = choose_workers(env, workers, fights)
    with sole_writer(setup.dataset):
        done = open_dataset(setup.dataset, info, 3)
        pending = [number for number in range(fights) if number not in done]
        if setup.share is None:
            results = by_person(setup, info, pending)
        else:
            results = correct_by_expert(setup, info, pending, 0 if workers == 1 else workers)
        # Closed before anything is discarded: until then its processes write.
        with contextlib.closing(results):
            had = list(track(results, "Correcting fights", fights, len(done)))
    _tell(setup, [fight for fight in had if isinstance(fight, CorrectedFight)])
    if failures := [fight for fight in had if isinstance(fight, Failure)]:
        lines = [f"\n  seed {lost.seed}: {lost.reason}" for lost in failures[:MAX_LISTED]]
        raise UserError(
            f"{setup.fights.env_id} failed in {len(failures)} of {len(pending)} fights, which are "
            f"missing from {setup.dataset}:{''.join(lines)}"
        )


def _tell(setup: CorrectionSetup, had: Sequence[CorrectedFight]) -> None:
    print(f"{setup.dataset}: {len(had)} fights more")
    if not had:
        return
    ticks = sum(fight.ticks for fight in had)
    told = [fight.won for fight in had if fight.won is not None]
    driven = sum(fight.driven for fight in had) / ticks
    differing = sum(fight.differing for fight in had) / ticks
    print(
        f"{ticks:,} ticks; "
        + (
            f"you drove at {driven:.1%} of them, and pressed otherwise than the policy would have"
            if setup.share is None
            else f"the expert drove at {driven:.1%} of them, and would have pressed otherwise than "
            "the policy"
        )
        + f" at {differing:.1%}"
        + (f"; {sum(told)} of {len(told)} fights won" if told else "")
    )


def main() -> int:
    """The command; returns the exit status."""
    prog = "python -m BC_training.correct"
    return tyro.cli(correct, use_underscores=True, prog=prog)


if __name__ == "__main__":
    sys.exit(command.run(main))
