"""`Session`: load a model, compile it once, run it."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sardonyx import errors
from sardonyx.runtime.native import Context, Contexts, Library, Port, Uncompiled
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.threads import get_pool

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    import onnx
    import onnx_ir as ir

    from sardonyx.compiler.cache import Cache
    from sardonyx.deployment.targets import Target
    from sardonyx.runtime.providers import Engine

    Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model


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
        model: path of an .onnx file, its bytes, or a model in memory.
        options: see `SessionOptions`.

    Raises:
        ModelError: the model is malformed.
        UnsupportedError: it has an operator that nothing here can run.
        CompileError: the compiler failed.
    """

    def __init__(self, model: Source, options: SessionOptions | None = None):
        self.options = options or SessionOptions()
        self._folder: Any = None
        self._engine: Engine | None = None
        self._host_model: Any = None
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._pool = get_pool(self.options.threads)
        if self.options.providers[:1] == ("native",) and len(self.options.providers) == 1:
            self._library = Library(self._compiled(model))
        else:
            self._library = self._provided(model)
        self._contexts = Contexts(self._context)
        self._names = [port.name for port in self._library.inputs]
        self._ports = {port.name: port for port in self._library.inputs}
        self._positions = {port.name: number for number, port in enumerate(self._library.outputs)}
        self._simple = all(port.slot < 0 for port in self._library.inputs)
        self._expected = [(port.name, port.dtype) for port in self._library.inputs]
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()  # of inputs that passed all checks

    # Loading.

    def _compiled(self, model: Source) -> Path:
        """The folder that holds the compiled model."""
        from sardonyx.compiler.cache import default, fingerprint
        from sardonyx.deployment.targets import find, host_target

        target = find(self.options.target) if self.options.target else host_target()
        if not self.options.cache:
            return self._compile_aside(model, target)
        store = default()
        marked = None
        if isinstance(model, str | os.PathLike):
            try:
                marked = fingerprint(model, f"{target.name} {_version()}")
            except OSError:
                marked = None
            key = store.recall(marked) if marked else None
            folder = store.entry(key) if key else None
            if folder is not None:
                return folder
        return self._compile(model, target, store, marked)

    def _provided(self, model: Source) -> Library:
        """The model under the providers asked for: whole in the first that is not native."""
        from sardonyx.model import load
        from sardonyx.runtime import providers

        providers.check_names(self.options.providers)
        first = self.options.providers[0]
        if first == "native":
            return Library(self._compiled(model))
        loaded = load(model)
        self._engine = providers.engine(first, loaded, self.options.threads)
        return Uncompiled(*providers.ports(loaded), loaded, first)

    def _compile(self, model: Source, target: Target, store: Cache, marked: str | None) -> Path:
        import onnx_ir

        from sardonyx.compiler.compile import compile_model, source_digest
        from sardonyx.model import load

        # What comes as bytes or a message has no file facts: its contents are the key. So has a file seen first.
        parts = [target.name, source_digest(), _content(model)]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest() if all(parts) else None
        folder = store.entry(key) if key else None
        if folder is None:
            loaded = load(model)
            if key is None:
                key = hashlib.sha256(f"{parts}{_proto_digest(onnx_ir.serde.serialize_model(loaded))}".encode()).hexdigest()
            with _progress(self.options.progress) as progress:
                folder = store.publish(key, lambda work: compile_model(loaded, target, work, progress=progress))
        if marked is not None:
            store.remember(marked, key, _external_files(model))  # type: ignore[arg-type]
        return folder

    def _compile_aside(self, model: Source, target: Target) -> Path:
        from sardonyx.compiler.compile import compile_model
        from sardonyx.model import load

        self._folder = tempfile.TemporaryDirectory(prefix="sardonyx-")
        with _progress(self.options.progress) as progress:
            compile_model(load(model), target, Path(self._folder.name), progress=progress)
        return Path(self._folder.name)

    def _context(self) -> Context:
        hosted = bool(self._library.facts["captured"])
        if hosted and self._host_model is None:
            from sardonyx.runtime.host_model import HostModel

            self._host_model = HostModel(self._library.folder / "host.onnx", self._library.facts["captured"])
        call = self._host_model.run if hosted else None
        context = Context(self._library, self._pool, self.options.threads, call, self.options.profile)
        if hosted:
            for slot, value in self._host_model.objects(self._library.facts["objects"]):
                context.objects[slot] = value
        return context

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
        values = self._seen_before(feeds) or self._checked(feeds)
        targets = None if out is None else self._targets(out)
        if outputs is not None:
            for name in outputs:
                if name not in self._positions:
                    raise errors.InputError(f"no output '{name}'", hint=f"outputs are {', '.join(self._positions)}")
        if self._engine is not None:
            results = self._engine.run(dict(zip(self._names, values, strict=True)))
            for number, array in (targets or {}).items():
                np.copyto(array, results[number])
        else:
            context = self._contexts.take()
            try:
                results = context.run(values, targets)
            finally:
                self._contexts.give(context)
        return results if outputs is None else [results[self._positions[name]] for name in outputs]

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
                self._executor = ThreadPoolExecutor(max_workers=max(2, self._pool.threads), thread_name_prefix="sardonyx")
        return self._executor.submit(self.run, feeds)

    def _seen_before(self, feeds: Mapping[str, Any]) -> list[Any] | None:
        """The inputs in order when they are arrays like ones that were checked before; None otherwise."""
        if len(feeds) != len(self._expected):
            return None
        values, shapes = [], []
        for name, dtype in self._expected:
            value = feeds.get(name)
            if value.__class__ is not np.ndarray or value.dtype is not dtype or not value.flags.c_contiguous:  # type: ignore[union-attr]
                return None
            values.append(value)
            shapes.append(value.shape)  # type: ignore[union-attr]
        return values if tuple(shapes) in self._shapes else None

    def _checked(self, feeds: Mapping[str, Any]) -> list[Any]:
        if len(feeds) != len(self._ports) or not self._ports.keys() >= feeds.keys():
            self._wrong_names(feeds)
        values: list[Any] = []
        symbols: dict[int | str, int] = {}
        for port in self._library.inputs:
            value = feeds[port.name]
            values.append(value if port.slot >= 0 else _array(port, value, symbols))
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
            "arena": sum(context.arena for context in self._contexts.all) or self._library.facts["arena"],
            "planned": self._library.facts["arena"],
            "bound": self._library.facts["bound"],
        }

    def profile(self) -> Any:
        """Time of each step so far; needs ``SessionOptions(profile=True)``."""
        from sardonyx.runtime.profile import Profile

        if not self.options.profile:
            raise errors.InputError("this session does not profile", hint="use SessionOptions(profile=True)")
        steps = self._library.facts["steps"]
        ticks = [0] * len(steps)
        for context in self._contexts.all:
            for number in range(len(steps)):
                ticks[number] += context.ticks[number] if context.ticks is not None else 0
        return Profile(steps, ticks, sum(context.runs for context in self._contexts.all))


def _version() -> str:
    """What of this package decides what is generated: its version and the newest change to its files."""
    from sardonyx._version import __version__

    newest, folders = 0, [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".c", ".h")):
                    newest = max(newest, entry.stat().st_mtime_ns)
                elif entry.is_dir() and entry.name != "__pycache__":
                    folders.append(entry.path)
    return f"{__version__} {newest}"


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
            raise errors.InputError(
                f"input '{port.name}' has shape {list(shape)}, expected {list(port.shape)}: axis {axis} must be {known}{same}"
            )
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _convert(port: Port, value: Any) -> np.ndarray:
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    array = np.asarray(value)
    if hasattr(value, "__array__") or isinstance(value, np.generic):
        return array
    try:  # Python numbers and lists have no dtype of their own
        return array.astype(port.dtype, casting="same_kind" if array.size else "unsafe")
    except (TypeError, ValueError):
        return array


def _content(model: Source) -> str:
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    if isinstance(model, str | os.PathLike):
        if _external_files(model):
            return ""
        try:
            with open(model, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""
    if hasattr(model, "SerializeToString"):
        return _proto_digest(model)
    return ""


def _proto_digest(proto: Any) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _external_files(model: Source) -> list[Path]:
    """Files with external data that the model file names."""
    from sardonyx.model.load import external_files

    return external_files(model) if isinstance(model, str | os.PathLike) else []


class _Bar:
    """Shows a progress bar on a terminal while a model compiles."""

    def __init__(self, wanted: bool):
        self.wanted = wanted and sys.stderr.isatty()
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not self.wanted:
            return None
        from rich.progress import Progress

        self.bar = Progress(transient=True)
        task = self.bar.add_task("compiling", total=None)
        self.bar.start()
        return lambda done, total, name: self.bar.update(task, completed=done, total=total, description=name)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _progress(wanted: bool) -> _Bar:
    return _Bar(wanted)
