"""The absl flags of `train.py`, one for each field of `TrainConfig`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from absl import flags

from training.config import TrainConfig

_DEFINE: dict[type, Callable] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines all flags of a training run."""
    types = typing.get_type_hints(TrainConfig)
    for item in dataclasses.fields(TrainConfig):
        default: Any = item.default
        text, choices = item.metadata["help"], item.metadata["choices"]
        if choices:
            flags.DEFINE_enum(item.name, default, list(choices), text, flag_values=flag_values)
        else:
            _DEFINE[_plain(types[item.name])](item.name, default, text, flag_values=flag_values)


def read(flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """The values of the parsed flags."""
    values: dict[str, Any] = {item.name: flag_values[item.name].value for item in dataclasses.fields(TrainConfig)}
    return TrainConfig(**values)


def given(flag_values: flags.FlagValues = flags.FLAGS) -> dict[str, object]:
    """The values of the flags that the command line names."""
    names = (item.name for item in dataclasses.fields(TrainConfig))
    return {name: flag_values[name].value for name in names if flag_values[name].present}


def _plain(hint: object) -> type:
    """`float` for `float | None`."""
    return next(kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None))  # type: ignore[return-value]
