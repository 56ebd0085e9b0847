"""Operators on regions of images: RoiAlign, MaxRoiPool, NonMaxSuppression."""

from __future__ import annotations

from typing import Any

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import Blocked, Tensor
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

BINS_PAY = 4  # a bin of RoiAlign, whose samples weigh some 16 pixels, pays for reordering so many of the image


@operator("NonMaxSuppression", since=10)
def non_max_suppression(
    ctx: Lowering,
    node: Node,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """(batch, class, box) of the boxes that are kept, best first within a class."""
    ctx.native(boxes, scores)
    batches = ctx.equal_dims(boxes.shape[0], scores.shape[0], "batches of boxes and scores")
    count = ctx.equal_dims(boxes.shape[1], scores.shape[2], "numbers of boxes and scores")
    ctx.equal_dims(boxes.shape[2], 4, "coordinates of a box")
    limit: Dim = 0 if most is None else ctx.dim(ex.maximum(ctx.elements(most)[0], 0))
    kept = ctx.temporary("int64", batches * scores.shape[1] * ix.imin(count, limit) * 3)
    found = ix.symbol(ctx.fresh("s"))
    fields = {
        "boxes": ctx.pointer(boxes),
        "scores": ctx.pointer(scores),
        "kept": Pointer(kept),
        "batches": batches,
        "classes": scores.shape[1],
        "count": count,
        "most": limit,
        "overlap": None if overlap is None else ctx.pointer(overlap),
        "least": None if least is None else ctx.pointer(least),
        "centered": bool(node.attr("center_point_box", 0)),
        "has_least": least is not None,
    }
    ctx.emit(Kernel("non_max_suppression", fields, (kept,), serial=True, result=found))
    return ctx.in_memory(kept, (found, 3))


@operator("RoiAlign", since=10)
def roi_align_corner(ctx: Lowering, node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Averages (maxima) of bilinear samples in the bins of each region; a pixel is a point."""
    return _roi_align(ctx, node, x, rois, batch, "output_half_pixel")


@operator("RoiAlign", since=16)
def roi_align(ctx: Lowering, node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Averages (maxima) of bilinear samples in the bins of each region; a pixel is a square unless told otherwise."""
    return _roi_align(ctx, node, x, rois, batch, node.attr("coordinate_transformation_mode", "half_pixel"))


def _as_float(ctx: Lowering, x: Tensor) -> Tensor:
    """`x` in float32, for a kernel."""
    ctx.requires(x.dtype in ("float32", "float16", "bfloat16"), f"regions of {x.dtype}")
    if x.dtype == "float32":
        return x
    return ctx.lazy("float32", x.shape, lambda i: ex.cast(x.at(i), "float32"), sources=[x], cost=1)


def _pooled(ctx: Lowering, x: Tensor, kernel: str, shape: tuple[Dim, ...], fields: dict[str, Any]) -> Tensor:
    """The result of a kernel that works on the regions of images `x`; `fields` has their address."""
    result = ctx.temporary("float32", ix.product(shape))
    common = {
        "y": Pointer(result), "images": x.shape[0], "channels": x.shape[1],
        "height": x.shape[2], "width": x.shape[3], "regions": shape[0], "rows": shape[2], "columns": shape[3],
    }  # fmt: skip
    ctx.emit(Kernel(kernel, common | fields, (result,)))
    found = ctx.in_memory(result, shape)
    return found if x.dtype == "float32" else ctx.lazy(x.dtype, shape, lambda i: ex.cast(found.at(i), x.dtype), cost=1)


def _images(ctx: Lowering, x: Tensor, bins: tuple[Dim, ...]) -> dict[str, Any]:
    """Where `roi_align_f32` finds images: in blocks of channels if they lie so, or if there are bins enough to pay."""
    pixels, wanted = x.shape[0] * ix.product(x.shape[2:]), bins[0] * ix.product(bins[2:])
    many = isinstance(pixels, int) and isinstance(wanted, int) and BINS_PAY * wanted >= pixels
    if x.prefers is Blocked or many:
        pointer, image = ctx.blocked(x)
        return {"x": pointer, "x_image": image, "blocked": True}
    return {"x": ctx.pointer(x), "x_image": ix.product(x.shape[1:]), "blocked": False}


def _roi_align(ctx: Lowering, node: Node, x: Tensor, rois: Tensor, batch: Tensor, coordinates: str) -> Tensor:
    ctx.native(x, rois, batch)
    ctx.requires(x.dtype != "float64", "regions of float64")
    count = ctx.equal_dims(rois.shape[0], batch.shape[0], "numbers of regions and of batch indices")
    numbers = ctx.lazy("int64", batch.shape, lambda i: ex.cast(batch.at(i), "int64"), sources=[batch])
    shape = (count, x.shape[1], node.attr("output_height", 1), node.attr("output_width", 1))
    fields = _images(ctx, _as_float(ctx, x), shape) | {
        "regions_at": ctx.pointer(_as_float(ctx, rois)),
        "batch": ctx.pointer(numbers),
        "ratio": node.attr("sampling_ratio", 0),
        "scale": float(node.attr("spatial_scale", 1.0)),
        "half_pixel": coordinates == "half_pixel",
        "largest": node.attr("mode", "avg") == "max",
    }
    return _pooled(ctx, x, "roi_align_f32", shape, fields)


@operator("MaxRoiPool")
def max_roi_pool(ctx: Lowering, node: Node, x: Tensor, rois: Tensor) -> Tensor:
    """Maxima over the bins of each region (batch, x1, y1, x2, y2); 0 where a bin is empty."""
    ctx.native(x, rois)
    ctx.requires(x.dtype != "float64", "regions of float64")
    ctx.equal_dims(rois.shape[1], 5, "numbers of a region")
    height, width = node.attr("pooled_shape")
    fields = {
        "x": ctx.pointer(_as_float(ctx, x)),
        "regions_at": ctx.pointer(_as_float(ctx, rois)),
        "scale": float(node.attr("spatial_scale", 1.0)),
    }
    return _pooled(ctx, x, "max_roi_pool_f32", (rois.shape[0], x.shape[1], height, width), fields)
