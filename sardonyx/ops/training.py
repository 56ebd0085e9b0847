"""Steps of gradient descent (ai.onnx.preview.training): Momentum, Adagrad, Adam.

Inputs are the learning rate, the number of the step, then each of the lists of tensors, gradients and state; outputs
are the lists of new tensors and new state. What depends on the two scalars alone is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops.binary import map_elements
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

DOMAIN = "ai.onnx.preview.training"
Update = Callable[..., Sequence[Expr]]  # elements of a tensor, its gradient and its state -> new tensor and new state


def _updated(ctx: Lowering, inputs: Sequence[Tensor], lists: int, update: Update) -> tuple[Tensor, ...]:
    """New tensors and state; `inputs` are `lists` lists of equal length, one after the other."""
    count = len(inputs) // lists
    if len(inputs) != lists * count or not count:
        problem = f"{len(inputs)} tensors can't be {lists} lists of one length"
        raise errors.ModelError(problem, node=ctx.node, operator=ctx.operator)
    groups = [[ctx.cheap(x) for x in inputs[i::count]] for i in range(count)]
    for first, *others in groups:
        for other in others:
            ctx.requires(other.rank == first.rank, "gradients or state of another rank")
            for a, b in zip(first.shape, other.shape, strict=True):
                ctx.equal_dims(a, b, "a tensor, its gradient and state")

    def part(group: Sequence[Tensor], number: int) -> Tensor:
        return map_elements(ctx, lambda *values: update(*values)[number], *group, shape=group[0].shape)

    return tuple(part(group, number) for number in range(lists - 1) for group in groups)


def _scalars(ctx: Lowering, rate: Tensor, step: Tensor) -> tuple[Expr, Expr]:
    """Learning rate and step number in float64."""
    ctx.native(rate, step)
    return tuple(ex.cast(ctx.cheap(x).scalar(), "float64") for x in (rate, step))  # type: ignore[return-value]


@operator("Momentum", domain=DOMAIN)
def momentum(ctx: Lowering, node: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients gather speed: v = alpha * v + beta * g, x = x - rate * v; or as Nesterov looks ahead."""
    ctx.native(*inputs)
    r, t = _scalars(ctx, rate, step)
    decay, alpha, beta = (node.attr(name, 0.0) for name in ("norm_coefficient", "alpha", "beta"))
    share = ex.select(t > 0.0, ex.constant(beta, "float64"), 1.0)
    ahead = node.attr("mode", "standard") == "nesterov"

    def update(x: Expr, g: Expr, v: Expr) -> tuple[Expr, Expr]:
        slope = x * decay + g
        speed = v * alpha + ex.cast(share, x.dtype) * slope
        return x - ex.cast(r, x.dtype) * (slope + speed * alpha if ahead else speed), speed

    return _updated(ctx, inputs, 3, update)


@operator("Adagrad", domain=DOMAIN)
def adagrad(ctx: Lowering, node: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Steps shrink with the squares so far: h = h + g * g, x = x - rate * g / sqrt(h)."""
    ctx.native(*inputs)
    r, t = _scalars(ctx, rate, step)
    decay, epsilon = node.attr("norm_coefficient", 0.0), node.attr("epsilon", 1e-6)
    pace = r / (t * node.attr("decay_factor", 0.0) + 1.0)

    def update(x: Expr, g: Expr, h: Expr) -> tuple[Expr, Expr]:
        slope = x * decay + g
        squares = h + slope * slope
        return x - ex.cast(pace, x.dtype) * slope / (ex.unary("sqrt", squares) + epsilon), squares

    return _updated(ctx, inputs, 3, update)


@operator("Adam", domain=DOMAIN)
def adam(ctx: Lowering, node: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Steps from running means of gradients and of their squares, both corrected for their start at zero."""
    ctx.native(*inputs)
    r, t = _scalars(ctx, rate, step)
    alpha, beta, epsilon = (node.attr(*pair) for pair in (("alpha", 0.9), ("beta", 0.999), ("epsilon", 1e-6)))
    decay, decay_after = node.attr("norm_coefficient", 0.0), node.attr("norm_coefficient_post", 0.0)

    def missing(base: float) -> Expr:
        return 1.0 - ex.binary("pow", ex.constant(base, "float64"), t)

    pace = ex.select(t > 0.0, r * ex.unary("sqrt", missing(beta)) / missing(alpha), r)

    def update(x: Expr, g: Expr, v: Expr, h: Expr) -> tuple[Expr, Expr, Expr]:
        slope = x * decay + g
        mean = v * alpha + slope * (1 - alpha)
        square = h * beta + slope * slope * (1 - beta)
        moved = x - ex.cast(pace, x.dtype) * (mean / (ex.unary("sqrt", square) + epsilon))
        return moved * (1 - decay_after), mean, square

    return _updated(ctx, inputs, 4, update)
