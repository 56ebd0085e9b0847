"""`Session`: load a model, compile it once, run it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sardonyx import errors
from sardonyx.runtime.direct import AS_ARRAY
from sardonyx.runtime.loading import Assumptions, Loader
from sardonyx.runtime.native import BrokenAssumption, Context, Library, Port, Uncompiled, Variant
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.threads import get_pool

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from sardonyx.runtime.loading import Source
    from sardonyx.runtime.providers import Engine


MOST_VARIANTS = 16  # of a model whose values change their rank with the input
MOST_SHAPES = 1024  # input shapes remembered as checked


class Placement(NamedTuple):
    """Where a node of the graph runs, and why."""

    node: str
    operator: str
    provider: str
    reason: str


class Session:
    """A model, compiled for this machine and ready to run; safe to use from many threads at once.

    Args:
        model: path of an .onnx file, its bytes, a model in memory, or the folder that `deploy` wrote.
        options: see `SessionOptions`.

    Raises:
        ModelError: the model is malformed.
        UnsupportedError: it has an operator that nothing here can run.
        CompileError: the compiler failed.
    """

    def __init__(self, model: Source, options: SessionOptions | None = None):
        self.options = options or SessionOptions()
        if self.options.providers != ("native",):
            from sardonyx.runtime.providers import check_names

            check_names(self.options.providers)
        self._loader = Loader(model, self.options)
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._pool = get_pool(self.options.threads)
        self._variants: dict[Assumptions, Variant] = {}
        self._current: Variant | None = None
        self._free: list[Context] = []  # contexts of `_current` that nobody uses
        if self.options.providers[0] == "native":
            self._current = self._variant(())
            self._free = self._current.contexts.free
            self._library = self._current.library
        else:
            self._library = self._uncompiled()
        self._names = [port.name for port in self._library.inputs]
        self._ports = {port.name: port for port in self._library.inputs}
        self._positions = {port.name: number for number, port in enumerate(self._library.outputs)}
        self._simple = all(port.slot < 0 for port in self._library.inputs)
        self._expected = [(port.name, port.dtype) for port in self._library.inputs]
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()  # of inputs that passed all checks

    def _variant(self, assumptions: Assumptions) -> Variant:
        """The model compiled under `assumptions`, loaded once."""
        with self._lock:
            if assumptions not in self._variants:
                self._variants[assumptions] = Variant(
                    Library(self._loader.folder(assumptions)), assumptions, self._pool, self.options
                )
            return self._variants[assumptions]

    def _uncompiled(self) -> Library:
        """The whole model in the provider asked for."""
        from sardonyx.runtime import providers

        first, model = self.options.providers[0], self._loader.load()
        self._engine = providers.engine(first, model, self.options.threads)
        return Uncompiled(*providers.ports(model), model, first)

    # Running.

    @property
    def inputs(self) -> list[Port]:
        """What the model takes: name, type, dtype, shape."""
        return self._library.inputs

    @property
    def outputs(self) -> list[Port]:
        """What the model gives: name, type, dtype, shape."""
        return self._library.outputs

    @property
    def metadata(self) -> dict[str, Any]:
        """Producer, graph name, domain, description, version and custom properties of the model."""
        return self._library.facts["metadata"]

    def run(
        self,
        feeds: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        *,
        out: Mapping[str, np.ndarray] | None = None,
    ) -> list[Any]:
        """Run the model.

        Args:
            feeds: an array (numpy, or anything with ``__dlpack__`` or ``__array__``) for each input.
            outputs: names of the outputs wanted, in order; None: all.
            out: arrays to write outputs into, by name: C-contiguous, of the output's dtype and shape.

        Returns:
            One array for each output; sequences come as lists, an empty optional as None.

        Raises:
            InputError: a name, dtype, rank or dim is not what the model declares.
            RuntimeFailure, ShapeError: the data itself makes a node fail; the node is named.
        """
        if outputs is not None:
            for name in outputs:
                if name not in self._positions:
                    raise errors.InputError(f"no output '{name}'", hint=f"outputs are {', '.join(self._positions)}")
        results = self._direct(feeds) if out is None else None
        if results is None:
            results = self._slowly(feeds, out)
        return results if outputs is None else [results[self._positions[name]] for name in outputs]

    def _direct(self, feeds: Mapping[str, Any]) -> list[Any] | None:
        """The results, where C can do the whole run; see `runtime/direct.py`."""
        free = self._free
        try:
            context = free.pop()
        except IndexError:
            return None
        try:
            return context.direct(feeds)
        finally:
            free.append(context)

    def _slowly(self, feeds: Mapping[str, Any], out: Mapping[str, np.ndarray] | None) -> list[Any]:
        """A run with all checks and messages."""
        if not isinstance(feeds, Mapping):
            raise errors.InputError(
                f"the inputs are a {type(feeds).__name__}, not a mapping from names to arrays",
                hint=f"the model takes {', '.join(self._names)}; session(...) takes them in this order",
            )
        values = self._seen_before(feeds) or self._checked(feeds)
        targets = None if out is None else self._targets(out)
        if self._engine is None:
            return self._run(values, targets)
        results = self._engine.run(dict(zip(self._names, values, strict=True)))
        for number, array in (targets or {}).items():
            np.copyto(array, results[number])
        return results

    def _run(self, values: list[Any], targets: dict[int, np.ndarray] | None) -> list[Any]:
        """Run compiled; where the inputs break what the code assumed, go on with a variant that assumes the reverse."""
        variant = self._current
        assert variant is not None
        for _ in range(MOST_VARIANTS):
            try:
                results = variant.run(values, targets)
            except BrokenAssumption as broken:
                variant = self._variant(broken.corrected(variant.assumptions))
            else:
                self._current, self._free = variant, variant.contexts.free
                return results
        raise errors.RuntimeFailure(
            f"the model changes the ranks of its values in more than {MOST_VARIANTS} ways",
            hint="run it with SessionOptions(providers=('reference',))",
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on positional inputs (in the model's order) or named ones; one output comes bare, several as a tuple."""
        if len(args) > len(self._names):
            raise errors.InputError(f"{len(args)} inputs given, the model takes {len(self._names)}")
        feeds = dict(zip(self._names, args, strict=False))
        twice = feeds.keys() & kwargs.keys()
        if twice:
            raise errors.InputError(f"input '{min(twice)}' is given twice")
        results = self.run({**feeds, **kwargs})
        return results[0] if len(results) == 1 else tuple(results)

    def run_async(self, feeds: Mapping[str, Any]) -> Future[list[Any]]:
        """Start a run and return at once; the result, or the error, comes through the future."""
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._executor is None:
                workers = max(2, self._pool.threads)
                self._executor = ThreadPoolExecutor(workers, thread_name_prefix="sardonyx")
        return self._executor.submit(self.run, feeds)

    def _seen_before(self, feeds: Mapping[str, Any]) -> list[Any] | None:
        """The inputs in order when they are arrays like ones that were checked before; None otherwise."""
        if len(feeds) != len(self._expected):
            return None
        values, shapes = [], []
        for name, dtype in self._expected:
            value = feeds.get(name)
            if value.__class__ is not np.ndarray or value.dtype is not dtype or not value.flags.c_contiguous:
                return None
            values.append(value)
            shapes.append(value.shape)
        return values if tuple(shapes) in self._shapes else None

    def _checked(self, feeds: Mapping[str, Any]) -> list[Any]:
        if len(feeds) != len(self._ports) or not self._ports.keys() >= feeds.keys():
            self._wrong_names(feeds)
        values: list[Any] = []
        symbols: dict[int | str, int] = {}
        for port in self._library.inputs:
            value = feeds[port.name]
            values.append(_object(port, value) if port.slot >= 0 else _array(port, value, symbols))
        if self._simple:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.clear()
            self._shapes.add(tuple(value.shape for value in values))
        return values

    def _wrong_names(self, feeds: Mapping[str, Any]) -> None:
        missing = [name for name in self._ports if name not in feeds]
        unknown = [name for name in feeds if name not in self._ports]
        expected = ", ".join(map(repr, self._library.inputs))
        if missing:
            raise errors.InputError(f"input '{missing[0]}' is missing", hint=f"the model takes {expected}")
        raise errors.InputError(f"no input '{unknown[0]}'", hint=f"the model takes {expected}")

    def _targets(self, out: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        targets = {}
        for name, array in out.items():
            if name not in self._positions:
                raise errors.InputError(f"no output '{name}'", hint=f"outputs are {', '.join(self._positions)}")
            port = self._library.outputs[self._positions[name]]
            fits = isinstance(array, np.ndarray) and array.flags.c_contiguous and array.flags.writeable
            if port.form != AS_ARRAY:
                raise errors.InputError(f"output '{name}' is {port.type}; no array can be given for it")
            if not fits or array.dtype != port.dtype:
                raise errors.InputError(f"out '{name}' must be a writable C-contiguous array of {port.dtype}")
            if not port.known:
                raise errors.InputError(f"the shape of output '{name}' depends on the data; it can't be given")
            targets[self._positions[name]] = array
        return targets

    # Facts.

    def placement(self) -> list[Placement]:
        """Where each node runs, and why."""
        return [Placement(*row) for row in self._library.facts["placement"]]

    def memory(self) -> dict[str, int | None]:
        """Bytes: weights (mapped), arena of all contexts, and the planner's lower bound for one (None: it depends)."""
        return {
            "weights": self._library.facts["weights"],
            "arena": sum(context.arena for context in self._all_contexts()) or self._library.facts["arena"],
            "planned": self._library.facts["arena"],
            "bound": self._library.facts["bound"],
        }

    def operations(self) -> int:
        """Operations of one run with the input shapes seen last, two for each multiply-add; 0 before the first run."""
        contexts = self._current.contexts.all if self._current else []
        return sum(contexts[-1].flops()) if contexts else 0

    def profile(self) -> Any:
        """Time of each step so far; needs ``SessionOptions(profile=True)``.

        Its arithmetic is that of a run with the input shapes seen last.
        """
        from sardonyx.runtime.profile import Profile

        if not self.options.profile:
            raise errors.InputError("this session does not profile", hint="use SessionOptions(profile=True)")
        library = self._current.library if self._current else self._library
        contexts = self._current.contexts.all if self._current else []
        steps = library.facts["steps"]
        ticks = [sum(c.ticks[number] for c in contexts if c.ticks is not None) for number in range(len(steps))]
        flops = contexts[-1].flops() if contexts else []
        return Profile(steps, ticks, sum(context.runs for context in contexts), flops)

    def reset_profile(self) -> None:
        """Forget all times so far. No run may be under way."""
        for context in self._all_contexts():
            context.reset_profile()

    def _all_contexts(self) -> list[Context]:
        return [context for variant in self._variants.values() for context in variant.contexts.all]


def _array(port: Port, value: Any, symbols: dict[int | str, int]) -> np.ndarray:
    """`value` as a contiguous array that fits `port`; symbols seen so far must agree."""
    if not isinstance(value, np.ndarray):
        value = _convert(port, value)
    if value.dtype != port.dtype:
        raise errors.InputError(
            f"input '{port.name}' has dtype {value.dtype}, expected {port.dtype}", hint="convert it with .astype()"
        )
    shape = value.shape
    if len(shape) != len(port.dims):
        raise errors.InputError(
            f"input '{port.name}' has shape {list(shape)} (rank {len(shape)}), expected {list(port.shape)}"
        )
    for axis, (given, expected) in enumerate(zip(shape, port.dims, strict=True)):
        known = expected if isinstance(expected, int) else symbols.setdefault(expected, given)
        if given != known:
            same = "" if isinstance(expected, int) else f", as other inputs have for '{port.shape[axis]}'"
            what = f"input '{port.name}' has shape {list(shape)}, expected {list(port.shape)}"
            raise errors.InputError(f"{what}: axis {axis} must be {known}{same}")
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _object(port: Port, value: Any) -> Any:
    """`value` for an input without native type: strings, other element types, sequences, optionals, maps."""
    if port.type.startswith("seq(") and not isinstance(value, list | tuple):
        raise errors.InputError(f"input '{port.name}' is a {type(value).__name__}, expected a list: {port.type}")
    if not port.type.startswith("tensor("):
        return value
    array = np.asarray(value)
    if port.type == "tensor(string)" and array.dtype.kind not in "OSU":
        raise errors.InputError(f"input '{port.name}' has dtype {array.dtype}, expected strings")
    if port.shape and array.ndim != len(port.shape):
        raise errors.InputError(f"input '{port.name}' has shape {list(array.shape)}, expected {list(port.shape)}")
    for given, expected in zip(array.shape, port.shape, strict=False):
        if isinstance(expected, int) and given != expected:
            raise errors.InputError(f"input '{port.name}' has shape {list(array.shape)}, expected {list(port.shape)}")
    return value


def _convert(port: Port, value: Any) -> np.ndarray:
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
    except Exception as error:  # a ragged list, memory of another device; whatever the other library raises
        raise errors.InputError(f"input '{port.name}' is no array: {error}") from error
    if hasattr(value, "__array__") or isinstance(value, np.generic):
        return array
    try:  # Python numbers and lists have no dtype of their own
        return array.astype(port.dtype, casting="same_kind" if array.size else "unsafe")
    except (TypeError, ValueError):
        return array
