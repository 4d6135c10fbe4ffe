"""The processes that look at a data set together, each at its share of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from errors import UserError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Crew:
    """One process among those that prepare the same data set.

    Attributes:
        member: index of this process.
        members: how many there are.
        exchange: gives every process's bytes, in the order of the members; all must call it together.
    """

    member: int = 0
    members: int = 1
    exchange: Callable[[bytes], list[bytes]] = lambda own: [own]

    def share(self, what: str, items: Sequence[_T], look: Callable[[Sequence[_T]], list[Any]]) -> list[Any]:
        """What `look` finds about each item, in order; each process looks at its share only.

        Args:
            what: the items are, for messages.
            items: the same in every process.
            look: gives a finding for each item that it gets; a finding must survive JSON, where tuples become lists.

        Raises:
            UserError: in every process when one has other items, or fails with a `UserError`.
        """
        if self.members == 1:
            return look(items)
        report: dict[str, Any] = {"items": hashlib.sha256(repr(list(items)).encode()).hexdigest()}
        try:
            report["findings"] = look(items[self.member :: self.members])
        except UserError as problem:
            # Ending here would leave the others waiting.
            report["problem"] = str(problem)
        reports = [json.loads(each) for each in self.exchange(json.dumps(report).encode())]
        check_same(what, [report["items"] for report in reports])
        problems = [report["problem"] for report in reports if "problem" in report]
        if problems:
            raise UserError(problems[0])
        findings = [None] * len(items)
        for member, each in enumerate(reports):
            findings[member :: self.members] = each["findings"]
        return findings


ALONE = Crew()


def check_same(what: str, values: Sequence[Any]) -> None:
    """Checks that all workers, in whose order `values` are, have the same of `what`.

    Raises:
        UserError: one has another than the first.
    """
    for worker, value in enumerate(values):
        if value != values[0]:
            raise UserError(
                f"All workers must have the same {what}. Received others in worker {worker} than in worker 0. "
                "Give all of them the same files and the same command."
            )
