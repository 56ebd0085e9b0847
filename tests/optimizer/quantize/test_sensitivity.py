"""The cost of each layer, against models in which it alone is quantised."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from optimizer.quantize.helpers import apply, model_of, normal, run, snr

from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.static_int8 import StaticInt8
from sardonyx.optimizer.sensitivity import sensitivity
from sardonyx.optimizer.step import Context

BODY = """g (float[n,3,9,7] x) => (float[n,5] y, float[n,4,9,7] b) {
    a = Conv(x, w1, b1)
    r = Relu(a)
    b = Conv <pads = [1,1,1,1]> (r, w2)
    s = Relu(b)
    d = GlobalAveragePool(s)
    e = Flatten(d)
    y = Gemm(e, w3)
}"""


def chain() -> ir.Model:
    """Its second layer has a weight so large that the others become 0."""
    w2 = normal(4, 8, 3, 3, seed=2)
    w2[:, 0, 0, 0] = 200
    model = model_of(BODY, w1=normal(8, 3, 1, 1, seed=1), b1=normal(8), w2=w2, w3=normal(4, 5, seed=3))
    for node, name in zip(model.graph, ("one", "r", "two", "s", "d", "e", "three"), strict=True):
        node.name = name
    return model


def batch() -> Data:
    return Data([{"x": normal(2, 3, 9, 7, seed=30 + number)} for number in range(3)])


def worst(model: ir.Model, quantised: ir.Model) -> float:
    expected, actual = ([run(each, feeds) for feeds in batch()] for each in (model, quantised))
    return min(snr(np.stack(a), np.stack(b)) for a, b in zip(zip(*expected), zip(*actual)))


@pytest.mark.parametrize("all_but", [False, True])
def test_it_is_what_the_quantised_model_shows(all_but: bool) -> None:
    rows = sensitivity(chain(), Context(batch()), all_but=all_but)
    assert {row.node for row in rows} == {"one", "two", "three"}
    assert rows[0].node == "two"
    for row in rows:
        others = {"one", "two", "three"} - {row.node}
        result = apply("static-int8", chain(), batch(), skip=tuple({row.node} if all_but else others))
        assert abs(row.snr - worst(chain(), result.model)) < 1.5  # pooling is rounded there, too
    sizes = {row.node: row.bytes_saved for row in rows}
    assert sizes == {"one": 3 * 24, "two": 3 * 288, "three": 3 * 20}
    assert json.loads(json.dumps([row.to_json() for row in rows]))[0]["node"] == "two"


def test_how_layers_are_quantised_counts() -> None:
    bad = sensitivity(chain(), Context(batch()), StaticInt8(per_channel=False, skip=("one",)))
    assert {row.node for row in bad} == {"two", "three"}


def test_a_model_without_products_has_no_rows_and_bad_data_are_refused() -> None:
    relu = model_of("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }")
    assert sensitivity(relu, Context()) == []
    with pytest.raises(InputError):
        sensitivity(chain(), Context(Data([])))
