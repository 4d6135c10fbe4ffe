from __future__ import annotations

import dataclasses
import math
import pathlib

import pytest

from errors import UserError
from serving import check, client, export
from serving.transport import Grpc, Patience, Target
from tests.serving import stand_in


@pytest.fixture(scope="module")
def ask(run, tmp_path_factory: pytest.TempPathFactory):
    base = tmp_path_factory.mktemp("served")
    export.export_run(run, base=str(base))
    with stand_in.running(stand_in.load(str(base))) as (address, _):
        transport = Grpc(Target(address, "darkroom"))
        yield lambda images: client.classify(transport, images, Patience())


def test_a_served_run_answers_as_the_run_does(run, ask, capsys: pytest.CaptureFixture) -> None:
    differences = check.compare(run, ask, batch_size=25)
    assert list(differences) == list(run.split("test").addresses)
    assert max(differences.values()) <= 1e-5
    assert check.report(differences, 1e-5) == 0
    assert "60 test images" in capsys.readouterr().out


def test_a_difference_is_found_and_named(run, ask, capsys: pytest.CaptureFixture) -> None:
    def wrong(images: list[bytes]) -> list[client.Answer]:
        answers = ask(images)
        changed = dataclasses.replace(
            answers[0], probabilities=(answers[0].probabilities[0] + 0.01, *answers[0].probabilities[1:])
        )
        return [changed, dataclasses.replace(answers[1], error="damaged or cut off"), *answers[2:]]

    differences = check.compare(run, wrong, batch_size=8, limit=5)
    assert len(differences) == 5
    first, second = list(differences)[:2]
    assert differences[first] == pytest.approx(0.01, abs=1e-5)
    assert math.isinf(differences[second])
    assert check.report(differences, 1e-5) == 1
    printed = capsys.readouterr().out
    assert "in 2 images:" in printed and f"{second}: refused" in printed and f"{first}: 1.0e-02" in printed


def test_the_model_of_another_run_is_told_apart(run) -> None:
    own = export.describe(run)
    with pytest.raises(UserError, match="2 classes.*from the run cats"):
        check.check_same(dataclasses.replace(own, class_names=("cat", "dog"), run="cats"), run)
    check.check_same(own, run)


def test_nan_counts_as_a_difference() -> None:
    assert check.report({"a": math.nan}, 1e-5) == 1


def test_a_stand_in_needs_a_version(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--model_dir must hold versions"):
        stand_in.load(str(tmp_path))
