"""The main job: record a dataset if there is none, train on it, and fight.

uv run -m BC_training --config configs/demo.yaml
"""

import sys
from pathlib import Path

from BC_training import rollout, train
from BC_training.checkpoints import store as checkpoints
from BC_training.common.config import Config
from BC_training.common.dataset_paths import locate_datasets
from BC_training.play.fights import FightSetup
from BC_training.training.hosts import Hosts, join
from gameplay_pipeline.environments import adapter as environment
from gameplay_pipeline.environments.adapter import Wanted
from gameplay_pipeline.plumbing import command
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.record import RecordConfig, record


def main() -> int:
    config, resume = train.parse()
    with join(config.system) as hosts:
        _require_environment(config)
        if hosts.is_first:
            _record_if_missing(config)
        hosts.gather(None)
        folder = train.train(config, resume=resume, hosts=hosts)
        _fight(config, folder, hosts)
    return 0


def _require_environment(config: Config) -> None:
    """Finds out before hours of training whether the fights around it can be had. An environment
    that is only named, perhaps a game on another machine, is left alone."""
    name = config.environment.id
    is_to_record = config.record.episodes and _dataset_to_record(config) is not None
    if not config.evaluation.rollout_episodes and not is_to_record:
        return
    if name is None:
        raise UserError("environment.id: missing; fights and recordings need an environment")
    try:
        environment.make(name, config.environment.adapter(), Wanted(*config.record.size)).close()
    except UserError as error:
        raise UserError(f"environment.id: {error}") from error


def _dataset_to_record(config: Config) -> Path | None:
    """Where a dataset is missing that could be recorded."""
    paths = [path for entry in locate_datasets(config.dataset) for path in entry]
    is_missing = len(paths) == 1 and isinstance(paths[0], Path) and not paths[0].exists()
    return Path(paths[0]) if is_missing else None


def _record_if_missing(config: Config) -> None:
    settings, path = config.record, _dataset_to_record(config)
    if path is None or not settings.episodes or config.environment.id is None:
        return
    # Recorded under another name, so that an interrupted recording is not taken for a dataset.
    unfinished = path.with_name(f"{path.name}.recording")
    print(
        f"no dataset at {path}: recording {settings.episodes} fights of the expert "
        "(after Ctrl-C the same command goes on)"
    )
    adapter = config.environment.adapter()
    env = config.environment.id
    record(RecordConfig(**settings.model_dump(), out=unfinished, env=env, adapter=adapter))
    unfinished.rename(path)


def _fight(config: Config, folder: Path, hosts: Hosts) -> None:
    settings = config.evaluation
    if not settings.rollout_episodes or config.environment.id is None:
        return
    # The first host's: on a network's disk, others may see an earlier state.
    best = hosts.gather(str(checkpoints.locate(folder)) if hosts.is_first else None)[0]
    checkpoint, adapter = Path(best), config.environment.adapter()
    rollout.fight(
        FightSetup(checkpoint, config.environment.id, adapter),
        episodes=settings.rollout_episodes,
        first_seed=settings.rollout_seed,
        json_file=folder / "fights.json",
        hosts=hosts,
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
