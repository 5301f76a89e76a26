"""The training loop.

uv run -m BC_training --config configs/pure_cnn.yaml, or, in BC_training/:
uv run python train.py --config configs/pure_cnn.yaml
"""

import argparse
import itertools
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax import nnx
from jaxtyping import Array
from rich.table import Table

from BC_training import evaluate, rollout
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.store import Bundle, Checkpoints, TrainState
from BC_training.common import config as configs
from BC_training.common import console, metrics, preprocess
from BC_training.common.config import BY_FIGHTS, Config
from BC_training.common.dataset import Data, open_data
from BC_training.common.episodes import LISTED
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import Batch
from BC_training.training import optimizer as optim
from BC_training.training import ranking
from BC_training.training import run_log as runlog
from BC_training.training.augmentation import make_augmentation
from BC_training.training.run_log import RunLog
from BC_training.training.train_step import make_train_step
from gameplay_pipeline.plumbing.errors import DataError, UserError

FIT_FRAMES = 512
"""Training frames that the normalisation is fitted on, evenly spaced."""

FREE_ON_RESUME = (
    "training.num_epochs",
    "training.checkpoint_dir",
    "training.save_every_n_epochs",
    "training.keep_last_n_checkpoints",
    "training.early_stopping_patience",
    "evaluation.eval_every_n_epochs",
    "evaluation.rollout",
    "environment",
    "play",
    "logging",
    "system.num_workers",
    "dataset.path",
    "dataset.cache_dir",
    "dataset.residency",
    "dataset.stream_memory_gib",
    "dataset.record",
)
"""Beginnings of the keys that a resumed run may change. Of these only num_epochs decides what is
computed: a run may go on for longer, with its cosine stretched."""

COLUMNS = ("epoch", "lr", "train", "val", "exact", "macro F1", "micro F1", "press F1", "freq L1")
ROW = "{:>9}  {:>8}  {:>7}  {:>7}  {:>6}  {:>8}  {:>8}  {:>8}  {:>7}  {}"

BASELINE_ROWS = {
    "nothing pressed": "nothing",
    "majority": "majority",
    "repeat the previous action": "previous",
}


class Trainer:
    """One run: its state, its folder, and the loop over epochs."""

    def __init__(self, config: Config, data: Data, run: Checkpoints, *, resume: bool):
        """Builds the model, or restores the newest checkpoint of `run`.

        Raises:
            UserError: the checkpoint or the pretrained weights do not fit.
        """
        self.config, self.data, self.run = config, data, run
        self.train_set, self.val_set = data.splits["train"], data.splits["val"]
        training = config.training
        self.steps_per_epoch = self.train_set.samples_per_epoch // training.batch_size
        self.resumed_from = run.latest() if resume else None
        if self.resumed_from is None:
            self.fitted = fit_preprocess(data, config)
        else:
            bundle = checkpoints.read_bundle(run.folder / str(self.resumed_from))
            checkpoints.require_same(bundle, data.spec, f"--resume: {data.episodes.path}")
            if bundle.step // self.steps_per_epoch != bundle.epoch:
                raise UserError(
                    f"--resume: {data.episodes.path} has {len(self.train_set)} training ticks, "
                    f"another number than when step {bundle.step} was made"
                )
            self.fitted = bundle.preprocess
        self.spec = data.spec.model_copy(update={"features": self.fitted.features()})
        augmentation = make_augmentation(training.augmentation, self.fitted, self.spec.actions)
        model = checkpoints.create_model(config, self.spec)
        if self.resumed_from is None:
            model.load_pretrained()
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        self.learning_rate = optim.schedule(training, self.steps_per_epoch)
        optimizer = optim.make_optimizer(training, self.learning_rate)
        # Copies: the step gives the memory of the state it gets to the next one.
        average = None if training.ema_decay is None else jax.tree.map(jnp.copy, (params, rest))
        self.state = TrainState(
            step=jnp.int32(0),
            params=params,
            rest=rest,
            opt_state=jax.jit(optimizer.init)(params),
            bad_step=jnp.int32(-1),
            average=average,
        )
        if self.resumed_from is not None:
            self.state = run.restore(self.resumed_from, self.state)
        # All bound to the device, as what the step returns is: a mix would have it compiled twice.
        self.state = jax.device_put(self.state, jax.local_devices()[0])
        objective = optim.objective(training, self.train_set.actions)
        self.train_step = make_train_step(
            graph, optimizer, self.fitted, augmentation, objective, config
        )
        self.eval_step = evaluate.make_eval_step(graph, self.fitted, objective)

    def fit(self) -> None:
        """Trains to the last epoch.

        Raises:
            UserError: the loss became infinite or not a number.
            KeyboardInterrupt: after a signal, once what was learned is in a checkpoint.
        """
        training, every = self.config.training, self.config.evaluation.eval_every_n_epochs
        fights_every = self.config.evaluation.rollout_every_n_epochs
        first = int(self.state.step)
        settings = self.config.logging
        facts = _facts(self.data) if settings.use_wandb or settings.tensorboard else {}
        log = RunLog(self.run.folder, self.config, resume_from=self.resumed_from, facts=facts)
        steps = self._dispatches(first, training.num_epochs * self.steps_per_epoch)
        batches = zip(
            steps,
            self.train_set.train_batches(
                batch_size=training.batch_size,
                starts=[step.start for step in steps],
                steps=[len(step) for step in steps],
                threads=self.config.system.threads,
            ),
            strict=True,
        )
        print(ROW.format(*COLUMNS, "frames/s"), flush=True)
        if len(self.val_set):
            spec = self.spec
            others = evaluate.baselines(self.train_set, self.val_set, spec, self.config)
            for name, row in others.items():
                print(_row(BASELINE_ROWS[name], row.as_dict()), flush=True)
        try:
            with _Interruptible() as signals:
                for epoch in range(first // self.steps_per_epoch, training.num_epochs):
                    if self._stalled(epoch):
                        print(
                            f"no better {self.config.evaluation.best_metric} for "
                            f"{training.early_stopping_patience} epochs: stopped early"
                        )
                        break
                    figures = self._epoch(epoch, batches, log, signals)
                    done, last = epoch + 1, epoch + 1 == training.num_epochs
                    fighting = fights_every > 0 and (done % fights_every == 0 or last)
                    predictions, began = None, time.monotonic()
                    if len(self.val_set) and (done % every == 0 or last or fighting):
                        predictions = self._predict()
                    bundle = self._bundle(done, predictions)
                    # Before it is saved: what a resumed run keeps of the log ends with its step.
                    if predictions is not None:
                        log.write(bundle.step, {
                            **_named(bundle.metrics or {}),
                            "time/evaluation_s": time.monotonic() - began,
                        })  # fmt: skip
                        if log.draws:
                            log.show(bundle.step, self._pictures(predictions, bundle))
                    print(
                        _row(f"{done}/{training.num_epochs}", bundle.metrics, figures), flush=True
                    )
                    if fighting:
                        bundle = self._fight(bundle, log)
                    if self.run.is_best(bundle):
                        self.run.save(self.state, bundle)
                    if done % training.save_every_n_epochs == 0 or last or self._stalled(done):
                        self.run.save(self.state, bundle)
                    if signals.received:
                        self._stop(bundle)
            self._conclude(log)
        except DataError as error:
            raise self._kept(error) from error
        finally:
            log.close()

    def _stalled(self, epoch: int) -> bool:
        """Whether the best epoch is so long ago that the run is to end."""
        patience = self.config.training.early_stopping_patience
        if patience is None:
            return False
        best = self.run.best_epoch()
        return best is not None and epoch - best >= patience

    def _dispatches(self, first: int, stop: int) -> list[range]:
        """The steps from `first` to `stop` as they are handed to the device.

        None reaches over the end of an epoch, and all but the first begin where they would in a run
        that was never interrupted.
        """
        size, epoch = self.config.training.steps_per_dispatch, self.steps_per_epoch
        starts = [begin + at for begin in range(0, stop, epoch) for at in range(0, epoch, size)]
        starts = [first, *(start for start in starts if start > first)]
        return [range(a, b) for a, b in itertools.pairwise([*starts, stop]) if a < b]

    def _epoch(
        self,
        epoch: int,
        batches: Iterator[tuple[range, Batch]],
        log: RunLog,
        signals: "_Interruptible",
    ) -> dict[str, float]:
        """Runs what is left of an epoch; means over its steps, and what they cost."""
        every = self.config.logging.log_every_n_steps
        first, end = int(self.state.step), (epoch + 1) * self.steps_per_epoch
        size = self.config.training.steps_per_dispatch
        total = -(-self.steps_per_epoch // size)
        left = total - (first - epoch * self.steps_per_epoch) // size
        dispatches = console.progress(range(left), f"Epoch {epoch + 1}", total, total - left)
        pending: list[dict[str, Array]] = []
        epoch_losses: list[float] = []
        started, waited = time.monotonic(), 0.0
        for _ in dispatches:
            asked = time.monotonic()
            steps, batch = next(batches)
            waited += time.monotonic() - asked
            self.state, figures = self.train_step(self.state, batch, self.train_set.resident)
            pending.append(figures)
            done = steps.stop
            if steps.start // every == done // every and done < end and not signals.received:
                continue
            # Reading figures back waits for the device, so it happens only here.
            read = jax.device_get(pending)
            self._refuse_bad_loss()
            rows = {name: np.concatenate([figures[name] for figures in read]) for name in read[0]}
            epoch_losses += rows["train/loss"].tolist()
            means = {name: float(row.mean()) for name, row in rows.items()}
            log.write(done, {**means, "train/lr": self._lr(done - 1)})
            pending = []
            if signals.received and done < end:
                self._stop(self._bundle(epoch, None))
        seconds = time.monotonic() - started
        frames = (end - first) * self.config.training.batch_size
        costs = {
            "time/frames_per_second": frames / seconds,
            "time/epoch_s": seconds,
            "data/wait_share": waited / seconds,
        }
        log.write(end, {"epoch": epoch + 1, **costs})
        return {
            "loss": float(np.mean(epoch_losses)) if epoch_losses else float("nan"),
            "lr": self._lr(end - 1),
            "frames_per_second": frames / seconds,
        }

    def _kept(self, error: DataError) -> UserError:
        """What to say of an unreadable frame, once what was learned is in a checkpoint."""
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
        raise KeyboardInterrupt

    def _lr(self, step: int) -> float:
        return float(np.asarray(self.learning_rate(step)))

    def _predict(self) -> evaluate.Predictions:
        params, rest = self.state.played()
        found = evaluate.predict(self.eval_step, params, rest, self.val_set, self.config)
        if not np.isfinite(found.probabilities).all():
            raise UserError(
                f"after step {int(self.state.step)} the model's validation answers are "
                "not finite. Try a lower training.learning_rate, or a training.grad_clip_norm."
            )
        return found

    def _bundle(self, epoch: int, predictions: evaluate.Predictions | None) -> Bundle:
        spec = self.spec
        figures = None
        thresholds = [self.config.evaluation.metrics_threshold] * len(spec.actions)
        if predictions is not None:
            figures = evaluate.score(predictions, self.val_set, spec, self.config)
            thresholds = metrics.calibrate(predictions.probabilities, self.val_set.actions).tolist()
        return Bundle(
            format=checkpoints.FORMAT,
            config=self.config.model_dump(mode="json"),
            spec=spec,
            preprocess=self.fitted,
            thresholds=tuple(thresholds),
            step=int(self.state.step),
            epoch=epoch,
            metrics=figures,
            versions=checkpoints.versions(),
        )

    def _conclude(self, log: RunLog) -> None:
        """What can be told once a run is over: which figure went with the fights, which checkpoint
        is the best."""
        if self.config.evaluation.rollout_every_n_epochs and len(self.val_set):
            correlations, count = ranking.correlate(log.history())
            if count > 1:
                console.make_console().print(ranking.table(correlations, count))
            if count < ranking.FEWEST:
                warnings.warn(
                    f"{count} checkpoints fought: with fewer than {ranking.FEWEST}, chance ranks "
                    "them alike",
                    stacklevel=2,
                )
            log.conclude(_flat({"rank_correlation": correlations}, separator="/"))
        best = checkpoints.locate(self.run.folder)
        bundle = checkpoints.read_bundle(best)
        figures = {"step": bundle.step, "epoch": bundle.epoch}
        figures |= _named(bundle.metrics or {}) | _flat({"fights": bundle.fights or {}}, "", "/")
        log.conclude({f"best/{name}": value for name, value in figures.items()})
        if self.config.logging.wandb_artifact:
            log.artifact(self.config.model.name, best, figures)

    def _pictures(self, predictions: evaluate.Predictions, bundle: Bundle) -> dict[str, Any]:
        from BC_training.analysis.policy import (
            charts,  # takes a second, so only where they are wanted
        )

        drawn = charts.draw(
            predictions.probabilities,
            self.val_set.actions,
            self.val_set.episode,
            title=f"{self.val_set.names[0]} of the val split",
            names=self.spec.actions,
            thresholds=np.array(bundle.thresholds),
            threshold=self.config.evaluation.metrics_threshold,
            fps=self.spec.frame.fps,
        )
        return {f"charts/{name}": picture for name, picture in drawn.items()}

    def require_environment(self) -> None:
        """Finds out before hours of training whether the fights on the way can be had.

        Raises:
            UserError: the environment can't be made, or is not what the policy learns from.
        """
        settings = self.config.environment
        adapter = rollout.adapter_of(settings)
        rollout.make_env(str(settings.id), self._bundle(0, None), adapter).close()

    def _fight(self, bundle: Bundle, log: RunLog) -> Bundle:
        """The bundle with what its fights came to. Where they can't be had, that is said and
        training goes on.

        Raises:
            KeyboardInterrupt: it was interrupted; a checkpoint without fights is written.
        """
        config, folder, began = self.config, self.run.folder / "fights", time.monotonic()
        player, video = folder / "player", folder / f"{bundle.step}.mp4"
        try:
            self.run.save_player(player, self.state, bundle)
            fights = rollout.fight(
                player,
                str(config.environment.id),
                rollout.adapter_of(config.environment),
                episodes=config.evaluation.rollout_episodes,
                # Not the seeds of the fights after training: these choose the checkpoint, and
                # would flatter it there.
                first_seed=config.evaluation.rollout_seed + config.evaluation.rollout_episodes,
                json_file=folder / f"{bundle.step}.json",
                baselines=False,
                video=video,
                aside=True,
            )
        except KeyboardInterrupt:
            self.run.save(self.state, bundle)
            raise
        except Exception as error:  # whatever somebody's environment may do
            warnings.warn(f"epoch {bundle.epoch} has no figures of fights: {error}", stacklevel=2)
            return bundle
        finally:
            shutil.rmtree(player, ignore_errors=True)
        (row,) = rollout.summarize(fights).values()
        figures, best_metric = rollout.means(row), config.evaluation.best_metric
        print(rollout.in_a_line(row), flush=True)
        log.write(bundle.step, {
            **{f"fights/{name}": value for name, value in figures.items()},
            "time/fights_s": time.monotonic() - began,
        })  # fmt: skip
        log.film(bundle.step, "fights/video", video)
        if best_metric in BY_FIGHTS and figures[BY_FIGHTS[best_metric]] is None:
            warnings.warn(
                f"evaluation.best_metric: {config.environment.id} does not say {best_metric}; the "
                "latest checkpoint will count as the best",
                stacklevel=2,
            )
        return bundle.model_copy(update={"fights": figures})

    def _refuse_bad_loss(self) -> None:
        bad = int(self.state.bad_step)
        if bad < 0:
            return
        kept = self.run.latest()
        left = f"the checkpoint of step {kept} is kept" if kept else "there is no checkpoint yet"
        raise UserError(
            f"the loss or the update of step {bad} (epoch {bad // self.steps_per_epoch + 1}) is "
            f"not finite; {left}. Try a lower training.learning_rate, or a training.grad_clip_norm."
        )


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains as configured and returns the run's folder.

    Raises:
        UserError: the dataset, the configuration or an earlier run stands in the way, or the loss
            became infinite or not a number.
        KeyboardInterrupt: it was interrupted; what was learned until then is in a checkpoint.
    """
    _refuse_precision(config)
    data = open_data(config)
    folder = config.run_dir()
    if len(data.splits["train"]) < config.training.batch_size:
        raise UserError(
            f"training.batch_size ({config.training.batch_size}) is larger than the training "
            f"split ({len(data.splits['train'])} ticks)"
        )
    if config.evaluation.rollout_every_n_epochs and config.environment.id is None:
        raise UserError("environment.id: missing; evaluation.rollout_every_n_epochs needs one")
    _prepare_folder(folder, config, resume)
    run = Checkpoints(
        folder,
        keep_last=config.training.keep_last_n_checkpoints,
        best_metric=config.evaluation.best_metric,
    )
    try:
        trainer = Trainer(config, data, run, resume=resume)
        if config.evaluation.rollout_every_n_epochs:
            trainer.require_environment()
        _print_summary(trainer)
        trainer.fit()
    finally:
        run.close()
    best = checkpoints.locate(folder)
    figures = checkpoints.read_bundle(best).metrics
    out = console.make_console()
    if figures is not None:
        out.print(evaluate.action_table(figures, "best checkpoint, validation split"))
    out.print(f"best checkpoint: {best}")
    return folder


def _refuse_precision(config: Config) -> None:
    """Refuses bfloat16 on a GPU that would only emulate it."""
    device = jax.devices()[0]
    # Only GPUs have a compute capability; bfloat16 came with the eighth.
    capability = float(getattr(device, "compute_capability", 8.0))
    if config.training.precision == "bfloat16" and capability < 8.0:
        raise UserError(
            f"training.precision: {device.device_kind} can't compute in bfloat16 (its compute "
            f"capability is {capability}, 8.0 is needed); set it to float32"
        )


def fit_preprocess(data: Data, config: Config) -> Preprocess:
    """Fits on the training split.

    Raises:
        UserError: the auxiliary attribute has no whole numbers.
    """
    dataset, auxiliary = data.splits["train"], config.model.auxiliary
    spaced = np.linspace(0, len(dataset) - 1, min(FIT_FRAMES, len(dataset))).astype(int)
    return preprocess.fit(
        dataset.frames(spaced),
        dataset.state,
        attributes=data.spec.state,
        instructions=data.instructions,
        auxiliary=None if dataset.auxiliary is None else (str(auxiliary), dataset.auxiliary),
        normalize_frames=config.dataset.normalize_frames,
    )


def _prepare_folder(folder: Path, config: Config, resume: bool) -> None:
    """Makes room for a run, or checks that the one that is there can go on as configured."""
    resolved = folder / "config.yaml"
    if resume and resolved.exists():
        try:
            before = _flat(configs.parse_yaml(resolved.read_text()))
        except (yaml.YAMLError, AttributeError) as error:
            raise UserError(f"--resume: {resolved} is damaged: {error}") from error
        now = _flat(config.model_dump(mode="json"))
        changed = [
            f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
        ]
        if changed:
            raise UserError(
                f"--resume: the run in {folder} was started with another configuration:\n  "
                + "\n  ".join(changed)
            )
    elif resume:
        print(f"--resume: there is no run in {folder} yet, starting from the beginning")
    elif resolved.exists():
        aside = folder.resolve().with_name(
            f"{folder.resolve().name}.{datetime.now():%Y-%m-%d_%H-%M-%S}"
        )
        folder.rename(aside)
        print(f"the earlier run in {folder} is now {aside} (--resume would have gone on with it)")
    folder.mkdir(parents=True, exist_ok=True)
    resolved.write_text(configs.to_yaml(config))


def _print_summary(trainer: Trainer) -> None:
    config, data = trainer.config, trainer.data
    training, frame = config.training, data.spec.frame
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    ticks = {name: f"{len(split):,}" for name, split in data.splits.items()}
    device = jax.devices()[0].device_kind
    rows = {
        "model": f"{config.model.name}, {parameters:,} parameters, on {device}",
        "dataset": f"{data.episodes.path}, {len(data.episodes)} episodes, "
        f"{frame.height}x{frame.width}, {frame.fps or '?'} ticks/s, {frame.color_order}",
        "frames": f"{data.opened.residency} ({data.opened.reason})",
        "split": ", ".join(f"{name} {count}" for name, count in ticks.items()) + " ticks",
        "actions": ", ".join(data.spec.actions),
        "training": f"{training.num_epochs} epochs of {trainer.steps_per_epoch} steps, "
        f"batch {training.batch_size}, seed {config.system.seed}",
        "optimizer": f"AdamW, {training.lr_schedule.type} from {training.learning_rate:g} "
        f"after {training.lr_schedule.warmup_epochs:g} epochs of warm-up, "
        f"weight decay {training.weight_decay:g}, clip {training.grad_clip_norm}",
        "loss": f"{training.loss.type}, class weights {training.weighting() or 'none'}, "
        f"label smoothing {training.label_smoothing:g}",
        "folder": str(trainer.run.folder),
    }
    if training.lr_schedule.warmup_epochs >= training.num_epochs:
        rows["note"] = "the warm-up covers the whole run: the learning rate only rises"
    if len(data.splits["val"]) == 0:
        rows["note"] = "no validation split: no epoch is scored, thresholds are not calibrated"
    if trainer.resumed_from is not None:
        rows["resumed"] = f"from step {trainer.resumed_from}"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, value)
    out = console.make_console()
    out.print(table)
    for problem in data.episodes.skipped[:LISTED]:
        out.print(f"skipped {problem}")


def _row(
    name: str, figures: Mapping[str, Any] | None, costs: Mapping[str, float] | None = None
) -> str:
    cells = [name]
    cells += ["", ""] if costs is None else [f"{costs['lr']:.1e}", f"{costs['loss']:.4f}"]
    if figures is None:
        cells += [""] * 6
    else:
        cells.append(f"{figures['loss']:.4f}" if "loss" in figures else "")
        keys = ("exact_match", "macro_f1", "micro_f1")
        cells += [evaluate.figure(figures[key]) for key in keys]
        cells.append(evaluate.figure(figures["presses"]["f1"]))
        cells.append(evaluate.figure(figures["frequency_l1"]))
    return ROW.format(
        *cells, "" if costs is None else f"{costs['frames_per_second']:,.0f}"
    ).rstrip()


def _named(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metrics as the log names them: val/..., and val_action/NAME/... of each action."""
    whole = {name: value for name, value in figures.items() if name != "actions"}
    # A slash in an action's name would make a section of its own.
    actions = {name.replace("/", "_"): row for name, row in figures.get("actions", {}).items()}
    return _flat({"val": whole, "val_action": actions}, separator="/")


def _facts(data: Data) -> dict[str, str | None]:
    """What tells two runs of one configuration apart."""
    return {
        "code": runlog.revision(),
        "dataset": str(data.episodes.path),
        "dataset_fingerprint": data.episodes.fingerprint(),
        "device": jax.devices()[0].device_kind,
        **checkpoints.versions(),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Nested plain data under joined names."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}{separator}", separator)
        else:
            flat[prefix + key] = value
    return flat


class _Interruptible:
    """Turns the first Ctrl-C or SIGTERM into a request; the second interrupts at once."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "_Interruptible":
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        print("stopping after this step; a checkpoint will be written", file=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> tuple[Config, bool]:
    """The configuration and whether to resume, from the command line.

    Raises:
        UserError: the configuration can't be used.
        SystemExit: after help, or an argument that is not known.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--resume", action="store_true")
    known, overrides = parser.parse_known_args(arguments)
    if known.config is None:
        if not {"-h", "--help"} & set(overrides):
            raise UserError("--config: missing; for example --config configs/pure_cnn.yaml")
        known.config = "configs/pure_cnn.yaml"
    return configs.load(known.config, overrides), known.resume


def main() -> int:
    config, resume = parse()
    train(config, resume=resume)
    return 0


if __name__ == "__main__":
    console.run(main)
