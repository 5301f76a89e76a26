"""Many fights: side by side in processes, each kept in a file as soon as it is over."""

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import Bundle, read_bundle
from BC_training.common.config import EnvironmentConfig
from BC_training.play.fight import FightResult, FightTask, fight
from BC_training.play.policy import Policy
from BC_training.play.summary import Summary, summarize
from gameplay_pipeline.environments.adapter import AS_IT_IS, SIMULATED, Adapter, Environment
from gameplay_pipeline.environments.play import Failure
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.progress import track
from gameplay_pipeline.plumbing.workers import WorkerDied, in_worker_processes, usable_cores
from ranni_player import environment
from ranni_player.contract import Contract


class FightSetup(NamedTuple):
    """What all fights have in common."""

    checkpoint: Path
    env_id: str
    adapter: Adapter = AS_IT_IS
    play: Mapping[str, Any] = {}
    """Keys of the section `play` that differ from the checkpoint's."""
    explain: bool = False
    """Whether the policy's fights are watched for what loses its health; the environment then gives
    all of its attributes, not only those that the model reads."""

    def bundle(self) -> Bundle:
        """The checkpoint's bundle, with the settings of these fights."""
        return read_bundle(self.checkpoint).with_play(self.play)

    def policy(self) -> Policy:
        """The policy, compiled for the device at hand."""
        bundle, model = checkpoints.load_model(self.checkpoint)
        return Policy(bundle.with_play(self.play), model)


@contextlib.contextmanager
def _fighter(setup: FightSetup) -> Iterator[Callable[[FightTask], FightResult | Failure]]:
    """Gives what has one fight after another, with one policy and one environment."""
    policy = setup.policy()

    def make() -> Environment:
        return make_env(setup.env_id, policy.bundle, setup.adapter, all_attributes=setup.explain)

    with environment.KeptEnvironment(make) as kept:

        def have(task: FightTask) -> FightResult | Failure:
            return kept.attempt(
                lambda env: fight(policy, env, task, explain=setup.explain), task.player, task.seed
            )

        yield have


def plan_fights(
    players: Sequence[str],
    first_seed: int,
    episodes: int,
    video: Path | None = None,
    instruction: str | None = None,
) -> list[FightTask]:
    """Returns fights in which every player meets the same seeds, `first_seed` and following; the
    first one is filmed."""
    tasks = [
        FightTask(player, first_seed + number, None, instruction)
        for player in players
        for number in range(episodes)
    ]
    return [tasks[0]._replace(video=video), *tasks[1:]]


def run_fights(
    tasks: Sequence[FightTask], setup: FightSetup, workers: int
) -> Generator[FightResult | Failure]:
    """Yields what comes of each fight as it is over, in no order.

    Args:
        tasks: the fights.
        setup: the policy and its environment.
        workers: processes that fight at the same time, on the CPU; 0 for this process, on its
            device. What comes out does not depend on them, latencies do.

    Raises:
        UserError: the environment can't be made, or breaks the checkpoint's contract.
    """
    if workers == 0:
        with _fighter(setup) as have:
            for task in tasks:
                yield have(task)
        return
    try:
        yield from in_worker_processes(functools.partial(_fighter_on_cpu, setup), tasks, workers)
    except WorkerDied as error:
        raise UserError(
            f"{error}; the checkpoint is unharmed: python -m BC_training.rollout "
            f"--checkpoint {setup.checkpoint} --env {setup.env_id}"
        ) from error


def keep_fights(
    tasks: Sequence[FightTask], setup: FightSetup, workers: int, file: Path
) -> list[FightResult]:
    """Has fights, shows how far they are, and keeps each in a JSON file as soon as it is over,
    whatever stops the others; `run_fights` has the arguments.

    Returns:
        The fights in the order of their tasks.

    Raises:
        UserError: the environment can't be made, breaks the checkpoint's contract, or failed in
            some of the fights. The others are in the file.
    """
    order = {(task.player, task.seed): place for place, task in enumerate(tasks)}
    fights: list[FightResult] = []
    failures: list[Failure] = []
    try:
        with contextlib.closing(run_fights(tasks, setup, workers)) as results:
            for result in track(results, "Fighting", len(tasks)):
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    fights.append(result)
                _write(file, fights, failures)
    finally:
        fights.sort(key=lambda result: order[result.player, result.seed])
        if fights:
            _write(file, fights, failures, summarize(fights))
    if failures:
        lines = [f"\n  {lost.player}, seed {lost.seed}: {lost.reason}" for lost in failures]
        raise UserError(
            f"{setup.env_id} failed in {len(failures)} of {len(tasks)} fights:{''.join(lines)}"
        )
    return fights


def write_fights(file: Path, fights: Sequence[FightResult]) -> None:
    """Writes fights that are over, and their summary, as `keep_fights` does."""
    _write(file, fights, [], summarize(fights))


def make_env(
    env_id: str, bundle: Bundle, adapter: Adapter = AS_IT_IS, *, all_attributes: bool = False
) -> Environment:
    """Makes the environment as a checkpoint needs it, and holds it against its contract.

    With `all_attributes` it gives more of the game's state than the model reads.

    Raises:
        UserError: it can't be made, or what it shows or takes is not what the policy learned from.
    """
    spec = bundle.spec
    attributes = spec.state if bundle.config.model.window().state else ()
    contract = Contract(spec.actions, attributes, spec.frame.model_dump())
    return environment.make_env(env_id, contract, adapter, all_attributes=all_attributes)


def choose_environment(settings: EnvironmentConfig, env: str | None) -> tuple[str, Adapter]:
    """Returns the environment to fight in, and what a checkpoint's settings add to what that says
    about itself.

    A checkpoint may come from a stranger, and an environment's name is a module to import, its
    arguments perhaps a machine to connect to: of other environments than the project's simulated
    ones, both are taken from the command line alone.

    Raises:
        UserError: no environment is given, and the checkpoint names none that may be followed.
    """
    if env is None and settings.id is None:
        raise UserError("--env: missing; the checkpoint's configuration names no environment")
    if env is None and settings.id not in SIMULATED:
        raise UserError(
            f"--env: missing; the checkpoint names {settings.id}, which is not part of the project "
            f"and is imported only if you say so: --env {settings.id}"
        )
    if env not in (None, settings.id):
        return str(env), AS_IT_IS
    adapter = settings.adapter()
    if settings.id not in SIMULATED and adapter.arguments:
        warnings.warn(
            f"the checkpoint's environment.arguments are not followed; if you want them: "
            f"--adapter '{json.dumps(adapter.plain())}'",
            stacklevel=2,
        )
        adapter = adapter.model_copy(update={"arguments": {}})
    return str(settings.id), adapter


def choose_workers(env: Environment, workers: int | None, fights: int) -> int:
    """Returns how many processes have the fights: as many as asked for or there are cores, and one
    where the environment can run only once.

    Raises:
        UserError: more are asked for than can run at a time.
    """
    if env.parallel:
        return min(workers or usable_cores(), fights)
    if workers is not None and workers > 1:
        raise UserError(f"--workers {workers}: {env.name} can run only one instance at a time")
    return 1


def _fighter_on_cpu(
    setup: FightSetup,
) -> contextlib.AbstractContextManager[Callable[[FightTask], FightResult | Failure]]:
    # The trainer may hold the accelerator, which some kinds lend to one process only.
    jax.config.update("jax_platforms", "cpu")
    return _fighter(setup)


def _write(
    file: Path,
    fights: Sequence[FightResult],
    failures: Sequence[Failure],
    summary: Summary | None = None,
) -> None:
    raw = {
        "summary": summary,
        "fights": [result.plain() for result in fights],
        "failures": [failure._asdict() for failure in failures],
    }
    # Renamed into place: a run that is killed while it writes leaves the file as it was.
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(raw, indent=2) + "\n")
    partial.replace(file)
