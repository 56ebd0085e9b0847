"""Linear models, support vector machines and what prepares features for them (ai.onnx.ml, without the trees)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import Plain, Position, Tensor, variables
from sardonyx.ops import scores as sc
from sardonyx.ops.linalg import product
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.unary import elementwise

if TYPE_CHECKING:
    from sardonyx.compiler.graph import GraphLowering

DOMAIN = "ai.onnx.ml"
LEAST_NORM = 1e-30  # rows with a smaller norm are divided by this


def _wrong(ctx: Lowering, problem: str) -> errors.ModelError:
    return errors.ModelError(problem, node=ctx.node, operator=ctx.operator, hint="check the node's attributes")


def _floats(node: Node, name: str) -> np.ndarray:
    return np.asarray(node.attr(name) or [], np.float32)


def _matrix(ctx: Lowering, x: Tensor) -> Tensor:
    """Features [rows, features] of float32, which is what these models compute in."""
    return sc.to_dtype(ctx, sc.as_matrix(ctx, x), "float32")


def _affine(ctx: Lowering, x: Tensor, weights: np.ndarray, bias: np.ndarray) -> Tensor:
    """``x @ weights.T + bias`` for weights [outputs, features]; the bias may be empty."""
    ctx.equal_dims(x.shape[1], weights.shape[1], "the number of features differs from that of the coefficients")
    total = product(ctx, x, ctx.constant(np.ascontiguousarray(weights.T)))
    if not len(bias):
        return total
    added = ctx.constant(np.broadcast_to(bias, weights.shape[:1]).copy())
    return ctx.lazy("float32", total.shape, lambda i: total.at(i) + added.at((i[1],)), sources=[total], cost=1)


def _rows(ctx: Lowering, values: np.ndarray, count: int, name: str) -> np.ndarray:
    if count < 1 or len(values) % count:
        raise _wrong(ctx, f"{len(values)} {name} do not make {count} rows")
    return values.reshape(count, -1)


@operator("LinearRegressor", domain=DOMAIN)
def linear_regressor(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """coefficients @ x + intercepts."""
    weights = _rows(ctx, _floats(node, "coefficients"), node.attr("targets", 1), "coefficients")
    bias = _floats(node, "intercepts")
    if len(bias) not in (0, len(weights)):
        raise _wrong(ctx, f"{len(bias)} intercepts for {len(weights)} targets")
    total = _affine(ctx, _matrix(ctx, x), weights, bias)
    return sc.post_transform(ctx, total, node.attr("post_transform", "NONE"))


@operator("LinearClassifier", domain=DOMAIN)
def linear_classifier(ctx: GraphLowering, node: Node, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """The label with the highest of the scores coefficients @ x + intercepts, and the scores."""
    x = _matrix(ctx, x)
    features = ix.known(x.shape[1], "a number of features")
    coefficients, bias = _floats(node, "coefficients"), _floats(node, "intercepts")
    labels = node.attr("classlabels_ints") or node.attr("classlabels_strings") or []
    weights = _rows(ctx, coefficients, len(coefficients) // max(features, 1), "coefficients")
    if len(bias) not in (0, 1, len(weights)):
        raise _wrong(ctx, f"{len(bias)} intercepts for {len(weights)} classes")
    scores = _affine(ctx, x, weights, bias)
    transform = node.attr("post_transform", "NONE")
    if len(weights) == 1 and len(labels) == 2:
        scores = sc.stacked(ctx, [_negated(ctx, scores), ctx.cheap(scores)])
    scores = ctx.cheap(sc.post_transform(ctx, scores, transform))
    if scores.shape[1] == 1:
        level = 0.0 if transform == "NONE" else 0.5
        index = _column(ctx, scores, lambda e: ex.cast(e >= level, "int64"))
        named = labels[:1] or [1]
        return _label(ctx, node, index, [0, *named] if isinstance(named[0], int) else ["", *named]), scores
    if labels and len(labels) != scores.shape[1]:
        raise _wrong(ctx, f"{len(labels)} labels for {scores.shape[1]} classes")
    index = sc.best_class(ctx, scores)
    return _label(ctx, node, index, labels or list(range(ix.known(scores.shape[1])))), scores


def _label(ctx: GraphLowering, node: Node, index: Tensor, labels: list) -> Tensor | None:
    return sc.label_of(ctx, node, index, labels) if node.wants(0) else None


def _negated(ctx: Lowering, x: Tensor) -> Tensor:
    ctx.cheap(x)
    return ctx.lazy(x.dtype, x.shape, lambda i: -x.at(i), sources=[x], cost=1)


def _column(ctx: Lowering, x: Tensor, body: Callable[[Expr], Expr]) -> Tensor:
    """``body`` of the one column of `x`, as a vector."""
    ctx.cheap(x)
    dtype = body(ex.local("x", x.dtype)).dtype
    return ctx.lazy(dtype, (x.shape[0],), lambda i: body(x.at((i[0], 0))), sources=[x], cost=2)


@operator("ZipMap", domain=DOMAIN)
def zip_map(ctx: GraphLowering, node: Node, x: Tensor) -> Tensor:
    """Each row of scores as a map from label to score, which Python makes when the model has run."""
    labels = node.attr("classlabels_int64s") or node.attr("classlabels_strings") or []
    ctx.requires(x.dtype == "float32" and x.rank in (1, 2), "scores that are not rows of float")
    ctx.requires(x.shape[-1] == len(labels), "a number of scores that may not be that of the labels")
    made = ctx.formed(node.ir.outputs[0], x, "maps", labels)
    if made is None:
        raise Unsupported("maps that other nodes read")
    return made


# Support vectors.


def _kernel(ctx: Lowering, node: Node, x: Tensor, vectors: np.ndarray) -> Tensor:
    """The kernel function of each row of `x` and each support vector."""
    kind = node.attr("kernel_type", "LINEAR")
    gamma, coef0, degree = (node.attr("kernel_params") or [0.0, 0.0, 0.0])[:3]
    if kind == "RBF":
        return _radial(ctx, x, vectors, gamma)
    dot = _affine(ctx, x, vectors, np.zeros(0, np.float32))
    bodies: dict[str, Callable[[Expr], Expr]] = {
        "LINEAR": lambda e: e,
        "POLY": lambda e: ex.binary("pow", e * gamma + coef0, float(int(degree))),
        "SIGMOID": lambda e: ex.unary("tanh", e * gamma + coef0),
    }
    if kind not in bodies:
        raise _wrong(ctx, f"kernel_type '{kind}'")
    return elementwise(ctx, dot, bodies[kind])


def _radial(ctx: Lowering, x: Tensor, vectors: np.ndarray, gamma: float) -> Tensor:
    """exp(-gamma * |x - v|^2)."""
    ctx.equal_dims(x.shape[1], vectors.shape[1], "the number of features differs from that of the support vectors")
    ctx.cheap(x)
    support = ctx.constant(vectors)
    shape = (x.shape[0], len(vectors))
    row, vector = variables(shape)
    (k,) = variables((vectors.shape[1],), "k")
    difference = x.at((row, k)) - support.at((vector, k))
    buffer = ctx.temporary("float32", ix.product(shape))
    value = ex.unary("exp", ex.local("distance", "float32") * -gamma)
    distance = Reduce("distance", "sum", difference * difference, (k,), "float32")
    ctx.nest([row, vector], [distance, Store(buffer, Plain(shape).offset((row, vector)), value)])
    return ctx.in_memory(buffer, shape)


@operator("SVMRegressor", domain=DOMAIN)
def svm_regressor(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """A weighted sum of kernel functions, or of the features themselves; its sign where there is one class."""
    x = _matrix(ctx, x)
    coefficients, rho = _floats(node, "coefficients"), _floats(node, "rho")[:1]
    supports = node.attr("n_supports", 0)
    if supports > 0:
        vectors = _rows(ctx, _floats(node, "support_vectors"), supports, "support_vectors")
        x = _kernel(ctx, node, x, vectors)
    total = _affine(ctx, x, coefficients.reshape(1, -1), rho)
    if node.attr("one_class", 0):
        total = elementwise(ctx, total, lambda e: ex.select(e > 0.0, ex.constant(1, "float32"), -1.0))
    return sc.post_transform(ctx, total, node.attr("post_transform", "NONE"))


@operator("SVMClassifier", domain=DOMAIN)
def svm_classifier(ctx: GraphLowering, node: Node, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Each pair of classes has a score that votes for one of the two; the label with most votes, and the scores.

    Without support vectors, each class has a linear score.
    """
    x = _matrix(ctx, x)
    labels = node.attr("classlabels_ints") or node.attr("classlabels_strings") or []
    coefficients, rho = _floats(node, "coefficients"), _floats(node, "rho")
    sizes = node.attr("vectors_per_class") or []
    transform = node.attr("post_transform", "NONE")
    ctx.requires(len(labels) >= 2, "fewer than two class labels")
    ctx.requires(len(coefficients) > 0 and bool((coefficients < 0).any()), "coefficients without a negative one")
    if not sum(sizes):
        ctx.requires(len(labels) == 2 or len(rho) > 1, "linear scores that share one rho")
        scores = ctx.cheap(_affine(ctx, x, _rows(ctx, coefficients, len(labels), "coefficients"), rho[:1]))
        return _label(ctx, node, sc.best_class(ctx, scores), labels), sc.post_transform(ctx, scores, transform)
    if len(sizes) != len(labels) or len(rho) != len(labels) * (len(labels) - 1) // 2:
        raise _wrong(ctx, f"{len(labels)} labels, {len(sizes)} vectors_per_class, {len(rho)} rho")
    vectors = _rows(ctx, _floats(node, "support_vectors"), sum(sizes), "support_vectors")
    pairs = _pair_weights(_rows(ctx, coefficients, len(labels) - 1, "coefficients"), sizes)
    scores = ctx.cheap(_affine(ctx, _kernel(ctx, node, x, vectors), pairs, rho))
    label = _label(ctx, node, sc.best_class(ctx, _votes(ctx, scores, len(labels))), labels)
    return label, sc.post_transform(ctx, _pair_scores(ctx, node, scores, len(labels)), transform)


def _pair_weights(coefficients: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The weight of each support vector in the score of each pair: [pairs, vectors]."""
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    rows = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            row = np.zeros(coefficients.shape[1], np.float32)
            row[parts[i]] = coefficients[j - 1, parts[i]]
            row[parts[j]] = coefficients[i, parts[j]]
            rows.append(row)
    return np.stack(rows)


def _votes(ctx: Lowering, scores: Tensor, classes: int) -> Tensor:
    """How many of its pairs each class has won."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    gains, start = np.zeros((classes, len(pairs)), np.float32), np.zeros(classes, np.float32)
    for pair, (i, j) in enumerate(pairs):
        gains[i, pair], gains[j, pair] = 1, -1
        start[j] += 1
    won = elementwise(ctx, scores, lambda e: ex.cast(e > 0.0, "float32"))
    return _affine(ctx, won, gains, start)


def _pair_scores(ctx: Lowering, node: Node, scores: Tensor, classes: int) -> Tensor:
    """The pairs' scores; for two classes one each: the score and its negative, or probabilities."""
    a, b = node.attr("prob_a") or [], node.attr("prob_b") or []
    if classes > 2:
        ctx.requires(not a, "probabilities of more than two classes")
        return scores
    if not a:
        return sc.stacked(ctx, [_negated(ctx, scores), scores])

    def first(e: Expr) -> Expr:
        p = 1.0 - ex.unary("sigmoid", e * a[0] + b[0])
        return ex.maximum(ex.minimum(p, 1 - 1e-7), 1e-7)

    share = ctx.cheap(elementwise(ctx, scores, first))
    return sc.stacked(ctx, [share, elementwise(ctx, share, lambda e: 1.0 - e)])


# Features.


@operator("Normalizer", domain=DOMAIN)
def normalizer(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Rows divided by their norm: MAX, L1 or L2."""
    kind = node.attr("norm", "MAX")
    if kind not in ("MAX", "L1", "L2"):
        raise _wrong(ctx, f"norm '{kind}'")
    x = ctx.cheap(_matrix(ctx, x))
    (row,), (k,) = variables(x.shape[:1]), variables(x.shape[1:], "k")
    value = x.at((row, k))
    size = value * value if kind == "L2" else ex.unary("abs", value)
    norm = ex.local("norm", "float32")
    norm = ex.maximum(ex.unary("sqrt", norm) if kind == "L2" else norm, LEAST_NORM)
    buffer = ctx.temporary("float32", x.size)
    measure = Reduce("norm", "max" if kind == "MAX" else "sum", size, (k,), "float32")
    ctx.nest([row], [measure, Store(buffer, Plain(x.shape).offset((row, k)), value / norm, (k,))])
    return ctx.in_memory(buffer, x.shape)


def _by_feature(ctx: Lowering, x: Tensor, values: np.ndarray, name: str) -> Callable[[Position], Expr]:
    """An attribute with one value for all features (the last axis), or one for each."""
    if len(values) == 1 or x.rank == 0:
        return lambda i: ex.constant(values[0], str(values.dtype))
    if not len(values):
        raise _wrong(ctx, f"{name} is empty")
    ctx.equal_dims(x.shape[-1], len(values), f"{name} does not fit the number of features")
    table = ctx.constant(values)
    return lambda i: table.at((i[-1],))


@operator("Scaler", domain=DOMAIN)
def scaler(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """(x - offset) * scale."""
    ctx.native(x)
    x = sc.to_dtype(ctx, x, "float32")
    offset = _by_feature(ctx, x, _floats(node, "offset"), "offset")
    scale = _by_feature(ctx, x, _floats(node, "scale"), "scale")
    return ctx.lazy("float32", x.shape, lambda i: (x.at(i) - offset(i)) * scale(i), sources=[x], cost=2)


@operator("Imputer", domain=DOMAIN)
def imputer(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """One value of each feature, often NaN, replaced by another."""
    ctx.native(x)
    floats, integers = node.attr("imputed_value_floats") or [], node.attr("imputed_value_int64s") or []
    missing = node.attr("replaced_value_float", 0.0) if floats else node.attr("replaced_value_int64", 0)
    values = _by_feature(ctx, x, np.asarray(floats or integers).astype(x.dtype), "the imputed values")

    def element(i: Position) -> Expr:
        value = x.at(i)
        found = ex.predicate("isnan", value) if math.isnan(missing) else value.equal(missing)
        return ex.select(found, values(i), value)

    if math.isnan(missing) and not is_float(x.dtype):
        return x
    return ctx.lazy(x.dtype, x.shape, element, sources=[x], cost=2)


@operator("Binarizer", domain=DOMAIN)
def binarizer(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """1 above the threshold, else 0."""
    threshold = node.attr("threshold", 0.0)
    return elementwise(ctx, x, lambda e: ex.cast(ex.cast(e, "float64") > threshold, e.dtype))


@operator("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """A new last axis: 1 at the category that the element equals, else 0."""
    ctx.native(x)
    categories = np.asarray(node.attr("cats_int64s") or [], np.int64)
    ctx.requires(len(categories) > 0, "categories that are not integers")
    table = ctx.constant(categories.astype(np.float64) if is_float(x.dtype) else categories)
    ctx.cheap(x)

    def element(i: Position) -> Expr:
        return ex.cast(ex.cast(x.at(i[:-1]), table.dtype).equal(table.at(i[-1:])), "float32")

    found = ctx.lazy("float32", (*x.shape, len(categories)), element, cost=3)
    if not node.attr("zeros", 1):
        known = _extreme(ctx, _extreme(ctx, found, "max", x.rank), "min", 0)
        ctx.check(known.scalar() > 0.0, "value", "a category is unknown, and zeros = 0 forbids that")
    return found


def _extreme(ctx: Lowering, x: Tensor, op: str, kept: int) -> Tensor:
    """``op`` over all axes of `x` but the first `kept`, which stay alone."""
    outer = variables(x.shape[:kept])
    inner = variables(x.shape[kept:], "k")
    buffer = ctx.temporary(x.dtype, ix.product(x.shape[:kept]))
    place = Plain(x.shape[:kept]).offset(outer)
    best = Reduce("best", op, x.at((*outer, *inner)), inner, x.dtype)
    ctx.nest(list(outer), [best, Store(buffer, place, ex.local("best", x.dtype))])
    return ctx.in_memory(buffer, x.shape[:kept])


@operator("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The value that belongs to the key which the element equals, or a default."""
    ctx.native(x)
    keys, values, default = _mapping(node)
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]  # of equal keys the last counts
    keys, values = keys[last], values[last]
    unknown = ex.constant(default, str(values.dtype))
    nan = values[np.isnan(keys)] if keys.dtype.kind == "f" else values[:0]
    count = len(keys) - len(nan)
    if count == 0 and not len(nan):
        raise _wrong(ctx, "there are no keys")

    def body(value: Expr) -> Expr:
        result = unknown
        if count:
            place = _search(ctx, keys[:count], value)
            result = ex.select(_at(ctx, keys, place).equal(value), _at(ctx, values, place), unknown)
        if not len(nan):
            return result
        return ex.select(ex.predicate("isnan", value), ex.constant(nan[-1], str(values.dtype)), result)

    ctx.requires(str(keys.dtype) == x.dtype, "keys of another type than the input's")
    cost = 4 * len(keys).bit_length()
    return ctx.lazy(str(values.dtype), x.shape, lambda i: body(x.at(i)), sources=[x], cost=cost)


def _mapping(node: Node) -> tuple[np.ndarray, np.ndarray, object]:
    """Keys, values and the default, all of native types."""
    defaults = {"int64s": ("default_int64", -1), "floats": ("default_float", -0.0)}

    def numbers(name: str) -> tuple[np.ndarray, str]:
        for kind, dtype in (("int64s", np.int64), ("floats", np.float32)):
            if node.attr(f"{name}_{kind}"):
                return np.asarray(node.attr(f"{name}_{kind}"), dtype), kind
        found = node.attr(f"{name}_tensor")
        if found is None or node.attr(f"{name}_strings") or found.dtype.kind not in "iuf":
            raise Unsupported("keys or values that are not numbers")
        return np.asarray(found).reshape(-1), "tensor"

    (keys, _), (values, kind) = numbers("keys"), numbers("values")
    if len(keys) != len(values):
        raise errors.ModelError(f"{len(keys)} keys and {len(values)} values", node=node.name, operator=node.op_type)
    if kind != "tensor":
        return keys, values, node.attr(*defaults[kind])
    given = node.attr("default_tensor")
    return keys, values, (-1 if values.dtype.kind in "iu" else -0.0) if given is None else given.reshape(-1)[0]


def _at(ctx: Lowering, table: np.ndarray, place: Expr) -> Expr:
    return ctx.constant(table).at((ex.clamped_index(place, len(table)),))


def _search(ctx: Lowering, keys: np.ndarray, value: Expr) -> Expr:
    """The position of the last of the sorted `keys` that is not above `value`, or 0; the steps of a binary search."""
    place: Expr = ex.constant(0, "int64")
    left = len(keys)
    while left > 1:
        half = left // 2
        place = ex.select(_at(ctx, keys, place + half) <= value, place + half, place)
        left -= half
    return place


@operator("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
    """Inputs beside each other, each cut or filled with zeros to its size in `inputdimensions`."""
    ctx.native(*inputs)
    sizes = node.attr("inputdimensions") or []
    if len(sizes) != len(inputs) or min(sizes, default=0) < 0:
        raise _wrong(ctx, f"{len(sizes)} inputdimensions for {len(inputs)} inputs")
    columns = [_as_columns(ctx, x) for x in inputs]
    rows: Dim = columns[0].shape[0]
    for x in columns[1:]:
        rows = ctx.equal_dims(rows, x.shape[0], "inputs with different numbers of rows")
    ends = np.cumsum(sizes).tolist()

    def element(i: Position) -> Expr:
        value: Expr = ex.constant(0, "float32")
        for x, size, end in reversed(list(zip(columns, sizes, ends, strict=True))):
            place = i[1] - (end - size)
            own = (ex.index(place) >= 0) & (ex.index(place) < ex.index(ix.imin(size, x.shape[1])))
            value = ex.guard(own, ex.cast(x.at((i[0], place)), "float32"), value)
        return value

    return ctx.lazy("float32", (rows, ends[-1]), element, sources=columns, cost=2 * len(columns))


def _as_columns(ctx: Lowering, x: Tensor) -> Tensor:
    if x.rank == 1:
        return ctx.lazy(x.dtype, (x.shape[0], 1), lambda i: x.at(i[:1]), sources=[x])
    if x.rank != 2:
        raise errors.ShapeError(f"input of rank {x.rank}", node=ctx.node, operator=ctx.operator)
    return x
