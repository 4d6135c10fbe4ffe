"""What a client can ask a served model about itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metadata:
    """What travels with a SavedModel, as its `metadata` signature and in `assets.extra/metadata.json`.

    Attributes:
        model: a name of the registry, or whatever the Keras model is called.
        class_names: in the order of the columns of `probabilities`; valid UTF-8, for they travel as JSON.
        image_size: height and width of the network's input in px.
        channels: 3 (RGB) or 1 (gray).
        heads: names of the outputs, such as ("class",), in the order of the registry.
        run: name of the run folder; empty when the model comes from elsewhere.
        details: what else is known: versions of the libraries, git commit, data, seed, test metrics.
    """

    model: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int = 3
    heads: tuple[str, ...] = ("class",)
    run: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def further_heads(self) -> tuple[str, ...]:
        """Those beside the class, each of which gives a value by its name."""
        return tuple(head for head in self.heads if head != "class")

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Reads what `to_json` wrote; raises ValueError, TypeError or KeyError on anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "class_names": tuple(fields["class_names"]), "heads": tuple(fields["heads"])})
