"""Convolutions whose weights are an input, or computed from one: by kernels, with the reference's numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.runtime.reference import evaluate

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
CASES = {  # attributes, shape of x, shape of w, kernels that run it
    "blocks": ("pads = [2, 2, 2, 2]", (2, 33, 11, 13), (19, 33, 5, 5), {"conv_nchw16c_f32"}),
    "one pixel": ("strides = [2, 1]", (1, 17, 7, 9), (35, 17, 1, 1), {"conv_nchw16c_f32"}),
    "few channels": ("pads = [1, 0, 0, 1], strides = [2, 2]", (1, 3, 17, 19), (17, 3, 3, 3), {"conv_first_f32"}),
    "transformed": ("pads = [1, 1, 1, 1]", (1, 37, 23, 29), (35, 37, 3, 3), {"winograd_f32"}),
    "one axis": ("dilations = [2], pads = [2, 0]", (2, 19, 31), (5, 19, 3), {"conv_nchw16c_f32"}),
    "depthwise": ("group = 19, pads = [1, 1, 1, 1]", (2, 19, 9, 11), (19, 1, 3, 3), {"depthwise_nchw16c_f32"}),
    "whole groups": ("group = 2", (1, 32, 7, 9), (64, 16, 3, 2), {"conv_nchw16c_f32"}),
    "other groups": ("group = 3", (1, 9, 7, 9), (6, 3, 2, 2), set()),
    "five axes": ("pads = [0, 0, 0, 0, 0, 0]", (1, 5, 3, 4, 5), (7, 5, 2, 2, 2), set()),
}


def model(attributes: str, x: str, w: str, kind: str = "float") -> onnx.ModelProto:
    output = ",".join("abcde"[: x.count(",") + 1])
    return onnx.parser.parse_model(f"""{HEADER} g ({kind}[{x}] x, {kind}[{w}] w) => ({kind}[{output}] y)
        {{ twice = Add (w, w) y = Conv <{attributes}> (x, twice) }}""")


def samples(x: tuple[int, ...], w: tuple[int, ...], kind: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(13)
    return {"x": rng.standard_normal(x).astype(kind), "w": (rng.standard_normal(w) / 8).astype(kind)}


def compare(proto: onnx.ModelProto, *feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    session = sardonyx.Session(proto)
    for given in feeds:
        (expected,) = evaluate(ir.serde.deserialize_model(proto), given)
        (actual,) = session.run(given)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def shown(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_reference(name):
    attributes, x, w, kernels = CASES[name]
    proto = model(attributes, shown(x), shown(w))
    used = set(generate(ir.serde.deserialize_model(proto))[-1].kernels)
    assert kernels <= used
    assert kernels or not any("conv" in kernel for kernel in used)
    compare(proto, samples(x, w))


def test_the_size_of_the_window_may_be_known_to_the_run_alone():
    """A template that is looked for in an image."""
    proto = model("strides = [1, 1]", "1,19,h,k", "5,19,i,j")
    compare(proto, samples((1, 19, 11, 13), (5, 19, 3, 4)), samples((1, 19, 7, 8), (5, 19, 7, 1)))


def test_channels_that_only_the_run_knows_are_summed_by_a_loop():
    compare(
        model("strides = [1, 1]", "1,c,7,9", "o,c,3,3"),
        samples((1, 5, 7, 9), (2, 5, 3, 3)),
        samples((1, 1, 7, 9), (1, 1, 3, 3)),
    )


def test_half_precision_is_summed_in_single():
    proto = model("pads = [1, 1, 1, 1]", "1,17,9,11", "19,17,3,3", "float16")
    compare(proto, samples((1, 17, 9, 11), (19, 17, 3, 3), np.float16), tolerance=2e-3)


def test_infinities_stay_in_their_channels():
    """Channels beyond the last are zeros of the kernel's own: they meet no weight and no pixel."""
    feeds = samples((1, 17, 9, 11), (19, 17, 2, 2))
    feeds["w"][3] = np.inf
    (y,) = sardonyx.Session(model("strides = [1, 1]", "1,17,9,11", "19,17,2,2")).run(feeds)
    assert np.isfinite(np.delete(y, 3, axis=1)).all()
    assert not np.isfinite(y[:, 3]).any()


def test_no_output_channels_are_no_output():
    feeds = samples((1, 5, 7, 9), (0, 5, 2, 2))
    (y,) = sardonyx.Session(model("strides = [1, 1]", "1,5,7,9", "0,5,2,2")).run(feeds)
    assert y.shape == (1, 0, 6, 8)
