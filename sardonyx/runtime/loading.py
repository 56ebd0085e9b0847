"""Finding or making the compiled form of a model: by file facts, by contents, or by compiling it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sardonyx.errors import InputError, ProviderError
from sardonyx.runtime.options import SessionOptions

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from sardonyx.compiler.cache import Cache
    from sardonyx.deployment.targets import Target

    Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

# What compiled code takes for granted where the model lets a value change its rank: (key, truth), sorted.
Assumptions = tuple[tuple[str, bool], ...]


class Loader:
    """Gives the folder with the compiled form of one model.

    Args:
        model: path of an .onnx file or of a bundle's folder, the bytes of a file, or a model in memory.
        options: of the session.
    """

    def __init__(self, model: Source, options: SessionOptions):
        self._bundle = Path(model) if isinstance(model, str | os.PathLike) and os.path.isdir(model) else None
        self._model = model if self._bundle is None else self._bundle / "model.onnx"
        self._options = options

    def load(self) -> ir.Model:
        """The model itself, checked."""
        from sardonyx.model import load

        return load(self._model)

    def content(self) -> str:
        """A digest of the model's contents; empty where they are in several files."""
        return _content(self._model)

    def folder(self, assumptions: Assumptions = (), *, again: bool = False) -> Path:
        """The folder, compiled now unless the cache has it.

        Args:
            assumptions: What the code takes for granted.
            again: Look at the model's contents even if its file has not changed: it was tuned since.
        """
        from sardonyx.compiler.cache import default, fingerprint
        from sardonyx.deployment.targets import find, host_target

        target = find(self._options.target) if self._options.target else host_target()
        if self._bundle is not None and not assumptions:
            return _checked_bundle(self._bundle)
        if not self._options.cache:
            return self._compile_aside(target, assumptions)
        store = default()
        marked = None
        if isinstance(self._model, str | os.PathLike):
            facts = f"{target.name} {_version()} {_registered()} {json.dumps(assumptions)}"
            try:
                marked = fingerprint(self._model, facts)
            except OSError:
                marked = None
            key = store.recall(marked) if marked and not again else None
            folder = store.entry(key) if key else None
            if folder is not None:
                return folder
        return self._compile(target, store, marked, assumptions)

    def _compile(self, target: Target, store: Cache, marked: str | None, assumptions: Assumptions) -> Path:
        import onnx_ir

        from sardonyx.compiler import tuning
        from sardonyx.compiler.cache_limit import trim
        from sardonyx.compiler.compile import compile_model, source_digest

        # What comes as bytes or a message has no file facts: its contents are the key. So has a file seen first.
        content = self.content()
        tuned = tuning.find(store, content, target) if content else {}
        choices = json.dumps(assumptions) + (json.dumps(tuned, sort_keys=True) if tuned else "")
        parts = [target.name, source_digest() + _registered() + choices, content]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest() if all(parts) else None
        folder = store.entry(key) if key else None
        if folder is None:
            loaded = self.load()
            if key is None:
                digest = _proto_digest(onnx_ir.serde.serialize_model(loaded))
                key = hashlib.sha256(f"{parts}{digest}".encode()).hexdigest()
            with _Bar(self._options.progress) as progress:
                folder = store.publish(
                    key,
                    lambda work: compile_model(loaded, target, work, dict(assumptions), progress=progress, tuned=tuned),
                )
            trim(store, key)
        if marked is not None:
            store.remember(marked, key, _external_files(self._model))  # type: ignore[arg-type]
        return folder

    def _compile_aside(self, target: Target, assumptions: Assumptions) -> Path:
        import shutil
        import tempfile
        import weakref

        from sardonyx.compiler.compile import compile_model

        aside = Path(tempfile.mkdtemp(prefix="sardonyx-"))
        weakref.finalize(self, shutil.rmtree, aside, ignore_errors=True)
        with _Bar(self._options.progress) as progress:
            compile_model(self.load(), target, aside, dict(assumptions), progress=progress)
        return aside


def _checked_bundle(folder: Path) -> Path:
    """`folder`, if it is a bundle for this machine.

    Raises:
        InputError: it is no bundle.
        ProviderError: it was built for another machine.
    """
    from sardonyx.deployment.targets import cpu_flags, find, host_target

    try:
        facts = json.loads((folder / "target.json").read_bytes())
        target = find(facts["name"])
    except (OSError, ValueError, KeyError):
        hint = "give the path of an .onnx file, or of a folder that sardonyx deploy wrote"
        raise InputError(f"{str(folder)!r} is a folder, but no compiled model", hint=hint) from None
    host = host_target()
    if (target.arch, target.system) != (host.arch, host.system) or not target.needs <= cpu_flags():
        hint = "deploy it again there, or run its model.onnx"
        raise ProviderError(f"{str(folder)!r} was built for {target.name}, this machine is {host.name}", hint=hint)
    return folder


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


def _registered() -> str:
    """A digest of the operators that the program registered itself; nothing is imported to find out."""
    custom = sys.modules.get("sardonyx.ops.custom")
    return custom.digest() if custom is not None else ""


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
