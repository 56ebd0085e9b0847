"""JAX functions and Flax modules, converted and compared with JAX itself."""

import pytest
from converters.heavy.common import converted

pytestmark = pytest.mark.converters


def test_nothing_yet():
    assert converted
