"""Inputs as people write them."""

import pytest

from sardonyx.converters.signature import parse_inputs
from sardonyx.errors import InputError


def test_types_dimensions_and_values():
    found = parse_inputs("x:float32[batch,3,7] in 0..1; ids:int64[batch,n]<11; y[2] in -1.5 .. 2e-3; z:uint8[]")
    assert [(each.name, each.dtype, each.shape, each.low, each.high) for each in found] == [
        ("x", "float32", ("batch", 3, 7), 0.0, 1.0),
        ("ids", "int64", ("batch", "n"), 0, 10),
        ("y", "float32", (2,), -1.5, 0.002),
        ("z", "uint8", (), None, None),
    ]


@pytest.mark.parametrize("text", ["x", "x:float32[3", "x[3] in 0", "x[3] in 0..", "x[3]<1 in 0..1"])
def test_what_is_not_written_like_that_is_an_error(text):
    with pytest.raises(InputError, match="inputs"):
        parse_inputs(text)
