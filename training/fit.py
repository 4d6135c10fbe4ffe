"""A training from its configuration to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import keras

import errors
import models
from data import service
from data.batches import Batches
from data.names import printable, shortened
from models import downloads, weights
from training import best, checkpoint, examples, folder, heads, transfer
from training.callbacks import Checkpointer, Fit, Recorder, StopAtNonFinite
from training.checkpoint import Progress
from training.config import TrainConfig
from training.curves import plot_curves
from training.distributed import strategy
from training.distributed.strategy import Distribution
from training.distributed.workers import own_run_folder
from training.examples import Examples
from training.folder import finish, reopen, start
from training.job import Job
from training.run import CURVES, Run
from training.signals import Signals
from training.transfer import Phase


def train(config: TrainConfig, command: str) -> Run:
    """Trains what `config` says and gives the finished run.

    Args:
        config: as `training.config.resolved` gives it.
        command: the command line, for the record.

    Raises:
        UserError: anything that the user can put right; training has not begun then, or its state is saved.
    """
    found = strategy.prepare_devices(config)
    if config.data_service:
        service.find(config.data_service)
    distribution = strategy.choose(config)
    with distribution.explained(config.run_dir or ""), own_run_folder(distribution, config) as config:
        print(f"Devices: {', '.join(found)}{distribution.described()}. Precision: {config.precision}.")
        distribution.agree_on("flags", dataclasses.replace(config, run_dir=None, data_dir=None))
        _check_places(config)
        gathered = examples.gather(config, distribution)
        distribution.agree_on("images", gathered.digests, gathered.splits.tolist(), gathered.dataset.labels.tolist())
        with distribution.strategy.scope():
            model = _build(config, gathered.dataset.class_names)
        distribution.synchronize(model)
        return _train(config, command, found, gathered, model, distribution)


def _check_places(config: TrainConfig) -> None:
    """What only the file system and the network can tell, before all images are looked at."""
    folder.check(config)
    if config.weights == "imagenet":
        downloads.check(models.find(config.model))


def _train(
    config: TrainConfig,
    command: str,
    found: list[str],
    gathered: Examples,
    model: keras.Model,
    distribution: Distribution,
) -> Run:
    dataset = gathered.dataset
    objective = heads.Objective(heads.heads_of(config.model, dataset.class_names, config.parsed_loss_weights))
    heads.check_columns(objective.heads, config.data, dataset.columns)
    opened = _folder(config, gathered, model, command, found)
    with opened as run_dir, Signals(config.run_dir or "", distribution.worker) as signals:
        job = Job(config, run_dir, gathered, objective, model, distribution, signals)
        with examples.unchanged(config):
            with distribution.strategy.scope(), service.watched(config.data_service):
                progress = _run_phases(job)
            run = Run.open(run_dir)
            print(f"Kept: {_described_best(progress)}.")
            with distribution.strategy.scope(), signals.stopping_at_once("during the test; the state is saved"):
                metrics = job.test(run.load_model())
        finish(run, metrics, progress.seconds)
        return run


def _build(config: TrainConfig, class_names: tuple[str, ...]) -> keras.Model:
    def build(is_transfer: bool) -> keras.Model:
        return models.build(config.model, len(class_names), image_size=config.image_size, transfer=is_transfer)

    model, head = build(config.pretrained), ""
    if config.pretrained:
        file = config.weights or ""
        names = transfer.class_names_of(file)
        # Some networks trained from scratch have another head than those for transfer.
        candidates = itertools.chain([model], map(build, [False])) if names == class_names else ()
        fitting = next((each for each in candidates if weights.holds_head(each, config.model, file)), None)
        model = model if fitting is None else fitting
        weights.load(model, config.model, file, include_head=fitting is not None)
        head = f" Head: {_origin(file, names, class_names, is_kept=fitting is not None)}."
    size = f"{model.count_params():,} parameters, {config.image_size} px"
    print(f"Model: {config.model}, {size}, weights: {config.weights}.{head}")
    return model


def _origin(file: str, names: tuple[str, ...] | None, class_names: tuple[str, ...], *, is_kept: bool) -> str:
    """Whether the head is that of the weights' file, and why."""
    if is_kept:
        return f"kept from {file}, whose {len(class_names)} classes are the same"
    if names is None:
        return "new"
    if names == class_names:
        return f"new, for that in {file} has another shape"
    return f"new, for that in {file} is for other classes: {printable(shortened(list(names)))}"


@contextlib.contextmanager
def _folder(
    config: TrainConfig, gathered: Examples, model: keras.Model, command: str, found: list[str]
) -> Iterator[str]:
    opened = reopen(config, gathered, command) if config.resume else start(config, gathered, model, command, found)
    with opened as run_dir:
        yield run_dir


def _run_phases(job: Job) -> Progress:
    """Trains phase by phase, from wherever the last checkpoint is."""
    saved = checkpoint.read_progress(job.run_dir) if job.config.resume else None
    progress = saved or Progress()
    if job.config.resume:
        kept = best.kept(job.run_dir)
        if kept.loss <= progress.best_loss:
            progress.best_loss, progress.best_epoch = kept.loss, kept.epoch
    phases = transfer.phases(job.config)
    for index, phase in enumerate(phases[progress.phase :], start=progress.phase):
        if index != progress.phase:
            _change_phase(job, progress, index, phase)
            saved = None
        has_begun = progress.epoch > phase.first_epoch or progress.step > 0
        progress.phase_finished = has_begun and _has_ended(progress, phase, job.config.early_stopping)
        if saved and (progress.phase_finished or not has_begun):
            checkpoint.restore(job.run_dir, job.model)
        if not progress.phase_finished:
            _run_phase(job, phase, progress, resumes=saved is not None and has_begun)
        _tell_of_early_stopping(progress, phase, job.config.early_stopping)
        if job.distribution.is_chief:
            plot_curves(progress.history, f"{job.run_dir}/{CURVES}", progress.best_epoch)
    return progress


def _described_best(progress: Progress) -> str:
    last = progress.history[-1]["epoch"]
    return f"epoch {progress.best_epoch} of {last}, which has the lowest validation loss, {progress.best_loss:.4f}"


def _has_ended(progress: Progress, phase: Phase, patience: int) -> bool:
    return progress.step == 0 and (progress.has_stalled(patience) or progress.epoch >= phase.last_epoch)


def _change_phase(job: Job, progress: Progress, index: int, phase: Phase) -> None:
    """Begins the next phase from the best epoch so far, not from the last.

    A resume finds that in a checkpoint: model.keras may be of an epoch of the next phase by then.
    """
    best.restore(job.run_dir, job.model, job.config.model)
    progress.phase, progress.epoch, progress.step = index, phase.first_epoch, 0
    progress.epochs_without_gain, progress.phase_best_loss, progress.phase_finished = 0, float("inf"), False
    checkpoint.save(job.run_dir, progress, job.model, None)
    print(f"Fine-tuning begins from {_described_best(progress)}.")


def _tell_of_early_stopping(progress: Progress, phase: Phase, patience: int) -> None:
    if progress.epoch < phase.last_epoch:
        print(
            f"Early stopping: no epoch after number {progress.epoch} of {phase.last_epoch}, for {patience} in a row "
            f"had no validation loss below {progress.phase_best_loss:.4f}, the lowest of this phase."
        )


def _run_phase(job: Job, phase: Phase, progress: Progress, *, resumes: bool) -> None:
    config = job.config
    transfer.enter(job.model, phase)
    trainee, train, val = job.trainee_and_batches(phase)
    per_epoch = train.steps_per_epoch
    job.distribution.compile(
        trainee,
        lambda: {"optimizer": transfer.optimizer(phase, per_epoch), **job.objective.compile_arguments()},
    )
    print(_announcement(phase, trainee, len(train)))
    if resumes:
        _create_state(job, trainee, val)
    fit = Fit(job.run_dir, job.model, phase, progress, per_epoch)
    callbacks = [
        StopAtNonFinite(fit),
        Recorder(fit, config.early_stopping),
        *_tensorboard(job, phase),
        Checkpointer(fit, config.checkpoint_minutes, job.signals, job.distribution, resumes=resumes),
    ]
    for stretch in _stretches(config, phase, progress):
        if stretch.first_step == per_epoch:
            _validate(job, trainee, val, stretch, callbacks)
        else:
            _fit(job, trainee, train, val, stretch, callbacks)
        if trainee.stop_training:
            break


def _announcement(phase: Phase, trainee: keras.Model, num_images: int) -> str:
    """What is about to happen; Keras decides about XLA by itself and tells nobody."""
    what = {"head": "the head on a frozen backbone", "fine_tune": "everything, fine-tuned", "all": "everything"}
    images = errors.counted(num_images, "image")
    falling = ", falling to 0 along half a cosine" if phase.schedule == "cosine" else ""
    return (
        f"Training {what[phase.name]}: epochs {phase.first_epoch + 1} to {phase.last_epoch}, {images}, "
        f"learning rate {phase.learning_rate:g}{falling}, XLA {'on' if trainee.jit_compile else 'off'}."
    )


def _tensorboard(job: Job, phase: Phase) -> list[keras.callbacks.Callback]:
    """A folder of logs for each phase, since a phase may fit the head alone."""
    if not job.config.tensorboard:
        return []
    return [keras.callbacks.TensorBoard(os.path.join(job.run_dir, "tensorboard", phase.name), write_graph=False)]


def _create_state(job: Job, trainee: keras.Model, val: Batches) -> None:
    """Keras would create the variables of optimizer and metrics in the first step, too late to restore them."""
    trainee.optimizer.build(trainee.trainable_variables)
    trainee.evaluate(job.distribution.evaluation(val), steps=1, verbose=0)


class _Stretch(NamedTuple):
    """Epochs to fit in one go: from `first_epoch`, and in it from `first_step`, up to before `last_epoch`."""

    first_epoch: int
    last_epoch: int
    first_step: int = 0


def _stretches(config: TrainConfig, phase: Phase, progress: Progress) -> Iterator[_Stretch]:
    """All epochs of the phase, or first the rest of the one that was interrupted.

    With a service each alone, for it gives batches in the order of their arrival, and epochs would run together.
    """
    first = progress.epoch
    if progress.step:
        yield _Stretch(first, first + 1, progress.step)
        first += 1
    each = 1 if config.data_service else max(phase.last_epoch - first, 1)
    yield from (_Stretch(epoch, epoch + each) for epoch in range(first, phase.last_epoch, each))


def _fit(
    job: Job,
    trainee: keras.Model,
    train: Batches,
    val: Batches,
    stretch: _Stretch,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    left = train.steps_per_epoch - stretch.first_step
    if stretch.first_step:
        print(
            f"Resuming epoch {stretch.first_epoch + 1} after step {stretch.first_step} of {train.steps_per_epoch}: "
            f"{errors.counted(left, 'step')} left."
        )
    trainee.fit(
        job.distribution.training(train, *stretch),
        initial_epoch=stretch.first_epoch,
        epochs=stretch.last_epoch,
        steps_per_epoch=left,
        shuffle=False,
        validation_data=job.distribution.evaluation(val),
        validation_steps=val.steps_per_epoch,
        callbacks=callbacks,
        verbose=_verbosity(),
    )


def _validate(
    job: Job, trainee: keras.Model, val: Batches, stretch: _Stretch, callbacks: list[keras.callbacks.Callback]
) -> None:
    """What `fit` does at the end of an epoch, after a run was stopped between its last step and there."""
    trainee.stop_training = False
    together = keras.callbacks.CallbackList(callbacks, model=trainee)
    together.on_train_begin()
    together.on_epoch_begin(stretch.first_epoch)
    logs = trainee.get_metrics_result()
    batches, steps = job.distribution.evaluation(val), val.steps_per_epoch
    found = trainee.evaluate(batches, steps=steps, callbacks=together, return_dict=True, verbose=0)
    together.on_epoch_end(stretch.first_epoch, logs | {f"val_{name}": value for name, value in found.items()})
    together.on_train_end()


def _verbosity() -> int:
    """A bar that moves on a terminal, a line per epoch in a log."""
    return 1 if sys.stdout.isatty() else 2
