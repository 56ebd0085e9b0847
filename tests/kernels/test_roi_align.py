"""roi_align_f32 against the reference: both layouts, tails of channels, bins of many samples, regions far outside."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness
from onnx import helper

from sardonyx.kernels.packing import nchw_to_nchw16c
from sardonyx.runtime.reference import Evaluator

Args = harness.struct("roi_align_f32.h", "roi_align_f32_args")
BOXES = [
    [1, 1, 9, 12], [0, 2, 7, 4], [-30, -30, -20, -20], [-1.5, -1.5, 3, 40], [3.2, 4.1, 3.3, 4.2], [6, 6, 2, 2],
    [0, 0, 300, 200], [5, -2000, 6, 2000],
]  # fmt: skip


@pytest.fixture(
    scope="module",
    params=harness.ISA_PARAMS,
)
def lib(request):
    defines = {"SX_PORTABLE": None} if request.param == "x86_64_v2" else {}
    return harness.build("roi_align_f32.c", "builtins.c", isa=request.param, defines=defines)


def pooled(lib, x, boxes, batch, *, blocked, rows=3, columns=2, ratio=2, half=True, largest=False, scale=0.5):
    n, channels, height, width = x.shape
    memory = harness.at_page_end(nchw_to_nchw16c(x) if blocked else x)
    y = harness.at_page_end(np.full((len(boxes), channels, rows, columns), 7, np.float32))
    r, b = harness.at_page_end(boxes), harness.at_page_end(batch)
    harness.run(lib, "roi_align_f32", Args(
        x=harness.pointer(memory), y=harness.pointer(y), regions_at=harness.pointer(r), batch=harness.pointer(b),
        x_image=memory.size // n, blocked=blocked,
        images=n, channels=channels, height=height, width=width, regions=len(boxes), rows=rows, columns=columns,
        ratio=ratio, half_pixel=half, largest=largest, scale=scale,
    ))  # fmt: skip
    return y


def reference(x, boxes, batch, *, rows=3, columns=2, ratio=2, half=True, largest=False, scale=0.5):
    names = ["output_half_pixel", "half_pixel"]
    node = helper.make_node(
        "RoiAlign", ["x", "r", "b"], ["y"], output_height=rows, output_width=columns, sampling_ratio=ratio,
        spatial_scale=scale, mode="max" if largest else "avg", coordinate_transformation_mode=names[half],
    )  # fmt: skip
    kinds = (helper.make_tensor_value_info(name, 1 if name != "b" else 7, None) for name in "xrby")
    *inputs, output = kinds
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])
    return Evaluator(model).run(None, {"x": x, "r": boxes, "b": batch})[0]


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 3, 9])
def test_both_layouts(lib, ratio, half, largest):
    rng = np.random.default_rng(0)
    boxes, batch = np.array(BOXES, np.float32), np.arange(len(BOXES)) % 2
    for channels, height, width in ((1, 1, 1), (3, 9, 8), (16, 5, 1), (37, 11, 13)):
        x = rng.standard_normal((2, channels, height, width)).astype(np.float32)
        options = {"ratio": ratio, "half": half, "largest": largest}
        rows = pooled(lib, x, boxes, batch, blocked=False, **options)
        np.testing.assert_array_equal(pooled(lib, x, boxes, batch, blocked=True, **options), rows)
        np.testing.assert_allclose(rows, reference(x, boxes, batch, **options), 1e-5, 2e-6)


@pytest.mark.parametrize("blocked", [False, True])
def test_images_that_are_not_there_give_zeros(lib, blocked):
    x, boxes = np.ones((2, 3, 4, 5), np.float32), np.zeros((4, 4), np.float32)
    y = pooled(lib, x, boxes, np.array([0, -1, 2, 1 << 40]), blocked=blocked)
    assert (y[0] == 1).all()
    assert (y[1:] == 0).all()


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
def test_a_nan_stays_in_its_channel_and_near_its_pixel(lib, blocked, largest):
    x = np.ones((1, 19, 8, 8), np.float32)
    x[0, 17, 0, 0] = np.nan
    boxes = np.array([[0, 0, 16, 16], [8, 8, 16, 16], [-90, -90, -80, -80]], np.float32)
    y = pooled(lib, x, boxes, np.zeros(3, np.int64), blocked=blocked, largest=largest)
    assert np.isnan(y[0, 17, 0, 0])
    assert np.isnan(y).sum() == 1
    assert (y[2] == 0).all()
