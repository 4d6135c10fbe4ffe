"""The model card: what a stranger must know before using the model, as the run folder's README."""

from __future__ import annotations

import models
from data.files import write_text
from evaluation import pages, tables
from evaluation.assess import Assessment
from evaluation.report import measured, split_counts
from training import best_model

FILE = "README.md"


def write(assessment: Assessment) -> str:
    """Writes README.md into the run folder and gives its path (Mitchell et al., 2019, arXiv:1810.03993).

    Raises:
        UserError: the place can't be written to.
    """
    run = assessment.subject.run
    path = run.file(FILE)
    write_text(path, text(assessment))
    return path


def text(assessment: Assessment) -> str:
    """The card as Markdown."""
    run = assessment.subject.run
    return pages.render(
        "card.md.j2",
        assessment.numbers,
        subject=assessment.subject,
        config=run.config,
        heads=measured(assessment),
        spec=models.find(run.config.model),
        kept=best_model.kept(run.path),
        history=run.history(),
        details=run.details(),
        counts={split: int(values.sum()) for split, values in split_counts(run).items()},
        per_class=tables.per_class(assessment.numbers),
    )
