"""The pictures of a run, found, looked at and split, before a model exists."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from data import load as sources
from data import scan, split
from data.names import printable
from data.source import Source
from training.config import TrainConfig


@dataclass(frozen=True)
class Examples:
    """Usable pictures with their parts.

    Attributes:
        source: the pictures that can be trained on.
        digests: SHA-256 of each picture's bytes.
        parts: `train`, `val`, `test` or `unused` for each picture.
        skipped: address and reason of each picture that was left out.
    """

    source: Source
    digests: list[str]
    parts: np.ndarray
    skipped: list[tuple[str, str]]

    def part(self, name: str) -> tuple[Source, list[str]]:
        """The pictures of one part and their digests."""
        indices = np.flatnonzero(self.parts == name)
        return self.source.take(indices), [self.digests[i] for i in indices]


def gather(config: TrainConfig) -> Examples:
    """Finds, scans and splits the pictures that `config` names.

    Raises:
        UserError: there are none, some are bad and shall not be skipped, or they are too few to split.
    """
    source = sources.load(config.data, config.data_dir)
    inspections = scan.scan(source)
    good = scan.usable(source, inspections, config.on_bad_image)
    skipped = [(a, i.problem) for a, i in zip(source.addresses, inspections, strict=True) if i.problem]
    if skipped:
        print(
            f"Training without {len(skipped)} of {len(source)} files that are no usable pictures:\n"
            f"{scan.list_bad(source, inspections)}",
            file=sys.stderr,
        )
    odd = scan.list_odd(source, inspections)
    if odd and source.holds_paths:
        print(f"Unusual, but usable:\n{odd}", file=sys.stderr)
    usable = source.take(good)
    digests = [inspections[i].digest for i in good]
    _tell_of_copies(usable, digests)
    fractions = split.Fractions(config.train_fraction, config.val_fraction, config.test_fraction)
    return Examples(usable, digests, split.assign(usable, digests, fractions), skipped)


def _tell_of_copies(source: Source, digests: list[str]) -> None:
    """Copies stay in one part; but identical pictures with two labels can't both be right."""
    first: dict[str, int] = {}
    copies, pairs = 0, []
    for i, digest in enumerate(digests):
        j = first.setdefault(digest, i)
        copies += i != j
        if source.labels[i] != source.labels[j]:
            pairs.append(f"  {source.addresses[j]} and {source.addresses[i]}")
    if copies:
        print(f"{copies:,} pictures are copies of others; copies stay in the same part.", file=sys.stderr)
    if pairs:
        listed = printable("\n".join(pairs[:10]))
        print(f"{len(pairs):,} identical pictures have different labels:\n{listed}", file=sys.stderr)
