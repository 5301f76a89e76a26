"""A checkpoint in an environment: fights, beside those of policies that need no model.

uv run -m BC_training.rollout --checkpoint checkpoints/pure_cnn --env boss_arena:BossArena-v0
"""

import atexit
import contextlib
import dataclasses
import json as json_format
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.table import Table

from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import Bundle, read_bundle, require_same
from BC_training.common import console
from BC_training.common.config import EnvironmentConfig
from BC_training.common.types import DataSpec, FrameContract
from BC_training.play.film import Film
from BC_training.play.policy import Policy
from gameplay_pipeline.environments import adapter as environment
from gameplay_pipeline.environments.adapter import (
    AS_IT_IS,
    Adapter,
    AdapterFlag,
    Environment,
    Wanted,
)
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.workers import end_with_parent, usable_cores

BASELINES = ("expert", "random", "nothing", "previous")
"""The environment's own expert; any buttons, anew each tick; no buttons; and repeating what was
pressed a tick before, from random buttons at the first: what a clone that only copies its own past
would do."""
BOOTSTRAPS = 10_000
Z95 = 1.959964
FILM_FPS = 30.0
"""Of a film where nobody says how many ticks a second has."""

Act = Callable[[Mapping[str, Any]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Fight:
    """How one fight went."""

    player: str
    seed: int
    won: bool | None
    """None where the environment doesn't say (`outcome`)."""
    boss_health_removed: float | None
    """Share of the boss's health, 0 to 1; None where the environment doesn't say."""
    seconds: float
    reward: float
    """Sum of the rewards."""
    presses: float
    """Buttons that went down, per second."""
    late: float
    """Share of the ticks that came too late: those that the environment counted, or else those for
    which `act` alone took longer than a tick."""
    counts: dict[str, float]
    """What else the environment counted, such as frames that were missing."""
    latencies_ms: tuple[float, ...] = dataclasses.field(repr=False)
    """Of `act`, for each tick."""

    def plain(self) -> dict[str, Any]:
        """As JSON; of the latencies their percentiles."""
        fields = dataclasses.asdict(self)
        return {**fields, "latencies_ms": percentiles(self.latencies_ms)}


class Failure(NamedTuple):
    """A fight that the environment did not end in good order."""

    player: str
    seed: int
    reason: str


class Setting(NamedTuple):
    """What all fights have in common."""

    checkpoint: Path
    env_id: str
    adapter: Adapter
    play: Mapping[str, Any]
    """Keys of the section `play` that differ from the checkpoint's."""

    def policy(self) -> Policy:
        """The player."""
        bundle, model = checkpoints.load_model(self.checkpoint)
        return Policy(bundle.with_play(self.play), model)

    def env(self, bundle: Bundle) -> Environment:
        """Where it plays."""
        return make_env(self.env_id, bundle, self.adapter)


class Job(NamedTuple):
    """A fight to be had."""

    player: str
    seed: int
    video: Path | None
    instruction: str | None


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 percent confidence interval."""

    mean: float
    low: float
    high: float


def adapter_of(settings: EnvironmentConfig) -> Adapter:
    """The section `environment` for the maker of environments.

    Raises:
        UserError: its keys contradict one another.
    """
    try:
        return Adapter(
            arguments=settings.arguments,
            frame=settings.frame,
            color_order=settings.color_order,
            state=settings.state,
            actions=settings.actions,
            fps=settings.fps,
        )
    except ValueError as error:
        raise UserError(f"environment: {error}") from error


def fight(
    checkpoint: Path,
    env_id: str,
    adapter: Adapter = AS_IT_IS,
    *,
    episodes: int,
    first_seed: int,
    json_file: Path,
    workers: int | None = None,
    baselines: bool = True,
    video: Path | None = None,
    instruction: str | None = None,
    play: Mapping[str, Any] = MappingProxyType({}),
    aside: bool = False,
) -> list[Fight]:
    """Has a checkpoint fight, beside the expert where there is one and players without a model.

    Every player meets the same seeds, `first_seed` and following. Each fight is in `json_file` as
    soon as it is over, whatever stops the others. Fights run side by side in `workers` processes on
    the CPU (by default one per usable core), or with one worker in this process, on its device; the
    outcome does not depend on how many, latencies do. `play` decides otherwise than the checkpoint
    would. `aside`, of a training that goes on: never in this process, and without tables.

    Raises:
        UserError: the environment can't be made, breaks the checkpoint's contract, or failed in
            some of the fights.
    """
    setting = Setting(checkpoints.locate(checkpoint), env_id, adapter, dict(play))
    bundle = read_bundle(setting.checkpoint).with_play(play)
    name = bundle.config.model.name
    if instruction is not None:
        if bundle.preprocess.instructions is None:
            raise UserError(f"--instruction: {name} reads none")
        bundle.preprocess.instructions.encode(instruction)  # refused before the fights, if at all
    env = setting.env(bundle)
    with contextlib.closing(env):
        players = [name]
        if baselines:
            players += [each for each in BASELINES if each != "expert" or env.has_expert]
        jobs = [
            Job(
                player,
                first_seed + number,
                video if player == name and not number else None,
                instruction,
            )
            for player in players
            for number in range(episodes)
        ]
        if workers is not None and workers > 1 and not env.parallel:
            raise UserError(f"--workers {workers}: there is one {env_id} only")
        workers = min(workers or usable_cores(), len(jobs)) if env.parallel else 1
        if workers == 1 and not aside:
            results = _in_this_process(setting, jobs, env)
        else:
            env.close()
            results = _in_processes(setting, jobs, workers)
        fights: list[Fight] = []
        failures: list[Failure] = []
        try:
            with contextlib.closing(results):
                for result in console.progress(results, "Fighting", len(jobs)):
                    if isinstance(result, Failure):
                        failures.append(result)
                    else:
                        fights.append(result)
                    _keep(json_file, fights, failures)
        finally:
            if fights:
                order = {job[:2]: place for place, job in enumerate(jobs)}
                fights.sort(key=lambda fight: order[fight.player, fight.seed])
                summary = summarize(fights)
                _keep(json_file, fights, failures, summary)
                if not aside:
                    _report(json_file, summary)
                    if video is not None and video.exists():
                        print(f"the first fight: {video}")
    if failures:
        raise UserError(
            f"{env_id} failed in {len(failures)} of {len(jobs)} fights:\n"
            + "\n".join(f"  {each.player}, seed {each.seed}: {each.reason}" for each in failures)
        )
    return fights


def make_env(env_id: str, bundle: Bundle, adapter: Adapter = AS_IT_IS) -> Environment:
    """The environment as a checkpoint needs it, checked against its contract.

    Raises:
        UserError: it can't be made, or what it shows or takes is not what the policy learned from.
    """
    spec, frame = bundle.spec, bundle.spec.frame
    attributes = spec.state if bundle.config.model.window().state else ()
    wanted = Wanted(frame.width, frame.height, spec.actions, attributes, frame.fps)
    env = environment.make(env_id, adapter, wanted)
    offered = DataSpec(
        actions=env.action_names,
        state=env.attribute_names,
        frame=FrameContract(
            height=frame.height,
            width=frame.width,
            channels=3,
            color_order=env.color_order,
            resize=env.resize_method,
            fps=env.fps,
        ),
    )
    try:
        require_same(bundle, offered, env_id)
    except BaseException:
        env.close()
        raise
    return env


def summarize(fights: Sequence[Fight]) -> dict[str, dict[str, Any]]:
    """Per player: fights, and means with 95 percent intervals; None where there is no figure.

    Wins have a Wilson score interval (Wilson 1927), means a percentile bootstrap (Efron 1979).
    """

    def mean(values: Sequence[float | None]) -> dict[str, float] | None:
        known = [value for value in values if value is not None]
        return dataclasses.asdict(bootstrap(known)) if known else None

    summary = {}
    for player in dict.fromkeys(fight.player for fight in fights):
        own = [fight for fight in fights if fight.player == player]
        won = [fight.won for fight in own if fight.won is not None]
        latencies = [each for fight in own for each in fight.latencies_ms]
        summary[player] = {
            "fights": len(own),
            "won": dataclasses.asdict(wilson(sum(won), len(won))) if won else None,
            "boss_health_removed": mean([fight.boss_health_removed for fight in own]),
            "seconds": mean([fight.seconds for fight in own]),
            "reward": mean([fight.reward for fight in own]),
            "presses": mean([fight.presses for fight in own]),
            "latency_ms": percentiles(latencies),
            "late": float(np.mean([fight.late for fight in own])),
            "counts": {
                key: sum(fight.counts.get(key, 0) for fight in own)
                for key in sorted({key for fight in own for key in fight.counts})
            },
        }
    return summary


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile."""
    values = np.percentile(np.asarray(latencies_ms), [50, 95, 99])
    return {name: float(value) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a share."""
    share = successes / trials
    spread = Z95 * np.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    scale = 1 + Z95**2 / trials
    middle = share + Z95**2 / (2 * trials)
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return Interval(share, float(max(low, 0.0)), float(min(high, 1.0)))


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap interval of a mean."""
    sample = np.asarray(values)
    picks = np.random.default_rng(0).integers(len(sample), size=(BOOTSTRAPS, len(sample)))
    low, high = np.percentile(sample[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(sample.mean()), float(low), float(high))


def fight_tables(summary: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The summary as two tables: how the fights went, and how they were played."""

    columns = {
        "won": ("won %", 100.0, 0),
        "boss_health_removed": ("boss health removed %", 100.0, 1),
        "seconds": ("survived s", 1.0, 1),
        "reward": ("return", 1.0, 2),
    }
    known = [key for key in columns if any(row[key] is not None for row in summary.values())]
    outcome = console.make_table("Fights: mean [95 percent interval]")
    outcome.add_column("player", overflow="fold")
    outcome.add_column("fights", justify="right")
    for key in known:
        outcome.add_column(columns[key][0], justify="right")
    play = console.make_table("Play")
    play.add_column("player", overflow="fold")
    for title in ("presses/s", "act ms p50", "p95", "p99", "ticks too late %"):
        play.add_column(title, justify="right")
    for player, row in summary.items():
        cells = ["-" if row[key] is None else _cell(row[key], *columns[key][1:]) for key in known]
        outcome.add_row(player, str(row["fights"]), *cells)
        latency = [f"{value:.2f}" for value in row["latency_ms"].values()]
        late = f"{100 * row['late']:.1f}"
        play.add_row(player, _cell(row["presses"], 1.0, 2), *latency, late)
    return [outcome, play]


def means(row: Mapping[str, Any]) -> dict[str, float | None]:
    """A row of `summarize` without its intervals, as a checkpoint keeps it."""
    keys = ("won", "boss_health_removed", "seconds", "reward", "presses")
    known = {key: None if row[key] is None else row[key]["mean"] for key in keys}
    known["return"] = known.pop("reward")
    return known


def in_a_line(row: Mapping[str, Any]) -> str:
    """A row of `summarize` beneath the table of a training run."""
    cells = []
    if row["won"] is not None:
        cells.append(f"won {_cell(row['won'], 100.0, 0)} %")
    if row["boss_health_removed"] is not None:
        cells.append(f"boss health removed {_cell(row['boss_health_removed'], 100.0, 1)} %")
    cells += [f"{row['seconds']['mean']:.1f} s", f"return {row['reward']['mean']:.4g}"]
    return f"{'fights':>9}  {', '.join(cells)}"


def _cell(interval: Mapping[str, float], scale: float, digits: int) -> str:
    mean, low, high = (f"{scale * interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _report(json_file: Path, summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the tables."""
    out = console.make_console()
    for table in fight_tables(summary):
        out.print(table)
    for player, row in summary.items():
        counts = [f"{key.replace('_', ' ')} {value:g}" for key, value in row["counts"].items()]
        if any(row["counts"].values()):
            print(f"{player}: {', '.join(counts)}")
    print(f"every fight: {json_file}")


def _keep(
    json_file: Path,
    fights: Sequence[Fight],
    failures: Sequence[Failure],
    summary: Mapping[str, Any] | None = None,
) -> None:
    raw = {
        "summary": summary,
        "fights": [fight.plain() for fight in fights],
        "failures": [each._asdict() for each in failures],
    }
    # Renamed into place: a run that is killed while it writes leaves the file as it was.
    temporary = json_file.with_name(json_file.name + ".partial")
    temporary.write_text(json_format.dumps(raw, indent=2) + "\n")
    temporary.replace(json_file)


def _in_this_process(
    setting: Setting, jobs: Sequence[Job], env: Environment
) -> Generator[Fight | Failure]:
    policy = setting.policy()
    try:
        for number, job in enumerate(jobs):
            result = _fight(policy, env, job)
            yield result
            if isinstance(result, Failure) and number + 1 < len(jobs):
                # Whatever state it is in: the next fight gets a new one.
                env.close()
                try:
                    env = setting.env(policy.bundle)
                except UserError as error:
                    lost = f"{job.player}, seed {job.seed}: {result.reason}"
                    raise UserError(f"{lost}; and after that: {error}") from error
    finally:
        env.close()


def _in_processes(
    setting: Setting, jobs: Sequence[Job], workers: int
) -> Generator[Fight | Failure]:
    others = set(multiprocessing.active_children())
    # Not forked: a forked copy of JAX's threads hangs.
    with ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(setting,),
    ) as pool:
        try:
            for future in as_completed([pool.submit(_work, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the fights died, perhaps for want of memory; the checkpoint is "
                f"unharmed: python -m BC_training.rollout --checkpoint {setting.checkpoint} "
                f"--env {setting.env_id}"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


class _Worker:
    """What a process keeps between its fights."""

    policy: Policy
    env: Environment


def _start_worker(setting: Setting) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # However the process ends, a game that runs beside it ends too.
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # The trainer may hold the accelerator, which some kinds lend to one process only.
    jax.config.update("jax_platforms", "cpu")
    _Worker.policy = setting.policy()
    _Worker.env = setting.env(_Worker.policy.bundle)
    atexit.register(_close)  # the last to be registered is the first to be called


def _close() -> None:
    with contextlib.suppress(Exception):  # there may be none yet
        _Worker.env.close()


def _end(number: int, frame: FrameType | None) -> None:
    _close()
    os._exit(128 + number)  # SystemExit would end the fight, not the process


def _work(job: Job) -> Fight | Failure:
    return _fight(_Worker.policy, _Worker.env, job)


def _fight(policy: Policy, env: Environment, job: Job) -> Fight | Failure:
    try:
        return _play(policy, env, job)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment or expert may raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        return Failure(job.player, job.seed, reason)


def _play(policy: Policy, env: Environment, job: Job) -> Fight:
    observation, info = env.reset(seed=job.seed)
    # Not the fight's own seed: the environment draws from that one.
    seed = int(np.random.SeedSequence([job.seed, 1]).generate_state(1)[0])
    act = _player(policy, env, job, seed)
    expert = None
    if job.video is not None and env.has_expert:
        expert = env.make_expert(seed)
        expert.reset()
    latencies: list[float] = []
    reward, presses, over = 0.0, 0, False
    before = np.zeros(len(env.action_names), bool)
    with contextlib.ExitStack() as stack:
        film = None
        if job.video is not None:
            film = Film(job.video, env.fps or FILM_FPS, env.action_names)
            stack.callback(film.close)
        while not over:
            began = time.perf_counter()
            pressed = np.array(act(observation), bool)
            latencies.append(1000 * (time.perf_counter() - began))
            if film is not None:
                choice = None if expert is None else np.asarray(expert.act(observation), bool)
                text = f"tick {len(latencies)}  act {latencies[-1]:.1f} ms"
                film.add(
                    observation["frame"], env.color_order, pressed, policy.latest, choice, text
                )
            presses += int((pressed & ~before).sum())
            before = pressed
            observation, gained, terminated, truncated, info = env.step(pressed.astype(np.int8))
            reward += float(gained)
            over = terminated or truncated
    ticks = len(latencies)
    seconds = float(info.get("seconds", ticks / (env.fps or 1.0)))
    counts = {key: float(value) for key, value in info.get("counts", {}).items()}
    slow = sum(env.fps is not None and each > 1000 / env.fps for each in latencies)
    removed = info.get("boss_health_removed")
    return Fight(
        player=job.player,
        seed=job.seed,
        won=info["outcome"] == "won" if "outcome" in info else None,
        boss_health_removed=None if removed is None else float(removed),
        seconds=seconds,
        reward=reward,
        presses=presses / max(seconds, 1e-9),
        late=counts.get("late_ticks", slow) / ticks,
        counts=counts,
        latencies_ms=tuple(latencies),
    )


def _player(policy: Policy, env: Environment, job: Job, seed: int) -> Act:
    player = job.player
    if player == "expert":
        expert = env.make_expert(seed)
        expert.reset()
        return expert.act
    if player in ("random", "previous"):
        env.action_space.seed(seed)
        if player == "random":
            return lambda _: env.action_space.sample()
        first = env.action_space.sample()
        return lambda _: first
    if player == "nothing":
        return lambda _: np.zeros(len(env.action_names), bool)
    policy.reset(job.instruction, seed)
    return policy.act


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
) -> int:
    """Fights of a checkpoint beside those of the expert, of random, of no and of held buttons.

    Args:
        checkpoint: a checkpoint, or a run's folder for its best one.
        env: a Gymnasium id such as boss_arena:BossArena-v0; by default the one that the
            checkpoint's configuration names.
        episodes: fights of each player.
        seed: of the first fight; the next is one higher.
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
            section `environment` of the checkpoint's configuration, if it names the same `env`.
    """
    for name, value in (("episodes", episodes), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is not at least 1")
    if video is not None and video.suffix != ".mp4":
        raise UserError(f"--video: {video} does not end in .mp4")
    folder = checkpoints.locate(checkpoint)
    settings = read_bundle(folder).config.environment
    env = env or settings.id
    if env is None:
        raise UserError("--env: missing; the checkpoint's configuration names no environment")
    own = adapter_of(settings) if env == settings.id else AS_IT_IS
    for name, file in (("json", json), ("video", video)):
        if file is not None and not file.parent.is_dir():
            raise UserError(f"--{name}: no folder {file.parent}")
    fight(
        folder,
        env,
        adapter or own,
        episodes=episodes,
        first_seed=seed,
        json_file=json or folder / "fights.json",
        workers=workers,
        baselines=baselines,
        video=video,
        instruction=instruction,
        play=_parsed(play),
    )
    return 0


def _parsed(play: str) -> dict[str, Any]:
    try:
        parsed = json_format.loads(play)
    except json_format.JSONDecodeError as error:
        raise UserError(f"--play: {play!r} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f'--play: {play!r} is no JSON object, such as {{"rule": "sample"}}')
    return parsed


def main() -> int:
    # As Ctrl-C: processes are ended, keys released, fights kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return tyro.cli(rollout, use_underscores=True, prog="python -m BC_training.rollout")


if __name__ == "__main__":
    console.run(main)
