"""Fights of a policy while it is trained: what they come to is logged and kept."""

import contextlib
import shutil
import time
import warnings
from pathlib import Path

from BC_training.checkpoints.bundle import Bundle
from BC_training.checkpoints.state import TrainState
from BC_training.checkpoints.store import save_policy
from BC_training.common.config import BY_FIGHTS, Config
from BC_training.play import fights, summary
from BC_training.play.fight import FightResult
from BC_training.training.hosts import Hosts
from BC_training.training.run_log import RunLog
from BC_training.training.shared_fights import share_fights


class FightMonitor:
    """Has the policies of a run fight, in processes of their own."""

    def __init__(self, config: Config, folder: Path, hosts: Hosts):
        """Nothing happens yet.

        Args:
            config: of the run.
            folder: of the run; fights go into a folder in it.
            hosts: that share the fights.
        """
        self._config, self._folder, self._hosts = config, folder / "fights", hosts
        self._workers = 1

    def is_due(self, epoch: int) -> bool:
        """Whether the policy of that epoch, counted from 1, is to fight."""
        every = self._config.evaluation.rollout_every_n_epochs
        return every > 0 and (epoch % every == 0 or epoch == self._config.training.num_epochs)

    def require_environment(self, bundle: Bundle) -> None:
        """Finds out before hours of training whether the fights can be had.

        Raises:
            UserError: the environment can't be made, or is not what the policy learns from.
        """
        evaluation, settings = self._config.evaluation, self._config.environment
        if evaluation.rollout_every_n_epochs:
            made = fights.make_env(str(settings.id), bundle, settings.adapter())
            with contextlib.closing(made) as env:
                self._workers = fights.choose_workers(env, None, evaluation.rollout_episodes)

    def fight(self, state: TrainState, bundle: Bundle, log: RunLog) -> Bundle:
        """The bundle with what its fights came to. Where they can't be had, that is said and
        training goes on."""
        settings, environment = self._config.evaluation, self._config.environment
        video = self._folder / f"{bundle.step}.mp4"
        began = time.monotonic()
        try:
            results = self._fight_together(state, bundle, video)
        except Exception as error:  # whatever somebody's environment may do
            warnings.warn(f"epoch {bundle.epoch} has no figures of fights: {error}", stacklevel=2)
            return bundle
        (row,) = summary.summarize(results).values()
        figures = summary.means(row)
        print(summary.in_a_line(row), flush=True)
        log.write(bundle.step, {
            **{f"fights/{name}": value for name, value in figures.items()},
            "time/fights_s": time.monotonic() - began,
        })  # fmt: skip
        log.film(bundle.step, "fights/video", video)
        figure = BY_FIGHTS.get(settings.best_metric)
        if figure is not None and figures[figure] is None:
            warnings.warn(
                f"evaluation.best_metric: {environment.id} does not say {settings.best_metric}; "
                "the latest checkpoint will count as the best",
                stacklevel=2,
            )
        return bundle.model_copy(update={"fights": figures})

    def _fight_together(self, state: TrainState, bundle: Bundle, video: Path) -> list[FightResult]:
        """The fights of all hosts, each of which has its share of them."""
        hosts, player = self._hosts, self._folder / "player"
        settings, environment = self._config.evaluation, self._config.environment
        # Not the seeds of the fights after training: these choose the checkpoint, and would
        # flatter it there.
        first_seed = settings.rollout_seed + settings.rollout_episodes
        name = self._config.model.name
        tasks = fights.plan_fights([name], first_seed, settings.rollout_episodes, video)
        setup = fights.FightSetup(player, str(environment.id), environment.adapter())
        try:
            hosts.gather_results(lambda: hosts.is_first and save_policy(player, state, bundle))
            return share_fights(
                hosts, tasks, setup, self._workers, self._folder / f"{bundle.step}.json"
            )
        finally:
            if hosts.is_first:
                shutil.rmtree(player, ignore_errors=True)
