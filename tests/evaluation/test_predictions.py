from __future__ import annotations

import pathlib

import numpy as np
import pytest

from errors import UserError
from evaluation import predictions
from evaluation.assessment import Assessment
from models import saved_models
from serving.export import export_run
from training.heads import heads_of, probabilities
from training.run import Run


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of one version of the shared run."""
    return export_run(run, base=str(tmp_path_factory.mktemp("export")), version=None, keep_versions=0)


def test_a_saved_model_answers_as_the_keras_model_does(run: Run, assessment: Assessment, exported: str) -> None:
    assert saved_models.newest(str(pathlib.Path(exported).parent)) == exported
    predict = predictions.from_saved_model(exported, run.heads)
    served = predict(run.split("test"), 7, "predicting")
    np.testing.assert_allclose(served.probabilities, assessment.predictions.probabilities, atol=1e-5)
    np.testing.assert_array_equal(served.labels, assessment.predictions.labels)
    assert not served.targets and set(served.answers) == {"label", "score", "probabilities", "error"}


def test_a_saved_model_of_other_classes_is_refused(run: Run, exported: str) -> None:
    predict = predictions.from_saved_model(exported, heads_of(run.config.model, ("upright", "lying")))
    with pytest.raises(UserError, match="classes of this run, upright, lying"):
        predict(run.split("test"), 7, "predicting")


def test_a_folder_without_a_saved_model_is_refused(run: Run, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=f"`export` must be a SavedModel.*Received: {tmp_path}"):
        predictions.from_saved_model(str(tmp_path), run.heads)


def test_one_logit_becomes_two_columns() -> None:
    found = probabilities(np.array([[0.0], [2.0], [-800.0]], np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[:2, 1], [0.5, 1 / (1 + np.exp(-2.0))])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[2].tolist() == [1, 0]


def test_many_logits_become_a_softmax() -> None:
    found = probabilities(np.log([[1.0, 2, 5]]))
    np.testing.assert_allclose(found, [[1 / 8, 2 / 8, 5 / 8]])


def test_a_tie_is_answered_by_the_first_class_as_the_threshold_of_training_says() -> None:
    tie = predictions.Predictions(np.array([0]), probabilities(np.array([[0.0]])))
    assert tie.predicted.tolist() == [0] and tie.correct.tolist() == [True] and tie.confidence.tolist() == [0.5]
