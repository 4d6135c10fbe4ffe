"""config.json, the record of a run: its flags, and how it was made."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
import typing
from importlib import metadata
from typing import Any

import keras
import tensorflow as tf

from data.files import read_text
from errors import UserError
from training.config import CONFIG, TrainConfig, check_ranges
from training.examples import Examples
from training.run_files import FIXED, DamagedError, cut, digest, json_object, read

# Raise it when an older version of this program would misread the folder.
SCHEMA = 1
# What config.json holds besides the flags; older versions wrote fewer of them.
_FACTS: dict[str, type | types.UnionType] = {
    "command": str,
    "seed": int,
    "devices": list,
    "versions": dict,
    "git_commit": str | None,
    "parameters": int,
    "skipped_images": list,
    "sha256": dict,
}
_LATER_FACTS: dict[str, type | types.UnionType] = {"training_seconds": int | float}
_NEEDED_FLAGS = ("model", "data", "image_size")
_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets")


def made(
    config: TrainConfig, run_dir: str, examples: Examples, model: keras.Model, command: str, devices: list[str]
) -> dict[str, Any]:
    """The record of a run that begins now; its labels.txt and splits.csv must exist already."""
    return {
        "schema": SCHEMA,
        "flags": dataclasses.asdict(config),
        "command": command,
        "seed": config.seed,
        "devices": devices,
        "versions": {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "parameters": model.count_params(),
        "skipped_images": [{"address": address, "reason": reason} for address, reason in examples.skipped],
        "sha256": checksums(run_dir),
    }


def _git_commit() -> str | None:
    """The commit of this program, with `-dirty` where files have been changed since."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def parse(text: str) -> dict[str, Any]:
    """The record of a run, with flags that `TrainConfig` accepts; raises `DamagedError` for anything else."""
    details = json_object(text)
    schema = details.get("schema")
    if schema not in (None, SCHEMA) or isinstance(schema, bool):
        raise DamagedError(
            f"schema {cut(schema)}, while this version of the program reads schema {SCHEMA}",
            "Use the version of the program that wrote it.",
        )
    _check_facts(details, _FACTS, are_needed=schema is not None)
    _check_facts(details, _LATER_FACTS, are_needed=False)
    checksums = details.get("sha256", {})
    is_recorded = all(isinstance(checksums.get(name), str) for name in FIXED)
    if (schema is not None or checksums) and not is_recorded:
        raise DamagedError(f"{cut(checksums)} as `sha256`, which must hold a checksum of {' and '.join(FIXED)}")
    _check_flags(details.get("flags"))
    return details


def flags_of(details: dict[str, Any]) -> TrainConfig:
    """The flags of a record that `parse` returned, defaults filled in."""
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in details["flags"].items() if name in known})


def read_config(path: str) -> TrainConfig:
    """The flags of the run in `path`, defaults filled in."""
    return flags_of(read(os.path.join(path, CONFIG), parse))


def recorded_checksums(path: str) -> dict[str, str]:
    """The checksums of labels.txt and splits.csv in the config.json of the run in `path`; empty without one."""
    file = os.path.join(path, CONFIG)
    return json.loads(read_text(file)).get("sha256", {}) if tf.io.gfile.exists(file) else {}


def checksums(folder: str) -> dict[str, str]:
    """SHA-256, hexadecimal, of the files of a run that don't change after its start."""
    return {name: digest(read_text(os.path.join(folder, name))) for name in FIXED}


def _check_facts(details: dict[str, Any], facts: dict[str, Any], *, are_needed: bool) -> None:
    for name, kind in facts.items():
        if (are_needed or name in details) and not _fits(details.get(name), kind):
            raise DamagedError(f"{cut(details.get(name))} as `{name}`, which is not of the type {_named(kind)}")


def _check_flags(flags: object) -> None:
    if not isinstance(flags, dict) or not flags.keys() >= set(_NEEDED_FLAGS):
        raise DamagedError(f"{cut(flags)} as `flags`, which must hold at least {', '.join(_NEEDED_FLAGS)}")
    hints = typing.get_type_hints(TrainConfig)
    known = {name: value for name, value in flags.items() if name in hints}
    for name, value in known.items():
        if not _fits(value, hints[name]):
            raise DamagedError(f"{cut(value)} as the flag `{name}`, which is not of the type {_named(hints[name])}")
    try:
        check_ranges(TrainConfig(**known))
    except UserError as error:
        raise DamagedError(f"a flag that is out of range: {str(error).rstrip('.')}") from error


def _fits(value: object, hint: Any) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _named(hint: Any) -> str:
    return " or ".join(kind.__name__.replace("NoneType", "null") for kind in typing.get_args(hint) or (hint,))
