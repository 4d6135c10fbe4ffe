from __future__ import annotations

import json

import numpy as np
import pytest

import models
from tests.models import golden


@pytest.mark.parametrize("name", golden.VARIANTS)
def test_a_tiny_network_of_each_family_still_gives_the_stored_logits(name):
    stored = json.loads(golden.FILE.read_text())[name]
    computed = golden.outputs(name)

    assert computed.keys() == stored.keys()
    for head in stored:
        np.testing.assert_allclose(computed[head], stored[head], rtol=1e-4, atol=1e-5)


def test_the_stored_logits_differ_between_images():
    # Logits that the pixels don't reach would match whatever the network does.
    for name, heads in json.loads(golden.FILE.read_text()).items():
        for values in heads.values():
            assert np.abs(np.subtract(*values)).max() > 1e-3, name


def test_every_family_has_a_golden_network():
    families = {spec.builder.split(":")[0] for spec in models.REGISTRY.values()}

    assert {models.find(name).builder.split(":")[0] for name in golden.VARIANTS} == families
