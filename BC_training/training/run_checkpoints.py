"""The checkpoints of a run on any number of hosts. All hold the whole state, so the first one
writes it; all wait for that, and all read."""

from BC_training.checkpoints.bundle import Bundle, read_bundle, require_same
from BC_training.checkpoints.state import TrainState
from BC_training.checkpoints.store import Checkpoints
from BC_training.common.config import Config
from BC_training.common.dataset import Data
from BC_training.training.hosts import Hosts
from gameplay_pipeline.plumbing.errors import DataError, UserError


def newest_checkpoint(config: Config, hosts: Hosts) -> Bundle | None:
    """The newest checkpoint in a run's folder, which nobody has claimed yet; None without any."""
    run = Checkpoints(
        config.run_dir(),
        keep_last=config.training.keep_last_n_checkpoints,
        best_metric=config.evaluation.best_metric,
        writes=False,
    )
    return RunCheckpoints(run, hosts).latest()


def require_continued(bundle: Bundle, data: Data, steps_per_epoch: int) -> None:
    """Compares a checkpoint with the dataset on which its run is to go on.

    Raises:
        UserError: it was made from other episodes.
    """
    path, rest = data.episodes.path, "give the dataset as it was, or begin anew without --resume"
    require_same(bundle, data.spec, f"--resume: {path}")
    if bundle.step // steps_per_epoch != bundle.epoch:
        ticks = len(data.splits["train"].targets)
        raise UserError(
            f"--resume: {path} has {ticks} training ticks, another number than when step "
            f"{bundle.step} was made; {rest}"
        )
    if bundle.dataset not in (None, data.content):
        raise UserError(
            f"--resume: {path}: its episodes are not those from which step {bundle.step} was "
            f"made; {rest}"
        )


class RunCheckpoints:
    """`Checkpoints` whose answers are the same on every host."""

    def __init__(self, run: Checkpoints, hosts: Hosts):
        self._run, self._hosts = run, hosts
        self.folder = run.folder

    def save(self, state: TrainState, bundle: Bundle) -> None:
        """Writes a checkpoint. When this returns, it is there.

        Raises:
            UserError: it can't be written; earlier ones are unharmed.
        """
        if self._hosts.is_first:
            self._run.save(state, bundle)
        self._hosts.gather(None)

    def rewrite(self, bundle: Bundle) -> None:
        """Writes what was found out about a saved checkpoint into it."""
        if self._hosts.is_first:
            self._run.rewrite(bundle)

    def latest(self) -> Bundle | None:
        """The newest checkpoint, or None where there is none."""
        # The first host is asked: on a network's disk, others may see an earlier state.
        newest = self._run.latest() if self._hosts.is_first else None
        step = self._hosts.gather(None if newest is None else newest.step)[0]
        return newest if step is None else newest or read_bundle(self.folder / str(step))

    def restore(self, bundle: Bundle, like: TrainState) -> tuple[Bundle, TrainState]:
        """The newest checkpoint from `bundle` on whose arrays are sound, and its state, with the
        structure, shapes and placement of `like`. Damaged ones are set aside.

        Raises:
            UserError: none can be read.
        """
        while True:
            state, problem = None, None
            try:
                state = self._run.restore(bundle, like)
            except DataError as error:
                problem = error
            problems = [text for text in self._hosts.gather(problem and str(problem)) if text]
            if state is not None and not problems:
                return bundle, state
            if self._hosts.is_first:
                self._run.set_aside(bundle, UserError(problems[0]))
            earlier = self.latest()
            if earlier is None:
                raise UserError(
                    f"--resume: no checkpoint in {self.folder} can be read; without --resume, the "
                    "run begins anew"
                ) from problem
            bundle = earlier

    def is_best(self, bundle: Bundle) -> bool:
        """Whether a bundle was judged, and better than every checkpoint so far."""
        return self._hosts.gather(self._hosts.is_first and self._run.is_best(bundle))[0]

    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint; None while none was judged."""
        return self._hosts.gather(self._run.best_epoch() if self._hosts.is_first else None)[0]
