"""JAX: functions with example arguments, and Flax modules, by jax2onnx.

A factory (``module:make``) returns ``(function, arguments)``:

- `function`: anything that `jax.jit` takes: a function, a Flax NNX module, or a Flax Linen module bound to its
  variables (``module.bind(variables)``); parameters that it closes over become weights.
- `arguments`: a tuple of example arguments, or a dict of them by name. Each may be a tree of arrays (lists, dicts);
  every leaf is an input of its own.

A function alone, named as ``module:function`` with the kind "jax" or given in memory, takes its inputs from samples, or
from ``--option inputs='x:float32[batch,3]'``. Dimensions in which two samples differ are dynamic; without samples the
first dimension that all inputs share is, if the function allows it: JAX traces with symbols, so that a size on which
the result depends is refused rather than frozen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.factory import imported, make
from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.signature import example, parse_inputs, with_dynamic
from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, InputError, SourceError

OPSET = 21  # unless asked for: later ones change what older runtimes know


class Jax(Source):
    """A function of JAX over a flat list of arrays."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        found = made if made is not None else _made(request)
        self.function, arguments = found if isinstance(found, tuple) else (found, None)
        if not callable(self.function):
            raise SourceError(f"a {type(self.function).__name__} is no function", hint="Return (function, arguments).")
        if _is_nnx(self.function):
            self.function = _pure(self.function)
        self._inputs, self._structure = self._described(arguments)
        self._compiled: Any = None

    def _described(self, arguments: Any) -> tuple[list[Input], Any]:
        """The leaves of the arguments as inputs, and the tree that they belong to."""
        import jax

        if arguments is None:
            arguments = self._declared()
        named = arguments if isinstance(arguments, dict) else {}
        positional = () if named else tuple(arguments) if isinstance(arguments, (tuple, list)) else (arguments,)
        names = _parameters(self.function, len(positional))
        paths, structure = jax.tree_util.tree_flatten_with_path((positional, named))
        found = []
        for (side, first, *rest), leaf in paths:
            name = names[first.idx] if side.idx == 0 else str(first.key)
            found.append(_input(".".join([name, *map(_key, rest)]), leaf))
        self._fixed = found
        return self._with_dims(found), structure

    def _declared(self) -> dict[str, np.ndarray]:
        """Example arguments from the options, or from the samples."""
        if "inputs" in self.request.options:
            return example(parse_inputs(self.request.options["inputs"]))
        if not self.request.samples:
            raise InputError(
                "which inputs the function takes is unknown",
                hint="Return (function, arguments), give samples (--input FILE.npz), or "
                "--option inputs='x:float32[batch,3]'.",
            )
        names = _parameters(self.function, len(self.request.samples[0]))
        samples = [
            {names[int(k)] if k.isdigit() else k: v for k, v in sample.items()} for sample in self.request.samples
        ]
        self.request.samples = samples
        return dict(samples[0])

    def _with_dims(self, inputs: list[Input]) -> list[Input]:
        """Dynamic dimensions: as declared, as samples show, as asked for, or the common first one."""
        if "inputs" in self.request.options:
            declared = {each.name: each for each in parse_inputs(self.request.options["inputs"])}
            inputs = [replace(declared.get(each.name, each), dtype=each.dtype) for each in inputs]
        elif len(self.request.samples) > 1:
            inputs = with_dynamic(inputs, self.request.samples)
        elif not self.request.samples and not self.request.dims:
            inputs = _common_first(inputs)
        dims = self.request.dims
        return [
            replace(each, shape=tuple(dims.get(f"{each.name}.{axis}", dim) for axis, dim in enumerate(each.shape)))
            for each in inputs
        ]

    # Conversion.

    def export(self, path: Path) -> list[str]:
        """By jax2onnx, with dynamic dimensions if the function allows it."""
        import onnx

        notes = [f"converted by jax2onnx {version('jax2onnx')}"]
        try:
            self._check_sizes()
            model = self._exported(self._inputs)
        except Exception as problem:
            if self._fixed == self._inputs:
                raise _refused(problem) from problem
            try:
                model = self._exported(self._fixed)
            except Exception as second:
                raise _refused(second) from second
            notes.append(f"with fixed sizes, since dynamic ones are refused: {_brief(problem)}")
            self._inputs = self._fixed
        onnx.save(model, path)
        self._check_names(path)
        return notes

    def _check_sizes(self) -> None:
        """Trace the function with two sizes of each dynamic dimension: not every size that it needs stops symbols."""
        import jax

        names = sorted({dim for each in self._inputs for dim in each.shape if isinstance(dim, str)})
        for more in (0, 1) if names else ():
            sizes = {name: 2 + number + more for number, name in enumerate(names)}
            shapes = [tuple(d if isinstance(d, int) else sizes[d] for d in each.shape) for each in self._inputs]
            specs = [jax.ShapeDtypeStruct(shape, each.dtype) for shape, each in zip(shapes, self._inputs, strict=True)]
            jax.eval_shape(self._tree, *specs)

    def _exported(self, inputs: Sequence[Input]) -> Any:
        """The ONNX model for inputs of these shapes."""
        import jax
        import jax2onnx

        self.progress("converting by jax2onnx")
        symbols = {dim for each in inputs for dim in each.shape if isinstance(dim, str)}
        scope = jax.export.SymbolicScope()
        dims = {name: jax.export.symbolic_shape(name, scope=scope)[0] for name in symbols}
        specs = [
            jax.ShapeDtypeStruct(tuple(dims.get(d, d) if isinstance(d, str) else d for d in each.shape), each.dtype)
            for each in inputs
        ]
        shaped = jax.eval_shape(self._tree, *specs)
        names = [".".join(map(_key, path)) for path, _ in jax.tree_util.tree_flatten_with_path(shaped)[0]]
        taken = {each.name for each in inputs}
        names = [
            f"output_{name}".rstrip("_") if name in taken or not name or name.isdigit() else name for name in names
        ]
        return jax2onnx.to_onnx(
            self._flat,
            [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in inputs],
            opset=self.request.opset or OPSET,
            enable_double_precision=any(spec.dtype == np.float64 for spec in specs),
            input_names=[each.name for each in inputs],
            output_names=names,
        )

    def _tree(self, *leaves: Any) -> Any:
        import jax

        positional, named = jax.tree_util.tree_unflatten(self._structure, leaves)
        return self.function(*positional, **named)

    def _flat(self, *leaves: Any) -> Any:
        """From leaves to leaves."""
        import jax

        return tuple(jax.tree_util.tree_leaves(self._tree(*leaves)))

    def _check_names(self, path: Path) -> None:
        """The exporter may drop inputs that nothing uses."""
        from sardonyx.model.load import load

        kept = {each.name for each in model_inputs(load(path))}
        self._used = [each for each in self._inputs if each.name in kept]

    def inputs(self) -> Sequence[Input]:
        """The leaves of the arguments that the function uses."""
        return self._used

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By JAX, compiled."""
        import jax

        if self._compiled is None:
            self._compiled = jax.jit(self._flat)
        unused = {each.name: np.zeros([int(dim) for dim in each.shape], each.dtype) for each in self._fixed}
        leaves = [feeds.get(each.name, unused[each.name]) for each in self._inputs]
        return [np.asarray(value) for value in self._compiled(*leaves)]


def _made(request: Request) -> Any:
    """What ``module:factory`` returns; a function that the options or samples describe is taken as it is."""
    if "inputs" in request.options or request.samples:
        return imported(request.source)
    return make(request.source)


def _is_nnx(function: Any) -> bool:
    return any(base.__module__.startswith("flax.nnx") and base.__name__ == "Module" for base in type(function).__mro__)


def _pure(module: Any) -> Callable[..., Any]:
    """A Flax NNX module at rest, as a function: states that it changes (counters of random numbers) are its own."""
    import jax
    from flax import nnx

    module.eval()
    graph, state = nnx.split(module)
    # Keys as plain numbers: what only typed keys hold cannot be a constant of the exporter, used or not.
    typed = jax.dtypes.prng_key
    state = jax.tree.map(lambda v: jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, typed) else v, state)

    def call(*arguments: Any, **named: Any) -> Any:
        return nnx.merge(graph, state, copy=True)(*arguments, **named)

    call.__signature__ = inspect.signature(module)  # type: ignore[attr-defined]
    return call


def _parameters(function: Any, count: int) -> list[str]:
    """Names for `count` positional arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return [f"input_{number}" for number in range(count)]
    named = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [named[number] if number < len(named) else f"input_{number}" for number in range(count)]


def _key(part: Any) -> str:
    """One step of a path in a tree of arrays: a key, a number, or the name of a field."""
    return str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part))))


def _input(name: str, leaf: Any) -> Input:
    import jax.numpy as jnp

    array = jnp.asarray(leaf)
    # Integers are indices as a rule: what the example holds is certainly allowed.
    low, high = (int(array.min()), int(array.max())) if array.dtype.kind in "iu" and array.size else (None, None)
    return Input(name, array.dtype.name, tuple(array.shape), low, high)


def _common_first(inputs: Sequence[Input]) -> list[Input]:
    """The first dimension is the batch, where all inputs have the same."""
    firsts = {each.shape[0] if each.shape else None for each in inputs}
    if len(firsts) != 1 or None in firsts:
        return list(inputs)
    return [replace(each, shape=("batch", *each.shape[1:])) for each in inputs]


def _brief(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"


def _refused(problem: Exception) -> ConversionError:
    return ConversionError(
        f"jax2onnx refuses the function: {_brief(problem)}",
        hint="A primitive that it names has no ONNX form there: write that part by other functions of jax.numpy.",
    )


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the function with JAX."""
    return Jax(request, progress, made)
