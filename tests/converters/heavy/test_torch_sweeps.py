"""How many architectures of Torchvision and Transformers convert and verify; takes hours on a slow machine.

What is in benchmarks/results/converters_torch.json already is not converted again.
"""

import pytest
from converters.heavy import torchvision_models, transformers_models
from converters.heavy.sweep import sweep

ENVIRONMENT = "torch"
pytestmark = pytest.mark.converters


def passed(rows):
    return [row["model"] for row in rows if row["verdict"] == "pass"]


def test_nearly_all_architectures_of_torchvision():
    rows = sweep(torchvision_models.cases())
    assert len(passed(rows)) >= 0.95 * len(rows), sorted({row["model"] for row in rows} - set(passed(rows)))


def test_nearly_all_of_the_most_used_models_of_transformers():
    """27 of any 30: those beyond are spare."""
    rows = sweep(transformers_models.cases())
    assert len(passed(rows)) >= 0.9 * len(rows), sorted({row["model"] for row in rows} - set(passed(rows)))
