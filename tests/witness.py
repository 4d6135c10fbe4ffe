"""Acts at chosen moments of a training, through Keras, which knows them whoever trains."""

from __future__ import annotations

from collections.abc import Callable

import keras
import pytest


def insert(witness: keras.callbacks.Callback) -> None:
    """Lets every training from now on call `witness` before its own callbacks; for good, in this process."""
    create = keras.callbacks.CallbackList.__init__

    def create_with_witness(self: keras.callbacks.CallbackList, callbacks: object = None, **named: object) -> None:
        # Without callbacks it is an evaluation by itself.
        create(self, [witness, *keras.tree.flatten(callbacks)] if callbacks else callbacks, **named)

    keras.callbacks.CallbackList.__init__ = create_with_witness


class AtSteps(keras.callbacks.Callback):
    """Calls `act` with the number of the training step, counted from 1, before anybody else hears of it."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__()
        self._act, self._steps = act, 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._steps += 1
        self._act(self._steps)


def raise_at_epoch_end(patch: pytest.MonkeyPatch, epoch: int, error: BaseException) -> None:
    """The training ends with `error` at the end of `epoch`, counted from 1, before anything of it is recorded."""
    really = keras.callbacks.CallbackList.on_epoch_end

    def end(self: keras.callbacks.CallbackList, number: int, logs: dict | None = None) -> None:
        if number + 1 == epoch:
            raise error
        really(self, number, logs)

    patch.setattr(keras.callbacks.CallbackList, "on_epoch_end", end)
