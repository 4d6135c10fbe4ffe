"""Fits one phase with Keras's `fit`, from its first step or from the middle of an epoch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import keras

import errors
from training.callbacks import Checkpointer, Fit, Recorder, StopAtNonFinite
from training.checkpoint import Progress
from training.job import Job
from training.phases import Phase, optimizer, set_trainable


class _Stretch(NamedTuple):
    """Epochs of one call of `fit`: from step `first_step` of `first_epoch`, up to but not including `last_epoch`."""

    first_epoch: int
    last_epoch: int
    first_step: int = 0


class Fitting:
    """Fits one phase of a training.

    Args:
        job: the training.
        phase: the phase.
        progress: how far the training has come; updated after every step.
    """

    def __init__(self, job: Job, phase: Phase, progress: Progress) -> None:
        self._job, self._phase, self._progress = job, phase, progress
        set_trainable(job.model, phase)
        self._trainee, self._train, self._val = job.inputs(phase)

    def fit(self, *, resumes: bool) -> None:
        """Fits the remaining epochs; with `resumes`, from the state of the last checkpoint."""
        objective, steps_per_epoch = self._job.objective, self._train.steps_per_epoch
        self._job.distribution.compile(
            self._trainee,
            lambda: {"optimizer": optimizer(self._phase, steps_per_epoch), **objective.compile_arguments()},
        )
        # Keras decides about XLA without saying so.
        xla = "on" if self._trainee.jit_compile else "off"
        print(f"Training {self._phase.described(len(self._train))}, XLA {xla}.")
        if resumes:
            self._create_state()
            if not self._progress.step:
                print(f"Resuming after epoch {self._progress.epoch}.")
        callbacks = self._callbacks(resumes=resumes)
        for stretch in self._stretches():
            if stretch.first_step == steps_per_epoch:
                self._validate(stretch, callbacks)
            else:
                self._fit(stretch, callbacks)
            if self._trainee.stop_training:
                break

    def _create_state(self) -> None:
        """Creates the variables of optimizer and metrics; Keras does so in the first step, too late to restore them."""
        self._trainee.optimizer.build(self._trainee.trainable_variables)
        self._trainee.evaluate(self._job.distribution.evaluation(self._val), steps=1, verbose=0)

    def _callbacks(self, *, resumes: bool) -> list[keras.callbacks.Callback]:
        job, config = self._job, self._job.config
        fit = Fit(job.run.path, job.model, self._phase, self._progress, self._train.steps_per_epoch)
        callbacks: list[keras.callbacks.Callback] = [StopAtNonFinite(fit), Recorder(fit, config.early_stopping)]
        if config.tensorboard:
            # One log folder per phase, since a phase may fit the head alone.
            logs = os.path.join(job.run.path, "tensorboard", self._phase.name)
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
        minutes = config.checkpoint_minutes
        return [*callbacks, Checkpointer(fit, minutes, job.signals, job.distribution, resumes=resumes)]

    def _stretches(self) -> Iterator[_Stretch]:
        """The rest of an interrupted epoch, then all other epochs of the phase.

        With a tf.data service one epoch at a time: batches come in order of arrival, so epochs would mix.
        """
        first, last = self._progress.epoch, self._phase.last_epoch
        if self._progress.step:
            yield _Stretch(first, first + 1, self._progress.step)
            first += 1
        each = 1 if self._job.config.data_service else max(last - first, 1)
        yield from (_Stretch(epoch, epoch + each) for epoch in range(first, last, each))

    def _fit(self, stretch: _Stretch, callbacks: list[keras.callbacks.Callback]) -> None:
        steps_per_epoch, distribution = self._train.steps_per_epoch, self._job.distribution
        steps = steps_per_epoch - stretch.first_step
        if stretch.first_step:
            print(
                f"Resuming epoch {stretch.first_epoch + 1} after step {stretch.first_step} of {steps_per_epoch}: "
                f"{errors.counted(steps, 'step')} left."
            )
        self._trainee.fit(
            distribution.training(self._train, *stretch),
            initial_epoch=stretch.first_epoch,
            epochs=stretch.last_epoch,
            steps_per_epoch=steps,
            shuffle=False,
            validation_data=distribution.evaluation(self._val),
            validation_steps=self._val.steps_per_epoch,
            callbacks=callbacks,
            # A progress bar on a terminal, a line per epoch in a log.
            verbose=1 if sys.stdout.isatty() else 2,
        )

    def _validate(self, stretch: _Stretch, callbacks: list[keras.callbacks.Callback]) -> None:
        """Does what `fit` does at the end of an epoch, for a run that was stopped after the epoch's last step."""
        trainee, epoch = self._trainee, stretch.first_epoch
        trainee.stop_training = False
        together = keras.callbacks.CallbackList(callbacks, model=trainee)
        together.on_train_begin()
        together.on_epoch_begin(epoch)
        logs = trainee.get_metrics_result()
        val, steps = self._job.distribution.evaluation(self._val), self._val.steps_per_epoch
        found = trainee.evaluate(val, steps=steps, callbacks=together, return_dict=True, verbose=0)
        together.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in found.items()})
        together.on_train_end()
