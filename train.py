"""Trains a network on labelled pictures: `python train.py --model=resnet50 --freeze --data=photos/`."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import time

from absl import flags

import errors
import startup
import wording
from training import flags as training_flags
from training.config import TrainConfig, resolved

training_flags.define()
flags.adopt_module_key_flags(training_flags)


def main(argv: list[str]) -> None:
    """Checks the flags, trains, and says where the results are."""
    if argv[1:]:
        raise errors.UserError(f"train.py takes flags only, such as --data=photos/. Received: {' '.join(argv[1:])}.")
    config = _config()
    # TensorFlow takes seconds to import; a wrong flag should be answered before that.
    startup.load_tensorflow()
    from training.fit import train

    run = train(config, command=shlex.join([os.path.basename(sys.executable), *sys.argv]))
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in run.test_metrics().items())
    closer = wording.command("evaluate.py", f"--run={run.path}")
    print(f"Test: {metrics}.\nResults: {run.path}. Look closer with `{closer}`.")


def _config() -> TrainConfig:
    config = training_flags.read()
    if config.resume and config.run_dir:
        return _stored(config.run_dir)
    config = resolved(config)
    return dataclasses.replace(config, run_dir=config.run_dir or _new_run_dir(config))


def _stored(run_dir: str) -> TrainConfig:
    """The flags that an interrupted run was started with; others on this command line may only repeat them."""
    startup.load_tensorflow()
    import tensorflow as tf

    from training.run import CONFIG, LABELS, Run

    missing = [name for name in (CONFIG, LABELS) if not tf.io.gfile.exists(os.path.join(run_dir, name))]
    if missing:
        raise errors.UserError(
            f"--resume needs a run that has begun. Received: --run_dir={run_dir}, which has no {missing[0]}: "
            "there is none, or the run was stopped before its first step. Run the same command without --resume."
        )
    stored = Run.open(run_dir).config
    given = training_flags.given()
    # Where the batches are made may change; what is in them doesn't.
    if stored.data_service and "data_service" in given:
        stored = dataclasses.replace(stored, data_service=training_flags.read().data_service)
    for name, value in given.items():
        if name not in ("resume", "run_dir") and getattr(stored, name) != value:
            raise errors.UserError(
                f"--resume goes on with the flags the run was started with. {run_dir} has "
                f"--{name}={getattr(stored, name)}. Received: --{name}={value}. Leave it out, or start a new run."
            )
    return dataclasses.replace(stored, resume=True, run_dir=run_dir)


def _new_run_dir(config: TrainConfig) -> str:
    data = re.sub(r"\W+", "-", os.path.basename(config.data.rstrip("/")).removesuffix(".csv")).strip("-")
    return os.path.join("runs", f"{config.model}-{data}-{time.strftime('%Y%m%d-%H%M%S')}")


if __name__ == "__main__":
    errors.run(main, outlives_output=True)
