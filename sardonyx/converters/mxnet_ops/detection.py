"""Detection: anchors, decoding of boxes, non-maximum suppression, regions of interest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, like, need_rank, operator, sizes

_FAR = np.iinfo(np.int64).max


def _floats(node: Node, name: str, default: tuple[float, ...]) -> list[float]:
    found = node.parsed(name, default)
    return [float(each) for each in (found if isinstance(found, (tuple, list)) else (found,))]


@operator("_contrib_MultiBoxPrior", "MultiBoxPrior")
def multi_box_prior(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Anchors around each place of a plane: all sizes at the first ratio, then the first size at all other ratios."""
    height, width = sizes(x)[2:4]
    if height is None or width is None:
        raise node.refuse("the size of its plane must be known", "Give fixed heights and widths.")
    ratios, scales = _floats(node, "ratios", (1.0,)), _floats(node, "sizes", (1.0,))
    steps, offsets = _floats(node, "steps", (-1.0, -1.0)), _floats(node, "offsets", (0.5, 0.5))
    f = np.float32
    step_y, step_x = (f(s) if s > 0 else f(1) / f(n) for s, n in zip(steps, (height, width)))
    pairs = [(s, ratios[0]) for s in scales] + [(scales[0], r) for r in ratios[1:]]
    half = np.array([(s * height / width * np.sqrt(r) / 2, s / np.sqrt(r) / 2) for s, r in pairs], f)
    y, x_ = np.meshgrid((np.arange(height, dtype=f) + f(offsets[0])) * step_y,
                        (np.arange(width, dtype=f) + f(offsets[1])) * step_x, indexing="ij")  # fmt: skip
    centre = np.stack([x_, y], -1)[:, :, None, :]
    boxes = np.concatenate([centre - half, centre + half], -1).reshape(1, -1, 4)
    return c.b.constant(np.clip(boxes, 0, 1) if node.flag("clip") else boxes)


def _columns(c: Graph, x: ir.Value, count: int) -> list[ir.Value]:
    return c.b.many("Split", x, outputs=count, axis=-1, num_outputs=count)


@operator("_contrib_MultiBoxDetection", "MultiBoxDetection")
def multi_box_detection(c: Graph, node: Node, probability: ir.Value, offsets: ir.Value, anchors: ir.Value) -> ir.Value:
    """(class, score, box) by falling score; what another box suppresses loses its class, what is nothing all (-1)."""
    if node.integer("background_id", 0) != 0:
        raise node.refuse("a background that is not class 0")
    op, f = c.b.op, np.float32
    objects = op("Slice", probability, np.array([1]), np.array([_FAR]), np.array([1]))
    score = op("ReduceMax", objects, np.array([1]), keepdims=0)
    kind = op("Cast", op("ArgMax", objects, axis=1, keepdims=0), to=ir.DataType.FLOAT)
    valid = op("GreaterOrEqual", score, f(node.number("threshold", 0.01)))
    boxes = _decoded(c, node, offsets, anchors)
    ranked = op("Where", valid, score, f(-1))
    count = op("Slice", op("Shape", score), np.array([1]), np.array([2]))
    _, order = c.b.many("TopK", ranked, count, outputs=2, axis=1)
    most = node.integer("nms_topk", -1)
    if most > 0:  # the rows after these lose their class, and are not sorted
        _, unsorted = c.b.many("TopK", op("Cast", valid, to=ir.DataType.INT32), count, outputs=2, axis=1)
        order = op("Where", _first(c, count, most), order, unsorted)
    ranked = op("GatherElements", ranked, order, axis=1)
    kind = op("GatherElements", op("Where", valid, kind, f(-1)), order, axis=1)
    index = op("Unsqueeze", order, np.array([-1]))
    boxes = op("GatherElements", boxes, op("Expand", index, np.array([1, 1, 4])), axis=1)
    known = op("GreaterOrEqual", kind, f(0))
    boxes = op("Where", op("Unsqueeze", known, np.array([-1])), boxes, f(-1))
    classes = sizes(probability)[1]
    kept = known
    if most > 0:
        kept = op("And", kept, _first(c, count, most))
    threshold = node.number("nms_threshold", 0.5)
    if 0 < threshold <= 1:
        kept = _unsuppressed(c, node, boxes, ranked, kind, kept, threshold, None if classes is None else classes - 1)
    kind = op("Where", kept, kind, f(-1))
    columns = [op("Unsqueeze", each, np.array([-1])) for each in (kind, ranked)]
    return op("Concat", *columns, boxes, axis=2)


def _decoded(c: Graph, node: Node, offsets: ir.Value, anchors: ir.Value) -> ir.Value:
    op, f = c.b.op, np.float32
    vx, vy, vw, vh = _floats(node, "variances", (0.1, 0.1, 0.2, 0.2))
    left, top, right, bottom = _columns(c, anchors, 4)
    dx, dy, dw, dh = _columns(c, op("Reshape", offsets, np.array([0, -1, 4])), 4)
    parts = []
    for low, high, shift, grow, v1, v2 in ((left, right, dx, dw, vx, vw), (top, bottom, dy, dh, vy, vh)):
        size = op("Sub", high, low)
        centre = op("Mul", op("Add", low, high), f(0.5))
        centre = op("Add", op("Mul", op("Mul", shift, f(v1)), size), centre)
        half = op("Mul", op("Mul", op("Exp", op("Mul", grow, f(v2))), size), f(0.5))
        parts.append((op("Sub", centre, half), op("Add", centre, half)))
    boxes = op("Concat", parts[0][0], parts[1][0], parts[0][1], parts[1][1], axis=-1)
    return op("Clip", boxes, f(0), f(1)) if node.flag("clip", True) else boxes


def _first(c: Graph, count: ir.Value, most: int) -> ir.Value:
    """Whether each of `count` places is among the first."""
    total = c.b.op("Squeeze", count, np.array([0]))
    steps = c.b.op("Range", np.int64(0), total, np.int64(1))
    return c.b.op("Unsqueeze", c.b.op("Less", steps, np.int64(most)), np.array([0]))


def _unsuppressed(
    c: Graph,
    node: Node,
    boxes: ir.Value,
    score: ir.Value,
    kind: ir.Value,
    candidates: ir.Value,
    threshold: float,
    classes: int | None,
) -> ir.Value:
    """Which of the boxes (batch, count, 4), by falling score, no better one suppresses."""
    op, f = c.b.op, np.float32
    if node.flag("force_suppress"):
        one = op("Unsqueeze", op("Where", candidates, score, f(-np.inf)), np.array([1]))
    else:
        if classes is None:
            raise node.refuse("the number of classes must be known")
        numbers = np.arange(classes, dtype=f).reshape(1, -1, 1)
        mine = op(
            "And",
            op("Equal", op("Unsqueeze", kind, np.array([1])), numbers),
            op("Unsqueeze", candidates, np.array([1])),
        )
        one = op("Where", mine, op("Unsqueeze", score, np.array([1])), f(-np.inf))
    # What has no score takes no part: the threshold of scores is the lowest number.
    chosen = op("NonMaxSuppression", boxes, one, np.array([_FAR >> 32]), np.array([threshold], f), np.array([-3e38], f))
    places = op("Gather", chosen, np.array([0, 2]), axis=1)
    none = op("Expand", np.array(False), op("Shape", score))
    ones = op("Expand", np.array(True), op("Slice", op("Shape", places), np.array([0]), np.array([1])))
    return op("ScatterND", none, places, ones)


@operator("_contrib_box_nms", "_contrib_box_non_maximum_suppression")
def box_nms(c: Graph, node: Node, x: ir.Value) -> list[ir.Value | None]:
    """Rows by falling score, those that another suppresses are -1 and come last."""
    op, f = c.b.op, np.float32
    shape, rank = sizes(x), need_rank(node, x)
    width = shape[-1]
    if width is None:
        raise node.refuse("the number of columns must be known")
    start, score_at, id_at = (
        node.integer("coord_start", 2),
        node.integer("score_index", 1),
        node.integer("id_index", -1),
    )
    count = op("Slice", op("Shape", x), np.array([rank - 2]), np.array([rank - 1]))
    rows = x if rank == 3 else op("Reshape", x, op("Concat", np.array([-1]), count, np.array([width]), axis=0))
    score = op("Gather", rows, np.int64(score_at), axis=2)
    valid = op("Greater", score, f(node.number("valid_thresh", 0.0)))
    kind = op("Gather", rows, np.int64(id_at), axis=2) if id_at >= 0 else None
    if kind is not None and node.integer("background_id", -1) >= 0:
        valid = op("And", valid, op("Not", op("Equal", kind, f(node.integer("background_id")))))
    ranked = op("Where", valid, score, f(-np.inf))
    _, order = c.b.many("TopK", ranked, count, outputs=2, axis=1)
    rows = op(
        "GatherElements", rows, op("Expand", op("Unsqueeze", order, np.array([-1])), np.array([1, 1, width])), axis=1
    )
    kept = op("GatherElements", op("Cast", valid, to=ir.DataType.INT32), order, axis=1)
    kept = op("Cast", kept, to=ir.DataType.BOOL)
    if node.integer("topk", -1) > 0:
        kept = op("And", kept, _first(c, count, node.integer("topk")))
    boxes = op("Slice", rows, np.array([start]), np.array([start + 4]), np.array([2]))
    boxes = _corners(c, boxes) if node.text("in_format", "corner") == "center" else boxes
    score = op("Gather", rows, np.int64(score_at), axis=2)
    kept = _kept(c, node, boxes, score, None if kind is None else op("Gather", rows, np.int64(id_at), axis=2), kept)
    rows = op("Where", op("Unsqueeze", kept, np.array([-1])), rows, f(-1))
    # A stable sort brings what is kept to the front.
    place = op("Cast", op("Not", kept), to=ir.DataType.INT32)
    _, order = c.b.many("TopK", place, count, outputs=2, axis=1, largest=0)
    rows = op(
        "GatherElements", rows, op("Expand", op("Unsqueeze", order, np.array([-1])), np.array([1, 1, width])), axis=1
    )
    rows = _formatted(c, node, rows, start, width)
    return [rows if rank == 3 else op("Reshape", rows, op("Shape", x)), None]


def _kept(
    c: Graph, node: Node, boxes: ir.Value, score: ir.Value, kind: ir.Value | None, candidates: ir.Value
) -> ir.Value:
    """Suppression among boxes of a class; classes are moved apart, so that their boxes never meet."""
    op, f = c.b.op, np.float32
    if kind is not None and not node.flag("force_suppress"):
        spread = op(
            "Sub",
            op("ReduceMax", boxes, np.array([1, 2]), keepdims=1),
            op("ReduceMin", boxes, np.array([1, 2]), keepdims=1),
        )
        apart = op("Mul", op("Unsqueeze", kind, np.array([-1])), op("Add", spread, f(1)))
        boxes = op("Add", boxes, apart)
    one = op("Unsqueeze", op("Where", candidates, score, f(-np.inf)), np.array([1]))
    overlap = np.array([node.number("overlap_thresh", 0.5)], f)
    chosen = op("NonMaxSuppression", boxes, one, np.array([_FAR >> 32]), overlap, np.array([-3e38], f))
    places = op("Gather", chosen, np.array([0, 2]), axis=1)
    none = op("Expand", np.array(False), op("Shape", score))
    ones = op("Expand", np.array(True), op("Slice", op("Shape", places), np.array([0]), np.array([1])))
    return op("ScatterND", none, places, ones)


def _corners(c: Graph, boxes: ir.Value) -> ir.Value:
    """(centre, size) as corners."""
    centre, size = c.b.many("Split", boxes, outputs=2, axis=-1, num_outputs=2)
    half = c.b.op("Mul", size, like(size, 0.5))
    return c.b.op("Concat", c.b.op("Sub", centre, half), c.b.op("Add", centre, half), axis=-1)


def _centres(c: Graph, boxes: ir.Value) -> ir.Value:
    """Corners as (centre, size)."""
    low, high = c.b.many("Split", boxes, outputs=2, axis=-1, num_outputs=2)
    centre = c.b.op("Mul", c.b.op("Add", low, high), like(low, 0.5))
    return c.b.op("Concat", centre, c.b.op("Sub", high, low), axis=-1)


def _formatted(c: Graph, node: Node, rows: ir.Value, start: int, width: int) -> ir.Value:
    source, target = node.text("in_format", "corner"), node.text("out_format", "corner")
    if source == target:
        return rows
    parts = [c.b.op("Slice", rows, np.array([a]), np.array([b]), np.array([2])) for a, b in
             ((0, start), (start, start + 4), (start + 4, width)) if a < b]  # fmt: skip
    at = 1 if start > 0 else 0
    changed = _corners(c, parts[at]) if target == "corner" else _centres(c, parts[at])
    gone = c.b.op("Equal", parts[at], np.float32(-1))
    least = c.b.op("ReduceMin", c.b.op("Cast", gone, to=ir.DataType.INT32), np.array([2]), keepdims=1)
    all_gone = c.b.op("Cast", least, to=ir.DataType.BOOL)
    parts[at] = c.b.op("Where", all_gone, parts[at], changed)
    return c.b.op("Concat", *parts, axis=2)


@operator("_contrib_box_iou")
def box_iou(c: Graph, node: Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """Overlap of each box of one list with each of another."""
    op = c.b.op
    if node.text("format", "corner") == "center":
        x, y = _corners(c, x), _corners(c, y)
    a, b = need_rank(node, x), need_rank(node, y)
    x = op("Unsqueeze", x, np.arange(a - 1, a - 1 + b - 1))
    low_x, high_x = c.b.many("Split", x, outputs=2, axis=-1, num_outputs=2)
    low_y, high_y = c.b.many("Split", y, outputs=2, axis=-1, num_outputs=2)
    common = op("Max", op("Sub", op("Min", high_x, high_y), op("Max", low_x, low_y)), like(x, 0))
    last = np.array([-1])
    inner = op("ReduceProd", common, last, keepdims=0)
    areas = [
        op("ReduceProd", op("Sub", high, low), last, keepdims=0) for high, low in ((high_x, low_x), (high_y, low_y))
    ]
    union = op("Sub", op("Add", *areas), inner)
    return op("Where", op("Greater", inner, like(x, 0)), op("Div", inner, union), like(x, 0))


@operator("ROIPooling")
def roi_pooling(c: Graph, node: Node, x: ir.Value, regions: ir.Value) -> ir.Value:
    """The largest value in each cell of a region."""
    return c.b.op("MaxRoiPool", x, regions, pooled_shape=node.ints("pooled_size"),
                  spatial_scale=node.number("spatial_scale"))  # fmt: skip


@operator("_contrib_ROIAlign")
def roi_align(c: Graph, node: Node, x: ir.Value, regions: ir.Value) -> ir.Value:
    """Means of samples between pixels."""
    if node.flag("position_sensitive"):
        raise node.refuse("position-sensitive regions")
    height, width = node.ints("pooled_size")
    batch = c.b.op("Cast", c.b.op("Gather", regions, np.int64(0), axis=1), to=ir.DataType.INT64)
    boxes = c.b.op("Slice", regions, np.array([1]), np.array([5]), np.array([1]))
    return c.b.op(
        "RoiAlign", x, boxes, batch, output_height=height, output_width=width, mode="avg",
        sampling_ratio=max(0, node.integer("sample_ratio", -1)), spatial_scale=node.number("spatial_scale"),
        coordinate_transformation_mode="half_pixel" if node.flag("aligned") else "output_half_pixel",
    )  # fmt: skip


@operator("_contrib_box_decode")
def box_decode(c: Graph, node: Node, x: ir.Value, anchors: ir.Value) -> ir.Value:
    """Offsets from anchors as corners of boxes."""
    op, f = c.b.op, np.float32
    if node.text("format", "center") == "corner":
        anchors = _centres(c, anchors)
    stds = [node.number(f"std{n}", d) for n, d in enumerate((0.1, 0.1, 0.2, 0.2))]
    clip = node.number("clip", -1.0)
    ax, ay, aw, ah = _columns(c, anchors, 4)
    dx, dy, dw, dh = _columns(c, x, 4)
    parts = []
    for centre, size, shift, grow, s1, s2 in ((ax, aw, dx, dw, stds[0], stds[2]), (ay, ah, dy, dh, stds[1], stds[3])):
        middle = op("Add", op("Mul", op("Mul", shift, f(s1)), size), centre)
        scale = op("Mul", grow, f(s2))
        scale = op("Min", scale, f(clip)) if clip > 0 else scale
        half = op("Mul", op("Mul", op("Exp", scale), size), f(0.5))
        parts.append((op("Sub", middle, half), op("Add", middle, half)))
    return op("Concat", parts[0][0], parts[1][0], parts[0][1], parts[1][1], axis=-1)
