"""Loads SavedModels from untrusted places: a graph is a program, so its operations are checked first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from errors import UserError

_GRAPH = "saved_model.pb"
# Other forms of the graph, which TensorFlow would read instead.
_OTHER_GRAPHS = ("saved_model.cpb", "saved_model.pbtxt")

# Operations that read or write files, talk to other machines, or run code outside the graph.
_REACHING_OUT = re.compile(
    r"File|PyFunc|Reader|Record|TextLine|CSVDataset|SqlDataset|LMDB|Snapshot|CacheDataset|Save|Restore|Checkpoint|"
    r"Summary|Import|Print|Debug|Rpc|Remote|DataService|Recv|Send|Collective|Bigtable|BigQuery|Vocab|^Load|Dump|"
    r"(?<!TensorArray)Write|FromGraph|CallModule|HostCompute|RegisterDataset"
)


def load(folder: str) -> Any:
    """Checks a SavedModel and loads it by `tf.saved_model.load`.

    Args:
        folder: holds `saved_model.pb` and its variables.

    Raises:
        UserError: it is damaged, or a function in it could reach files, other machines or other code.
    """
    reaching = sorted(name for name in _called_ops(folder) if _REACHING_OUT.search(name))
    if reaching:
        raise UserError(
            f"The SavedModel in {folder} must only compute. Received one that can reach files, other machines or other "
            f"code, by {', '.join(reaching[:5])}; it was not loaded. Use only models that export.py has written."
        )
    try:
        return tf.saved_model.load(folder)
    except Exception as problem:  # A damaged one can raise anything.
        raise _unreadable(folder, str(problem).strip().splitlines()[0]) from problem


def versions(base: str) -> list[int]:
    """The numbered folders in `base`, as TensorFlow Serving expects them, ascending; none if there is no `base`."""
    if not tf.io.gfile.isdir(base):
        return []
    # TensorFlow can't list local folders in which a name isn't UTF-8.
    names = [name.rstrip("/") for name in (tf.io.gfile.listdir(base) if "://" in base else os.listdir(base))]
    return sorted(int(name) for name in names if name.isdecimal() and tf.io.gfile.isdir(os.path.join(base, name)))


def newest(folder: str) -> str:
    """The highest version in `folder`, or `folder` itself if it holds none."""
    numbers = versions(folder)
    return os.path.join(folder, str(numbers[-1])) if numbers else folder


def _called_ops(folder: str) -> set[str]:
    """The operations of all functions that loading and calling the model can run.

    The functions that save and restore variables do write files; they count only when another one calls them.
    """
    meta_graph = _read(folder).meta_graphs[0]
    functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
    waiting = list(meta_graph.object_graph_def.concrete_functions)
    ops: set[str] = set()
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            ops.add(node.op)
            waiting += [node.op, *_named_functions(node.attr.values())]
    return ops - functions.keys()


def _named_functions(attributes: Iterable[Any]) -> list[str]:
    return [
        function.name
        for attribute in attributes
        for function in (attribute.func, *attribute.list.func)
        if function.name
    ]


def _read(folder: str) -> saved_model_pb2.SavedModel:
    others = [name for name in _OTHER_GRAPHS if tf.io.gfile.exists(os.path.join(folder, name))]
    if others:
        raise _unreadable(folder, f"it holds {others[0]} too")
    try:
        with tf.io.gfile.GFile(os.path.join(folder, _GRAPH), "rb") as file:
            saved = saved_model_pb2.SavedModel.FromString(file.read())
    except (OSError, tf.errors.OpError, DecodeError) as problem:
        raise _unreadable(folder, f"{_GRAPH} is missing or damaged") from problem
    # TensorFlow would run an older model's whole graph at once.
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise _unreadable(folder, "TensorFlow 2 did not write it")
    return saved


def _unreadable(folder: str, reason: str) -> UserError:
    return UserError(
        f"{folder} must be a whole SavedModel that export.py has written. Reading it failed: {reason}. "
        "Export the run again."
    )
