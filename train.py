"""Trains a network on labelled images: `python train.py --model=resnet50 --freeze --data=photos/`."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import time

from absl import flags

import cli
import errors
import startup
from training import flags as training_flags
from training.config import CONFIG, EXTENDABLE, TrainConfig
from training.resolve import resolved

training_flags.define()
flags.adopt_module_key_flags(training_flags)


def main(argv: list[str]) -> None:
    """Checks the flags, trains, and prints where the results are."""
    if argv[1:]:
        raise errors.UserError(f"train.py takes flags only, such as --data=photos/. Received: {' '.join(argv[1:])}.")
    config = _config()
    # TensorFlow takes seconds to import; a wrong flag should fail before that.
    startup.load_tensorflow()
    from training.trainer import train

    run = train(config, command=shlex.join([os.path.basename(sys.executable), *sys.argv]))
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in run.test_metrics().items())
    closer = errors.command("evaluate.py", f"--run={run.path}")
    print(f"Test: {metrics}.\nResults: {run.path}. Look closer with `{closer}`.")


def _config() -> TrainConfig:
    config = training_flags.read()
    if config.resume and config.run_dir:
        if _has_begun(config.run_dir):
            return _resumed(config.run_dir)
        print(f"--resume: {config.run_dir} holds no run yet; starting one.")
    config = resolved(config)
    return dataclasses.replace(config, run_dir=config.run_dir or _new_run_dir(config), resume=False)


def _has_begun(run_dir: str) -> bool:
    if "://" not in run_dir:
        return os.path.exists(os.path.join(run_dir, CONFIG))
    startup.load_tensorflow()
    import tensorflow as tf

    return tf.io.gfile.exists(os.path.join(run_dir, CONFIG))


def _resumed(run_dir: str) -> TrainConfig:
    """The flags that a run was started with; this command line may repeat them, or change how long to train."""
    startup.load_tensorflow()
    from training.run import Run

    stored = dataclasses.replace(Run.open(run_dir).config, resume=True, run_dir=run_dir)
    given = {name: value for name, value in training_flags.given().items() if name not in ("resume", "run_dir")}
    wanted = resolved(dataclasses.replace(stored, **given))  # type: ignore[arg-type]
    for name in given:
        before, now = getattr(stored, name), getattr(wanted, name)
        # Where batches are made may change; their content doesn't.
        is_free = name in EXTENDABLE or (name == "data_service" and before)
        if before != now and not is_free:
            raise errors.UserError(
                f"--resume uses the flags that the run was started with. {run_dir} has "
                f"--{name}={before}. Received: --{name}={now}. Leave it out, or start a new run."
            )
        if name.endswith("epochs") and now < before:
            raise errors.UserError(
                f"--{name} of a run can be raised, not lowered. {run_dir} has --{name}={before}. "
                f"Received: --{name}={now}. Leave it out."
            )
    return wanted


def _new_run_dir(config: TrainConfig) -> str:
    data = re.sub(r"\W+", "-", os.path.basename(config.data.rstrip("/")).removesuffix(".csv")).strip("-")
    return os.path.join("runs", f"{config.model}-{data}-{time.strftime('%Y%m%d-%H%M%S')}")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
