"""Trains a model, from the configuration to a finished run folder."""

from __future__ import annotations

import dataclasses

import models
from data import service
from models import downloads
from training import best_model, checkpoint, examples, initial_model, run_folder
from training.checkpoint import Progress
from training.config import TrainConfig
from training.curves import plot_curves
from training.distributed import strategy
from training.distributed.workers import own_run_folder
from training.fitting import Fitting
from training.heads import Objective, check_columns, heads_of
from training.job import Job
from training.phases import Phase, phases
from training.run import Run
from training.run_files import CURVES
from training.signals import Signals


def train(config: TrainConfig, command: str) -> Run:
    """Trains a model as `config` says and returns the finished run.

    Args:
        config: as `training.resolve.resolved` gives it.
        command: the command line, for the record.

    Raises:
        UserError: for any cause that the user can fix, before training or with the last checkpoint unchanged.
    """
    devices = strategy.prepare_devices(config)
    if config.data_service:
        service.find(config.data_service)
    distribution = strategy.choose(config)
    with distribution.explained(config.run_dir or ""), own_run_folder(distribution, config) as config:
        print(f"Devices: {', '.join(devices)}{distribution.described()}. Precision: {config.precision}.")
        distribution.agree_on("flags", dataclasses.replace(config, run_dir=None, data_dir=None))
        _check_places(config)
        images = examples.gather(config, distribution)
        distribution.agree_on("images", images.dataset.digests, images.splits.tolist(), images.dataset.labels.tolist())
        class_names = images.dataset.class_names
        heads = heads_of(config.model, class_names, config.parsed_loss_weights)
        check_columns(heads, config.data, images.dataset.columns)
        with distribution.strategy.scope():
            model = initial_model.build(config, class_names)
        distribution.synchronize(model)
        opened = run_folder.opened(config, images, model, command, devices)
        with opened as run, Signals(run.path, distribution.worker) as signals:
            job = Job(config, run, images, Objective(heads), model, distribution, signals)
            with distribution.strategy.scope(), examples.unchanged(config):
                progress = _fit(job)
                print(f"Kept: {_described_best(progress)}.")
                metrics = _test(job)
            run_folder.finish(run, metrics, progress.seconds)
            return run


def _check_places(config: TrainConfig) -> None:
    """Checks the run folder and the published weights, before all images are scanned."""
    run_folder.check(config)
    if config.weights == "imagenet":
        downloads.check(models.find(config.model))


def _fit(job: Job) -> Progress:
    """Trains all phases; with `resume`, from the last checkpoint."""
    saved = checkpoint.read_progress(job.run.path) if job.config.resume else None
    is_resumed, progress = saved is not None, saved or Progress()
    if job.config.resume:
        _recall_best(job, progress)
    with service.watched(job.config.data_service):
        for index, phase in enumerate(phases(job.config)):
            if index < progress.phase:
                continue
            if index > progress.phase:
                _begin(job, index, phase, progress)
                is_resumed = False
            _fit_phase(job, phase, progress, is_resumed=is_resumed)
            if job.distribution.is_chief:
                plot_curves(progress.history, job.run.file(CURVES), progress.best_epoch)
    return progress


def _test(job: Job) -> dict[str, float]:
    """Loss and metrics of the best epoch's model on the test split; every image counts once."""
    with job.signals.stopping_at_once("during the test; the state is saved"):
        model, batches = job.test_inputs(job.run.load_model(), phases(job.config)[-1])
        job.distribution.compile(model, job.objective.compile_arguments)
        test, steps = job.distribution.evaluation(batches), batches.steps_per_epoch
        metrics = model.evaluate(test, steps=steps, return_dict=True, verbose=0)
    return {name: float(value) for name, value in metrics.items()}


def _recall_best(job: Job, progress: Progress) -> None:
    """Takes the best epoch from model.keras, since a kill may have come between writing it and the checkpoint."""
    kept = best_model.kept(job.run.path)
    if kept.loss <= progress.best_loss:
        progress.best_loss, progress.best_epoch = kept.loss, kept.epoch


def _begin(job: Job, index: int, phase: Phase, progress: Progress) -> None:
    """Begins the next phase from the best epoch so far, not from the last.

    The start is saved for a resume, by which time model.keras may hold an epoch of this phase.
    """
    best_model.restore(job.run.path, job.model, job.config.model)
    progress.phase, progress.epoch, progress.step = index, phase.first_epoch, 0
    progress.epochs_without_gain, progress.phase_best_loss, progress.phase_finished = 0, float("inf"), False
    checkpoint.save(job.run.path, progress, job.model, None)
    print(f"Fine-tuning begins from {_described_best(progress)}.")


def _fit_phase(job: Job, phase: Phase, progress: Progress, *, is_resumed: bool) -> None:
    """Fits the rest of `phase`, and prints when early stopping has ended it."""
    patience = job.config.early_stopping
    has_begun = progress.epoch > phase.first_epoch or progress.step > 0
    has_ended = progress.has_stalled(patience) or progress.epoch >= phase.last_epoch
    progress.phase_finished = has_begun and progress.step == 0 and has_ended
    if is_resumed and (progress.phase_finished or not has_begun):
        checkpoint.restore(job.run.path, job.model)
    if not progress.phase_finished:
        Fitting(job, phase, progress).fit(resumes=is_resumed and has_begun)
    if progress.epoch < phase.last_epoch:
        print(
            f"Early stopping after epoch {progress.epoch} of {phase.last_epoch}: {patience} in a row "
            f"had no validation loss below {progress.phase_best_loss:.4f}, the lowest of this phase."
        )


def _described_best(progress: Progress) -> str:
    last = progress.history[-1]["epoch"]
    return f"epoch {progress.best_epoch} of {last}, which has the lowest validation loss, {progress.best_loss:.4f}"
