"""A checkpoint in an environment: fights, beside those of policies that need no model.

uv run -m BC_training.rollout --checkpoint checkpoints/pure_cnn --env boss_arena:BossArena-v0
"""

import contextlib
import json as json_format
import sys
from pathlib import Path
from typing import Any

import tyro

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import read_bundle
from BC_training.common import console
from BC_training.play.fight import FightResult
from BC_training.play.fights import (
    FightSetup,
    choose_environment,
    choose_workers,
    make_env,
    plan_fights,
)
from BC_training.play.summary import Summary, fight_tables
from BC_training.training.hosts import ALONE, Hosts
from BC_training.training.shared_fights import share_fights
from gameplay_pipeline.environments.adapter import AdapterFlag
from gameplay_pipeline.environments.players import NO_MODEL
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import require_folders


def fight(
    setup: FightSetup,
    *,
    episodes: int,
    first_seed: int,
    json_file: Path,
    workers: int | None = None,
    baselines: bool = True,
    video: Path | None = None,
    instruction: str | None = None,
    hosts: Hosts = ALONE,
) -> list[FightResult]:
    """Has a checkpoint fight, beside the expert where there is one and players without a model, and
    prints what comes of it.

    Every player meets the same seeds, `first_seed` and following. Each fight is in `json_file` as
    soon as it is over, whatever stops the others. With one worker they are had in this process, on
    its device. Several hosts share them out.

    Returns:
        All fights, the checkpoint's first.

    Raises:
        UserError: the environment can't be made, breaks the checkpoint's contract, or failed in
            some of the fights.
    """
    bundle = setup.bundle()
    name = bundle.config.model.name
    if instruction is not None:
        if bundle.preprocess.instructions is None:
            raise UserError(f"--instruction: {name} takes no instruction")
        bundle.preprocess.instructions.encode(instruction)  # refused before the fights, if at all
    with contextlib.closing(make_env(setup.env_id, bundle, setup.adapter)) as env:
        players = [name]
        if baselines:
            players += [player for player in NO_MODEL if player != "expert" or env.has_expert]
        tasks = plan_fights(players, first_seed, episodes, video, instruction)
        workers = choose_workers(env, workers, len(tasks))
    before = _written(json_file), _written(video)
    try:
        return share_fights(hosts, tasks, setup, 0 if workers == 1 else workers, json_file)
    finally:  # after an interruption too; but what an earlier rollout left is not this one's
        if _written(json_file) != before[0]:
            _print(json_format.loads(json_file.read_text())["summary"] or {}, json_file)
        if _written(video) != before[1]:
            print(f"the first fight: {video}")


def _written(file: Path | None) -> tuple[int, int] | None:
    """What is another whenever a file was written; None where there is none."""
    if file is None or not file.exists():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _print(summary: Summary, json_file: Path) -> None:
    out = console.make_console()
    for table in fight_tables(summary):
        out.print(table)
    for player, row in summary.items():
        counts = [f"{key.replace('_', ' ')} {value:g}" for key, value in row["counts"].items()]
        if any(row["counts"].values()):
            print(f"{player}: {', '.join(counts)}")
    print(f"every fight: {json_file}")


def rollout(
    checkpoint: Path,
    env: str | None = None,
    episodes: int = 20,
    seed: int = 1_000_000,
    json: Path | None = None,
    workers: int | None = None,
    baselines: bool = True,
    video: Path | None = None,
    instruction: str | None = None,
    play: str = "{}",
    adapter: AdapterFlag | None = None,
    explain: Path | None = None,
) -> int:
    """Has a checkpoint fight beside the expert, random buttons, no buttons, and held buttons.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        env: a Gymnasium id such as boss_arena:BossArena-v0; by default the one that the
            checkpoint's configuration names, if it is one of the project's simulated ones.
        episodes: fights of each player.
        seed: seed of the first fight; the next is one higher.
        json: where every fight goes; by default fights.json in the checkpoint's folder.
        workers: processes that fight at the same time, by default one a core. With 1 the policy
            has the machine, and an accelerator if there is one, to itself: for true latencies.
        baselines: fights of players without a model besides.
        video: an .mp4 of the policy's first fight.
        instruction: how to play, for models that read it; by default dataset.instruction, or else
            the commonest one of the training split.
        play: keys of the section `play` of the configuration, as JSON, to decide otherwise than the
            checkpoint would: '{"rule": "sample"}'.
        adapter: what the environment doesn't say about itself, as JSON; by default the
            section `environment` of the checkpoint's configuration, if it names the same `env`, but
            arguments only of the project's simulated ones.
        explain: also say what the policy loses its health to, with pictures of the worst blows in
            this folder.
    """
    _check_counts(episodes, workers)
    folder = checkpoints.locate(checkpoint)
    env, offered = choose_environment(read_bundle(folder).config.environment, env)
    _check_outputs(json, video, explain)
    results = fight(
        FightSetup(folder, env, adapter or offered, _parsed(play), explain is not None),
        episodes=episodes,
        first_seed=seed,
        json_file=json or folder / "fights.json",
        workers=workers,
        baselines=baselines,
        video=video,
        instruction=instruction,
    )
    if explain is not None:
        from BC_training.analysis.policy import lost_health  # takes a second

        losses = [result.health for result in results if result.health is not None]
        lost_health.report(losses, read_bundle(folder).spec, explain)
    return 0


def _check_counts(episodes: int, workers: int | None) -> None:
    """Raises a UserError where a count is below 1."""
    for name, value in (("episodes", episodes), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is not at least 1")


def _check_outputs(json: Path | None, video: Path | None, explain: Path | None) -> None:
    """Raises a UserError where a file or a folder can't be written under its name."""
    if video is not None and video.suffix != ".mp4":
        raise UserError(f"--video: {video} does not end in .mp4")
    require_folders(json=json, video=video)
    if explain is not None and explain.is_file():
        raise UserError(f"--explain: {explain} is a file; name a folder")


def _parsed(play: str) -> dict[str, Any]:
    try:
        parsed = json_format.loads(play)
    except json_format.JSONDecodeError as error:
        raise UserError(f"--play: {play!r} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f'--play: {play!r} is no JSON object, such as {{"rule": "sample"}}')
    return parsed


def main() -> int:
    return tyro.cli(rollout, use_underscores=True, prog="python -m BC_training.rollout")


if __name__ == "__main__":
    sys.exit(command.run(main))
