"""Pads that cut at one end and fill at the other: what is filled with is what the cuts leave."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sardonyx
from sardonyx.runtime.reference import evaluate

MODES = ("constant", "edge", "reflect", "wrap")
PADS = ((2, -1, -2, 0), (-1, -2, 1, 2), (-1, 0, -1, 3), (0, 0, 0, 0), (-4, 1, 0, 1))


def expected(x: np.ndarray, pads: tuple[int, ...], mode: str) -> np.ndarray:
    widths = np.array(pads).reshape(2, 2).T
    kept = x[tuple(slice(max(-low, 0), size + min(high, 0)) for (low, high), size in zip(widths, x.shape, strict=True))]
    return np.pad(kept, np.maximum(widths, 0), mode)


def model(mode: str, pads: tuple[int, ...] | None = None) -> onnx.ModelProto:
    constant = "" if pads is None else f"<int64[4] p = {{{str(pads)[1:-1]}}}>"
    given = ", int64[4] p" if pads is None else ""
    return onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 19]>
        g (float[n,7] x{given}) => (float[a,b] y) {constant} {{ y = Pad <mode = "{mode}"> (x, p) }}""")


@pytest.mark.parametrize("mode", MODES)
def test_pads_that_only_the_run_knows(mode):
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    proto = model(mode)
    session = sardonyx.Session(proto)
    for pads in PADS:
        feeds = {"x": x, "p": np.array(pads)}
        np.testing.assert_array_equal(session.run(feeds)[0], expected(x, pads, mode))
        np.testing.assert_array_equal(evaluate(ir.serde.deserialize_model(proto), feeds)[0], expected(x, pads, mode))


@pytest.mark.parametrize("mode", MODES)
def test_pads_that_are_constant(mode):
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    for pads in PADS[:2]:
        session = sardonyx.Session(model(mode, pads))
        np.testing.assert_array_equal(session.run({"x": x})[0], expected(x, pads, mode))


def test_an_axis_of_which_nothing_is_left_cannot_be_repeated():
    session = sardonyx.Session(model("edge"))
    with pytest.raises(sardonyx.errors.ShapeError, match="empty axis"):
        session.run({"x": np.ones((5, 7), np.float32), "p": np.array([2, 0, -5, 0])})
