"""A run from its first step to its last: train, evaluate, save, fight."""

import contextlib
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.bundle import Bundle, build, read_bundle, versions
from BC_training.checkpoints.state import TrainState
from BC_training.checkpoints.store import Checkpoints
from BC_training.common import console
from BC_training.common.config import Config
from BC_training.common.dataset import Data, open_data
from BC_training.common.types import Batch
from BC_training.networks.model import Model
from BC_training.training import optimizer as optimizers
from BC_training.training import ranking, report, run_log, same_run
from BC_training.training.augmentation import make_augmentation
from BC_training.training.devices import Devices, choose_devices
from BC_training.training.evaluator import Evaluator, Predictions
from BC_training.training.fight_monitor import FightMonitor
from BC_training.training.hosts import ALONE, Hosts, Stopped
from BC_training.training.interruption import Interruption
from BC_training.training.run_checkpoints import (
    RunCheckpoints,
    newest_checkpoint,
    require_continued,
)
from BC_training.training.run_folder import claimed, flat
from BC_training.training.run_log import RunLog
from BC_training.training.train_step import TrainStep
from BC_training.training.warm_start import WarmStart, begin
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.progress import track


def train(config: Config, *, resume: bool = False, hosts: Hosts = ALONE) -> Path:
    """Trains as configured and returns the run's folder.

    Args:
        config: of the run.
        resume: whether an earlier run in its folder goes on.
        hosts: that train together, those of `hosts.join`.

    Raises:
        UserError: the dataset, the configuration or an earlier run stands in the way, the loss
            became infinite or not a number, or hosts differ.
        KeyboardInterrupt: it was interrupted; what was learned until then is in a checkpoint.
    """
    same_run.require_same_program(config, hosts, resume=resume)
    devices = choose_devices(config, hosts)
    if config.evaluation.rollout_every_n_epochs and config.environment.id is None:
        raise UserError("environment.id: missing; evaluation.rollout_every_n_epochs needs one")
    folder = config.run_dir()
    newest = newest_checkpoint(config, hosts) if resume else None
    start = WarmStart.load(config) if newest is None else None
    known = newest or (start and start.bundle)
    data = open_data(config, None if known is None else known.preprocess)
    same_run.require_same_data(data, hosts)
    if (ticks := len(data.splits["train"].targets)) < config.training.batch_size:
        raise UserError(
            f"training.batch_size ({config.training.batch_size}) is larger than the training "
            f"split ({ticks} ticks)"
        )
    with contextlib.ExitStack() as stack:
        if hosts.is_first:
            stack.enter_context(claimed(folder, config, resume=resume))
        run = Checkpoints(
            folder,
            keep_last=config.training.keep_last_n_checkpoints,
            best_metric=config.evaluation.best_metric,
            writes=hosts.is_first,
        )
        same_run.require_shared(folder, hosts)
        best = Trainer(config, data, run, devices, resume=resume, start=start).fit()
    if best is not None:
        _tell_best(best)
    return folder


def _tell_best(best: Path) -> None:
    figures = read_bundle(best).metrics
    out = console.make_console()
    if figures is not None:
        out.print(report.action_table(figures, "best checkpoint, validation split"))
    out.print(f"best checkpoint: {best}")


def init_state(
    config: Config, model: Model, optimizer: optax.GradientTransformation, devices: Devices
) -> TrainState:
    """The state of a run that begins, whole on every device."""
    _, params, rest = nnx.split(model, nnx.Param, ...)
    # Copies: the step gives the memory of the state it gets to the next one.
    averaged = config.training.ema_decay is not None
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        rest=rest,
        opt_state=jax.jit(optimizer.init)(params),
        bad_step=jnp.int32(-1),
        average=jax.tree.map(jnp.copy, (params, rest)) if averaged else None,
    )
    # All bound to the devices, as what the step returns is: a mix would have it compiled twice.
    return devices.replicate(state)


class Trainer:
    """One run: its state, and who trains, evaluates, saves and fights with it."""

    def __init__(
        self,
        config: Config,
        data: Data,
        run: Checkpoints,
        devices: Devices,
        *,
        resume: bool,
        start: WarmStart | None = None,
    ):
        """Builds the model, begun with `start`, or restores the newest sound checkpoint of `run`.

        Raises:
            UserError: the checkpoint or the pretrained weights do not fit.
        """
        self.config, self.data, self.devices = config, data, devices
        self.run = RunCheckpoints(run, devices.hosts)
        training, train_set = config.training, data.splits["train"]
        targets = train_set.targets
        self.steps_per_epoch = training.steps_per_epoch or len(targets) // training.batch_size
        self.preprocess = data.preprocess
        self.resumed = self._newest() if resume else None
        if self.resumed is not None:
            self.preprocess = self.resumed.preprocess
        self.spec = data.spec.model_copy(update={"features": self.preprocess.features()})
        model = build(config, self.spec)
        if self.resumed is None:
            model = begin(model, start, config, self.spec)
        self.learning_rate = optimizers.schedule(training, self.steps_per_epoch)
        optimizer = optimizers.make_optimizer(training, self.learning_rate, model.multiples())
        self.state = init_state(config, model, optimizer, devices)
        same_run.require_same_arrays(self.state.params, devices.hosts)
        if self.resumed is not None:
            self.resumed, self.state = self.run.restore(self.resumed, self.state)
        graph = nnx.graphdef(model)
        objective = optimizers.objective(training, train_set.actions[targets])
        self.train_step = TrainStep(
            graph,
            optimizer,
            self.preprocess,
            make_augmentation(training.augmentation, self.preprocess, self.spec.actions),
            objective,
            config,
            devices,
        )
        self.resident = devices.replicate(train_set.resident)
        self.evaluator = Evaluator(
            graph,
            self.preprocess,
            objective,
            self.spec,
            config,
            data.splits["val"],
            self.resident,
            devices,
        )
        self.fights = FightMonitor(config, run.folder, devices.hosts)
        self.fights.require_environment(self._bundle(0, None))
        self.copied: Mapping[str, Any] | None = None
        """Figures of repeating the previous action."""

    def fit(self) -> Path | None:
        """Trains to the last epoch, and returns the best checkpoint; on the first host alone.

        Raises:
            UserError: the loss became infinite or not a number, or a frame can't be read.
            KeyboardInterrupt: after a signal, once what was learned is in a checkpoint.
        """
        config, first = self.config, int(self.state.step)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        resumed_from = None if self.resumed is None else self.resumed.step
        report.print_summary(
            config, self.data, parameters, self.steps_per_epoch, self.devices, resumed_from
        )
        metadata = run_log.metadata(config, self.data.episodes)
        folder = self.run.folder if self.devices.hosts.is_first else None
        log = RunLog(folder, config, resume_from=resumed_from, metadata=metadata)
        batches = self.data.splits["train"].train_batches(
            batch_size=config.training.batch_size,
            steps=range(first, config.training.num_epochs * self.steps_per_epoch),
            threads=config.system.threads,
            rows=self.devices.rows(config.training.batch_size, config.training.accumulation),
        )
        try:
            with Interruption(self.devices.hosts) as interruption:
                self._print_heading()
                if self.resumed is not None:
                    bundle = self._judged_late(self.resumed, log)
                    self._fight_if_due(bundle, log, interruption)
                for epoch in range(first // self.steps_per_epoch, config.training.num_epochs):
                    if self._should_stop_early(epoch):
                        print(
                            f"{config.evaluation.best_metric} has not improved for "
                            f"{config.training.early_stopping_patience} epochs; stopping"
                        )
                        break
                    interruption.awaited = "this step"
                    costs = self._train_epoch(epoch, batches, log, interruption)
                    interruption.awaited = "this epoch's evaluation"
                    bundle = self._judge(epoch + 1, log)
                    name = f"{epoch + 1}/{config.training.num_epochs}"
                    print(report.row(name, bundle.metrics, costs), flush=True)
                    if self._should_save(bundle):
                        self.run.save(self.state, bundle)
                    if interruption.must_stop():
                        self._stop(bundle)
                    self._fight_if_due(bundle, log, interruption)
            return self._finish(log)
        except DataError as error:
            raise self._save_and_explain(error) from error
        finally:
            log.close()

    def _train_epoch(
        self, epoch: int, batches: Iterator[Batch], log: RunLog, interruption: Interruption
    ) -> dict[str, float]:
        """Runs what is left of an epoch; means over its steps, and what they cost."""
        every = self.config.logging.log_every_n_steps
        first, end = int(self.state.step), (epoch + 1) * self.steps_per_epoch
        done = first % self.steps_per_epoch
        name, parts = f"Epoch {epoch + 1}", self.config.training.accumulation
        meter = run_log.Meter()
        for step in track(range(first, end), name, self.steps_per_epoch, done):
            with meter.waiting():
                batch = next(batches)
            split = self.devices.split(batch, parts)
            self.state, figures = self.train_step(self.state, split, self.resident)
            meter.add(figures)
            must_stop = interruption.must_stop()
            if (step + 1) % every and step + 1 < end and not must_stop:
                continue
            # Reading figures back waits for the device, so it happens only here.
            means = meter.read()
            self._refuse_bad_loss()
            log.write(step + 1, {**means, "train/lr": self._lr(step)})
            if must_stop and step + 1 < end:
                self._stop(self._bundle(epoch, None))
        costs = meter.costs((end - first) * self.config.training.batch_size)
        log.write(end, {"epoch": epoch + 1, **costs})
        return {
            "loss": meter.mean_loss(),
            "lr": self._lr(end - 1),
            "frames_per_second": costs["time/frames_per_second"],
        }

    def _judge(self, epoch: int, log: RunLog) -> Bundle:
        """The bundle of an epoch that is over, evaluated if that is due."""
        every = self.config.evaluation.eval_every_n_epochs
        due = epoch % every == 0 or self._is_last(epoch) or self.fights.is_due(epoch)
        if not due or not len(self.data.splits["val"].targets):
            return self._bundle(epoch, None)
        watch = run_log.Stopwatch()
        predictions = self.evaluator.predict(*self.state.eval_params())
        bundle = self._bundle(epoch, predictions)
        log.write(bundle.step, {
            **run_log.named(bundle.metrics or {}), "time/evaluation_s": watch.seconds()
        })  # fmt: skip
        if log.draws:
            log.show(bundle.step, self.evaluator.pictures(predictions, bundle.thresholds))
        return bundle

    def _judged_late(self, bundle: Bundle, log: RunLog) -> Bundle:
        """The bundle that the run goes on from, evaluated where that was due and a frame could not
        be read."""
        if bundle.metrics is None and bundle.step == bundle.epoch * self.steps_per_epoch:
            judged = self._judge(bundle.epoch, log)
            if judged.metrics is not None:
                self.run.rewrite(judged)
                return judged
        return bundle

    def _fight_if_due(self, bundle: Bundle, log: RunLog, interruption: Interruption) -> None:
        """Has a saved checkpoint fight, unless it has fought, or is not of a whole epoch."""
        whole = bundle.step == bundle.epoch * self.steps_per_epoch
        if bundle.fights is None and whole and self.fights.is_due(bundle.epoch):
            said = f"the fights end; --resume goes on from the checkpoint of step {bundle.step}"
            with interruption.at_once(said):
                fought = self.fights.fight(self.state, bundle, log)
            if fought.fights is not None:
                self.run.rewrite(fought)

    def _should_save(self, bundle: Bundle) -> bool:
        epoch, every = bundle.epoch, self.config.training.save_every_n_epochs
        return (
            epoch % every == 0
            or self._is_last(epoch)
            or self.fights.is_due(epoch)  # whatever becomes of the fights
            or self.run.is_best(bundle)
            or self._should_stop_early(epoch)
        )

    def _should_stop_early(self, epoch: int) -> bool:
        """Whether the best epoch is so long ago that the run is to end."""
        patience = self.config.training.early_stopping_patience
        best = None if patience is None else self.run.best_epoch()
        return patience is not None and best is not None and epoch - best >= patience

    def _is_last(self, epoch: int) -> bool:
        return epoch == self.config.training.num_epochs

    def _print_heading(self) -> None:
        print(report.heading(), flush=True)
        if len(self.data.splits["val"].targets):
            baselines = self.evaluator.baselines(self.data.splits["train"])
            self.copied = baselines["repeat the previous action"]
            for name, figures in baselines.items():
                print(report.row(report.BASELINES[name], figures), flush=True)

    def _bundle(self, epoch: int, predictions: Predictions | None) -> Bundle:
        return Bundle(
            config=self.config,
            spec=self.spec,
            preprocess=self.preprocess,
            thresholds=self.evaluator.thresholds(predictions),
            step=int(self.state.step),
            epoch=epoch,
            metrics=None if predictions is None else self.evaluator.score(predictions),
            versions=versions(),
            dataset=self.data.content,
        )

    def _newest(self) -> Bundle | None:
        """The newest checkpoint of the run, compared with the dataset that it is to go on with."""
        if (bundle := self.run.latest()) is not None:
            require_continued(bundle, self.data, self.steps_per_epoch)
        return bundle

    def _save_and_explain(self, error: DataError) -> UserError:
        """What to say of an unreadable frame, once what was learned is in a checkpoint."""
        if self.devices.hosts.count > 1:  # the others wait in a step that this one can't take
            return error
        self._refuse_bad_loss()
        step = int(self.state.step)
        if step == 0:
            return error
        self.run.save(self.state, self._bundle(step // self.steps_per_epoch, None))
        return UserError(
            f"{error}\nStopped after step {step}, which is in a checkpoint: --resume goes on from "
            "there once the data is mended."
        )

    def _stop(self, bundle: Bundle) -> NoReturn:
        self.run.save(self.state, bundle)
        print(f"stopped after step {bundle.step}; --resume goes on from there")
        raise Stopped

    def _lr(self, step: int) -> float:
        return float(np.asarray(self.learning_rate(step)))

    def _finish(self, log: RunLog) -> Path | None:
        """Tells which figure went with the fights, and which checkpoint is the best."""
        if not self.devices.hosts.is_first:
            return None
        config = self.config
        if config.evaluation.rollout_every_n_epochs and len(self.data.splits["val"].targets):
            log.conclude(flat({"rank_correlation": ranking.tell(log.history())}, "/"))
        best = store.locate(self.run.folder)
        bundle = read_bundle(best)
        figures = {"step": bundle.step, "epoch": bundle.epoch}
        figures |= run_log.named(bundle.metrics or {}) | flat({"fights": bundle.fights or {}}, "/")
        log.conclude({f"best/{name}": value for name, value in figures.items()})
        if config.logging.wandb_artifact:
            log.artifact(config.model.name, best, figures)
        if bundle.metrics is not None and self.copied is not None:
            metric = config.evaluation.best_metric
            note = report.copying_note(metric, bundle.metrics, self.copied)
            if note is not None:
                print(textwrap.fill(f"note: {note}", console.WIDTH))
        return best

    def _refuse_bad_loss(self) -> None:
        bad = int(self.state.bad_step)
        if bad < 0:
            return
        newest = self.run.latest()
        left = "there is no checkpoint yet"
        if newest is not None:
            left = f"the checkpoint of step {newest.step} is kept"
        raise UserError(
            f"the loss or the update of step {bad} (epoch {bad // self.steps_per_epoch + 1}) is "
            f"not finite; {left}. Try a lower training.learning_rate, or a training.grad_clip_norm."
        )
