"""Operators that `onnx.reference` (1.23) gets wrong or lacks; each says what is wrong.

The class name is the operator's name, `op_domain` its domain; `_version` gives the opset in force.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference import op_run
from onnx.reference.op_run import OpRun
from onnx.reference.ops import _op_list as ops
from onnx.reference.ops.aionnxml import op_svm_classifier
from onnx.reference.ops.op_batch_normalization import _batchnorm_test_mode

from sardonyx.runtime.reference_casts import Cast, CastLike
from sardonyx.runtime.reference_resize import Resize, Upsample

__all__ = ["FIXES"]


def _version(op: OpRun) -> int:
    return op.run_params["opsets"][op.op_domain]


class _AllowsEmpty:
    """An empty optional is None, which the evaluator's output check refuses."""

    def _check_and_fix_outputs(self, res: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(np.asarray(x) if np.isscalar(x) else x for x in res)


class If(_AllowsEmpty, ops.If):
    """Refuses a branch that returns an empty optional."""


class Identity(_AllowsEmpty, ops.Identity):
    """Refuses an empty optional; calls `copy` on it."""

    def _run(self, a):
        return (a.copy() if isinstance(a, np.ndarray) else a,)


class Optional(_AllowsEmpty, OpRun):
    """Wraps the value in a list, so that a sequence comes back nested; empty is [None]."""

    def _run(self, x=None, type=None):
        return (x,)


class OptionalGetElement(_AllowsEmpty, ops.OptionalGetElement):
    """Listed so that `Optional` and its readers agree on None for empty."""


class DequantizeLinear(ops.DequantizeLinear_25):
    """Missing before opset 19, though the meaning is the same."""

    def _run(self, x, x_scale, x_zero_point=None, axis=None, block_size=None, output_dtype=None):
        axis = 1 if axis is None else axis
        return super()._run(x, x_scale, x_zero_point, axis=axis, block_size=block_size or 0, output_dtype=output_dtype)


class Loop(_AllowsEmpty, OpRun):
    """Stacks scalar scan outputs to [n, 1], fails on zero iterations, lets captured names hide loop state."""

    def need_context(self):
        return True

    def _run(self, M=None, cond=None, *state, body=None, context=None, attributes=None, **_):
        names, outputs = self.body.input_names, self.body.output_names
        count = len(names) - 2
        values: list[Any] = [*state, *[None] * (count - len(state))]
        scanned: list[list[np.ndarray]] = [[] for _ in outputs[1 + count :]]
        going = True if cond is None else bool(np.asarray(cond).item())
        limit = None if M is None else int(np.asarray(M).item())
        step = 0
        while going and (limit is None or step < limit):
            feeds = dict(zip(names, [np.array(step, np.int64), np.array(going), *values], strict=True))
            results = self._run_body({**(context or {}), **feeds}, attributes=attributes)
            going = bool(np.asarray(results[0]).item())
            values = results[1 : 1 + count]
            for collected, value in zip(scanned, results[1 + count :], strict=True):
                collected.append(value)
            step += 1
        types = self.body.output_types[1 + count :]
        stacked = [np.stack(c) if c else _no_steps(t) for c, t in zip(scanned, types, strict=True)]
        return (*values, *stacked)


class Scan(OpRun):
    """No version 8 (batched); refuses directions, axes and an empty sequence."""

    def need_context(self):
        return True

    def _run(self, *args, context=None, body=None, attributes=None, **options):
        if _version(self) > 8:
            return tuple(self._scan(list(args), context, attributes, options))
        lengths, *inputs = args
        batches = []
        for b in range(len(inputs[0])):
            length = None if lengths is None else int(lengths[b])
            batches.append(self._scan([x[b] for x in inputs], context, attributes, options, length))
        return tuple(_stack_padded(values) for values in zip(*batches, strict=True))

    def _scan(self, args, context, attributes, options, length=None):
        count = self.num_scan_inputs
        state, sequences = args[: len(args) - count], args[len(args) - count :]
        axes = options.get("scan_input_axes") or [0] * count
        backward = options.get("scan_input_directions") or options.get("directions") or [0] * count
        rows = [np.moveaxis(x, axis, 0)[:length] for x, axis in zip(sequences, axes, strict=True)]
        rows = [x[::-1] if back else x for x, back in zip(rows, backward, strict=True)]
        collected: list[list[np.ndarray]] = [[] for _ in self.body.output_names[len(state) :]]
        for step in range(len(rows[0])):
            values = [*state, *(x[step] for x in rows)]
            feeds = dict(zip(self.body.input_names, values, strict=True))
            results = self._run_body({**(context or {}), **feeds}, attributes=attributes)
            state = results[: len(state)]
            for target, value in zip(collected, results[len(state) :], strict=True):
                target.append(value)
        types = self.body.output_types[len(state) :]
        axes = options.get("scan_output_axes") or [0] * len(types)
        backward = options.get("scan_output_directions") or [0] * len(types)
        stacked = []
        for values, kind, axis, back in zip(collected, types, axes, backward, strict=True):
            whole = np.stack(values[::-1] if back else values) if values else _no_steps(kind)
            stacked.append(np.moveaxis(whole, 0, axis))
        return [*state, *stacked]


def _no_steps(kind: Any) -> np.ndarray:
    """What a loop that never ran has collected: zero rows of the body's declared type."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = kind.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    return np.empty([0, *shape], tensor_dtype_to_np_dtype(tensor.elem_type or 1))


def _stack_padded(values: tuple[np.ndarray, ...]) -> np.ndarray:
    """Batch rows of unequal length, the shorter ones padded with zeros (Scan-8)."""
    if len({value.shape for value in values}) == 1:
        return np.stack(values)
    longest = max(len(value) for value in values)
    pads = [[(0, longest - len(v))] + [(0, 0)] * (v.ndim - 1) for v in values]
    return np.stack([np.pad(v, pad) for v, pad in zip(values, pads, strict=True)])


def _as_rows(op: OpRun, x: np.ndarray, axis: int | None) -> tuple[np.ndarray, int]:
    """Before opset 13, Softmax and its kin see x as a matrix split before `axis` (default 1, not -1)."""
    if _version(op) >= 13:
        return x, op.axis if axis is None else axis
    given = {attribute.name: attribute.i for attribute in op.onnx_node.attribute}
    split = given.get("axis", 1)
    split += x.ndim if split < 0 else 0
    return x.reshape(int(np.prod(x.shape[:split])), -1) if x.size else x, -1


class Softmax(ops.Softmax):
    """Ignores that the meaning changed in opset 13."""

    def _run(self, X, axis=None):
        rows, axis = _as_rows(self, X, axis)
        if not X.size:
            return (X,)
        e = np.exp(rows - rows.max(axis=axis, keepdims=True))
        return ((e / e.sum(axis=axis, keepdims=True)).astype(X.dtype).reshape(X.shape),)


class LogSoftmax(ops.LogSoftmax):
    """As Softmax; and takes the log of an underflowed 0."""

    def _run(self, X, axis=None):
        rows, axis = _as_rows(self, X, axis)
        if not X.size:
            return (X,)
        shifted = rows - rows.max(axis=axis, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
        return (y.astype(X.dtype).reshape(X.shape),)


class Hardmax(ops.Hardmax):
    """As Softmax."""

    def _run(self, x, axis=None):
        rows, axis = _as_rows(self, x, axis)
        if not x.size:
            return (x,)
        y = np.zeros_like(rows)
        np.put_along_axis(y, np.expand_dims(rows.argmax(axis=axis), axis), 1, axis=axis)
        return (y.reshape(x.shape),)


class BatchNormalization(OpRun):
    """Versions 7 to 13 run in training mode although one output means inference."""

    def _run(self, x, scale, bias, mean, var, epsilon=None, momentum=None, training_mode=None, **_):
        given = {attribute.name: attribute.i for attribute in self.onnx_node.attribute}
        training = len(self.onnx_node.output) > 1 if _version(self) < 14 else training_mode
        if not training:
            if _version(self) < 9 and given.get("spatial", 1) == 0:
                return ((scale * (x - mean) / np.sqrt(var + epsilon) + bias).astype(x.dtype),)
            return (_batchnorm_test_mode(x, scale, bias, mean, var, epsilon=epsilon),)
        axes = tuple(i for i in range(x.ndim) if i != 1)
        wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
        now_mean, now_var = wide.mean(axis=axes), wide.var(axis=axes)
        y = _batchnorm_test_mode(x, scale, bias, now_mean, now_var, epsilon=epsilon)
        running = mean * momentum + now_mean * (1 - momentum), var * momentum + now_var * (1 - momentum)
        return (y, *(value.astype(old.dtype) for value, old in zip(running, (mean, var), strict=True)))


class LRN(OpRun):
    """Loops over the batch where it should loop over channels; refuses other ranks than 4."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        channels = x.shape[1]
        squares = np.zeros_like(x)
        for c in range(channels):
            low, high = max(0, c - (size - 1) // 2), min(channels, c + size // 2 + 1)
            squares[:, c] = (x[:, low:high] ** 2).sum(axis=1)
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


class Scatter(OpRun):
    """Missing; it is ScatterElements under its old name."""

    def _run(self, data, indices, updates, axis=None):
        axis = axis or 0
        result = data.copy()
        places = np.where(indices < 0, indices + data.shape[axis], indices)
        index = list(np.indices(indices.shape))
        index[axis] = places
        result[tuple(index)] = updates
        return (result,)


class GatherElements(OpRun):
    """Fails where the data is longer than the indices on an axis that is not gathered from."""

    def _run(self, data, indices, axis=None):
        axis = (axis or 0) % data.ndim
        if indices.size == 0:
            return (np.empty(indices.shape, data.dtype),)
        reached = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))
        limit = data.shape[axis]
        if indices.min() < -limit or indices.max() >= limit:
            raise IndexError(f"an index is outside of -{limit} .. {limit - 1}")
        return (np.take_along_axis(data[reached], indices % limit, axis),)


class Pad(OpRun):
    """Refuses negative pads, which cut."""

    def _run(self, data, pads=None, constant_value=None, axes=None, mode=None, value=None, paddings=None):
        widths = np.asarray(paddings if pads is None else pads).reshape(2, -1)
        chosen = range(data.ndim) if axes is None else [int(axis) % data.ndim for axis in axes]
        around = np.zeros((data.ndim, 2), np.int64)
        around[list(chosen)] = widths.T
        kept = tuple(slice(max(-low, 0), max(size - max(-high, 0), 0)) for (low, high), size in zip(around, data.shape))
        fill: dict[str, Any] = {}
        way: Any = mode or "constant"
        if way == "constant":
            given = value if constant_value is None else np.asarray(constant_value).reshape(-1)[0]
            fill = {"constant_values": np.asarray(given or 0).astype(data.dtype)}
        return (np.pad(data[kept], np.maximum(around, 0), way, **fill),)


class RNN(ops.RNN_14):
    """Knows the activations Tanh and Affine only."""

    def choose_act(self, name, alpha, beta):
        if name.lower() == "relu":
            return lambda x: np.maximum(x, 0)
        return super().choose_act(name, alpha, beta)


class Flatten(OpRun):
    """Cannot tell how many columns there are where there are no rows."""

    def _run(self, x, axis=1):
        rows, columns = (int(np.prod(sizes)) for sizes in (x.shape[:axis], x.shape[axis:]))
        return (x.reshape(rows, columns),)


class GridSample(ops.GridSample):
    """Does not know the names that modes had in version 16."""

    def _run(self, X, grid, mode=None, **options):
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
        return super()._run(X, grid, mode=mode, **options)


class GlobalLpPool(OpRun):
    """Missing."""

    def _run(self, x, p=2):
        axes = tuple(range(2, x.ndim))
        return (((np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1 / p)).astype(x.dtype),)


class MaxRoiPool(OpRun):
    """Missing. Regions are (batch, x1, y1, x2, y2), rounded after scaling, ends included; empty bins are 0."""

    def _run(self, x, rois, pooled_shape=None, spatial_scale=1.0):
        rows, columns = pooled_shape
        y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
        for n, (batch, *corners) in enumerate(rois):
            x1, y1, x2, y2 = (int(np.floor(c * spatial_scale + 0.5)) for c in corners)
            height, width = max(y2 - y1 + 1, 1) / rows, max(x2 - x1 + 1, 1) / columns
            for i in range(rows):
                top, bottom = _bin(i, height, y1, x.shape[2])
                for j in range(columns):
                    left, right = _bin(j, width, x1, x.shape[3])
                    if top < bottom and left < right:
                        y[n, :, i, j] = x[int(batch), :, top:bottom, left:right].max(axis=(1, 2))
        return (y,)


def _bin(i: int, size: float, start: int, limit: int) -> tuple[int, int]:
    low, high = int(np.floor(i * size)) + start, int(np.ceil((i + 1) * size)) + start
    return min(max(low, 0), limit), min(max(high, 0), limit)


class Multinomial(OpRun):
    """Missing. Draws class indices from rows of unnormalised log-probabilities."""

    def _run(self, x, dtype=None, sample_size=None, seed=None):
        rng = np.random.default_rng(None if seed is None else int(np.float32(seed).view(np.uint32)))
        wide = x.astype(np.float64)
        p = np.exp(wide - wide.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        kind = np.int64 if dtype == 7 else np.int32
        drawn = [rng.choice(x.shape[1], size=sample_size or 1, p=row) for row in p]
        return (np.array(drawn, kind).reshape(len(x), sample_size or 1),)


class _ML(OpRun):
    op_domain = "ai.onnx.ml"


class ZipMap(_ML):
    """Missing. A row of scores becomes a map from class label to score."""

    def _run(self, x, classlabels_int64s=None, classlabels_strings=None):
        labels = classlabels_strings or classlabels_int64s
        rows = np.atleast_2d(x).tolist()
        if rows and len(rows[0]) != len(labels):
            raise ValueError(f"{len(rows[0])} scores for {len(labels)} labels")
        return ([dict(zip(labels, row)) for row in rows],)


class CastMap(_ML):
    """Missing. The values of a map in the order of its keys, or (SPARSE) at the positions that the keys name."""

    def _run(self, x, cast_to="TO_FLOAT", map_form="DENSE", max_map=1):
        values = dict(sorted(x.items()))
        if map_form == "SPARSE":
            values = {i: x.get(i, 0) for i in range(max_map)}
        if cast_to == "TO_STRING":
            return (np.array([[str(value) for value in values.values()]], object),)
        dtype = {"TO_FLOAT": np.float32, "TO_INT64": np.int64}[cast_to]
        return (np.array([[dtype(value) for value in values.values()]], dtype),)


class CategoryMapper(_ML):
    """Missing. Strings to integers or back, with a default."""

    def _run(self, x, cats_int64s=None, cats_strings=None, default_int64=-1, default_string="_Unused"):
        kind: type
        if x.dtype.kind in "OUS":
            table, default, kind = dict(zip(cats_strings, cats_int64s, strict=True)), default_int64, np.int64
        else:
            table, default, kind = dict(zip(cats_int64s, cats_strings, strict=True)), default_string, np.object_
        items = [table.get(item, default) for item in x.reshape(-1).tolist()]
        return (np.array(items, dtype=kind).reshape(x.shape),)


class StringNormalizer(OpRun):
    """Strips accents, drops empty texts, looks for stop words inside of elements, sets the locale of the process."""

    def _run(self, x, case_change_action="NONE", is_case_sensitive=0, locale=None, stopwords=None):
        del locale  # letters of all scripts, by Unicode's rules
        if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) != 1):
            raise ValueError(f"texts of shape {list(x.shape)}, not [C] or [1, C]")
        known = str if is_case_sensitive else str.lower
        stops = {known(word) for word in stopwords or ()}
        change = {"LOWER": str.lower, "UPPER": str.upper}.get(case_change_action, str)
        kept = [change(text) for text in map(str, x.reshape(-1).tolist()) if known(text) not in stops]
        return (np.array(kept or [""], object).reshape((1,) * (x.ndim - 1) + (-1,)),)


class SVMClassifier(op_svm_classifier.SVMClassifier):
    """Probabilities of more than two classes multiply the pairs' probabilities as vectors, not element by element.

    libsvm's iteration: Wu, Lin, Weng, "Probability estimates for multi-class classification by pairwise coupling",
    JMLR 5 (2004), algorithm 2.
    """

    def _probabilities(self, scores, class_count_):
        k, parts = class_count_, self._svm.atts
        pairs = np.zeros((k, k), scores.dtype)
        for number, (i, j) in enumerate(zip(*np.triu_indices(k, 1), strict=True)):
            won = op_svm_classifier.sigmoid_probability(scores[number], parts.prob_a[number], parts.prob_b[number])
            pairs[i, j] = np.clip(won, 1e-7, 1 - 1e-7)
            pairs[j, i] = 1 - pairs[i, j]
        q = -pairs.T * pairs
        np.fill_diagonal(q, (pairs**2).sum(0))
        p = np.full(k, 1 / k, scores.dtype)
        for _ in range(max(100, k)):
            qp = q @ p
            pqp = p @ qp
            if np.abs(qp - pqp).max() < 0.005 / k:
                break
            for t in range(k):
                diff = (pqp - qp[t]) / q[t, t]
                p[t] += diff
                pqp = (pqp + diff * (diff * q[t, t] + 2 * qp[t])) / (1 + diff) ** 2
                qp = (qp + diff * q[t]) / (1 + diff)
                p /= 1 + diff
        return p


FIXES: list[type[op_run.OpRun]] = [
    If,
    Identity,
    Optional,
    OptionalGetElement,
    Cast,
    CastLike,
    DequantizeLinear,
    Loop,
    Scan,
    Softmax,
    LogSoftmax,
    Hardmax,
    BatchNormalization,
    LRN,
    Scatter,
    GatherElements,
    Pad,
    RNN,
    Resize,
    Upsample,
    Flatten,
    GridSample,
    GlobalLpPool,
    MaxRoiPool,
    Multinomial,
    ZipMap,
    CastMap,
    CategoryMapper,
    StringNormalizer,
    SVMClassifier,
]
