"""Planes of pixels: resizing, depth and space."""

from __future__ import annotations

import numpy as np

from sardonyx.converters.tflite_graph import Node, Subgraph, operator


@operator("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(c: Subgraph, node: Node) -> None:
    """To a given size; where pixel centres lie is an option."""
    linear = node.operator == "RESIZE_BILINEAR"
    o = node.options(c.model, "ResizeBilinear" if linear else "ResizeNearestNeighbor")
    x, out = node.input(0), node.out
    centres = "half_pixel" if o.half_pixel_centers else "align_corners" if o.align_corners else "asymmetric"
    known = c.ints(node.input(1))
    size = c.as_int64(node.input(1)) if known is None else known.astype(np.int64)
    plane = size if known is not None else c.b.op("Identity", size)
    front = c.b.op("Slice", c.b.op("Shape", c.get(x, True)), np.array([0]), np.array([2]))
    sizes = c.b.op("Concat", front, plane, axis=0)
    # The nearest of two equally near pixels: the source rounds half up, or cuts off where centres are not halved.
    nearest = "round_prefer_ceil" if centres != "asymmetric" else "floor"
    value = c.b.op(
        "Resize", c.get(x, True), None, None, sizes, mode="linear" if linear else "nearest",
        coordinate_transformation_mode=centres, nearest_mode=None if linear else nearest,
    )  # fmt: skip
    c.set(out, value, True)


@operator("DEPTH_TO_SPACE")
def depth_to_space(c: Subgraph, node: Node) -> None:
    """Channels become blocks of the plane."""
    block = int(node.options(c.model, "DepthToSpace").block_size)
    c.move(node, lambda v: c.b.op("DepthToSpace", v, blocksize=block, mode="DCR"), node.input(0), first=True)


@operator("SPACE_TO_DEPTH")
def space_to_depth(c: Subgraph, node: Node) -> None:
    """Blocks of the plane become channels."""
    block = int(node.options(c.model, "SpaceToDepth").block_size)
    c.move(node, lambda v: c.b.op("SpaceToDepth", v, blocksize=block), node.input(0), first=True)


@operator("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(c: Subgraph, node: Node) -> None:
    """Over neighbouring channels; the source sums where ONNX takes a mean."""
    o = node.options(c.model, "LocalResponseNormalization")
    size = 2 * o.radius + 1
    value = c.b.op(
        "LRN",
        c.get(node.input(0), True),
        size=size,
        alpha=float(o.alpha) * size,
        beta=float(o.beta),
        bias=float(o.bias),
    )
    c.set(node.out, value, True)
