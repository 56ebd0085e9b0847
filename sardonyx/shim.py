"""Run a program that was written for ONNX Runtime on Sardonyx, unmodified.

    python -m sardonyx.shim program.py arguments...
    python -m sardonyx.shim -m package.module arguments...
    python -m sardonyx.shim -c "import onnxruntime; ..." arguments...

``import onnxruntime`` then gives `sardonyx.onnxruntime`, whether or not ONNX Runtime is installed; so do its
sub-modules, ``importlib.util.find_spec`` and ``importlib.metadata.version``. Processes that the program starts
are ordinary Python again, unless they call `install` themselves.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NoReturn

ALIAS = "onnxruntime"
TARGET = "sardonyx.onnxruntime"
USAGE = "usage: python -m sardonyx.shim (PROGRAM.py | -m MODULE | -c CODE) [ARGUMENT]..."


class _AliasLoader(importlib.abc.Loader):
    """Loads ``onnxruntime.x`` as the very module ``sardonyx.onnxruntime.x``."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just replaced the module's own spec by the alias's; the module keeps one
        # identity under both names.
        module.__spec__ = self.spec


class _Distribution(importlib.metadata.Distribution):
    """What ``importlib.metadata`` is told about the package called onnxruntime."""

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        version = importlib.import_module(TARGET).__version__
        return f"Metadata-Version: 2.1\nName: {ALIAS}\nVersion: {version}\n"

    def locate_file(self, path: str | os.PathLike[str]) -> NoReturn:
        raise FileNotFoundError(f"{ALIAS} is provided by sardonyx and has no files of its own: {path}")


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Answers for ``onnxruntime`` and everything under it, before any installed package can."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != ALIAS and not fullname.startswith(ALIAS + "."):
            return None
        real = importlib.util.find_spec(TARGET + fullname[len(ALIAS) :])
        if real is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname,
            _AliasLoader(real.name),
            origin=real.origin,
            is_package=real.submodule_search_locations is not None,
        )
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """The distribution, when it is asked for by name or with all others."""
        if context is None or context.name in (None, ALIAS):
            yield _Distribution()


def install() -> None:
    """Make ``import onnxruntime`` mean `sardonyx.onnxruntime` in this process. Calling it again does nothing.

    Raises:
        RuntimeError: the real ONNX Runtime has been imported already; objects of both would mix.
    """
    if any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        return
    if ALIAS in sys.modules:
        raise RuntimeError(
            f"{ALIAS} has already been imported from {sys.modules[ALIAS].__file__}. "
            "Hint: call sardonyx.shim.install() before the first import of onnxruntime."
        )
    sys.meta_path.insert(0, _AliasFinder())


def uninstall() -> None:
    """Undo `install`. What the program has imported meanwhile stays in its hands."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AliasFinder)]
    for name in [n for n in sys.modules if n == ALIAS or n.startswith(ALIAS + ".")]:
        del sys.modules[name]


def run(arguments: Sequence[str]) -> None:
    """Run a program with ``onnxruntime`` replaced; `arguments` as on the command line."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE if not arguments else (__doc__ or USAGE))
        raise SystemExit(0 if arguments else 2)
    first, *rest = arguments
    if first in ("-m", "-c") and not rest:
        print(f"{USAGE}\nerror: {first} needs a value", file=sys.stderr)
        raise SystemExit(2)
    install()
    # sys.path[0] and sys.argv as `python` itself sets them up for each way of starting.
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        if not os.path.exists(first):
            print(f"error: cannot open program {first!r}: no such file", file=sys.stderr)
            raise SystemExit(2)
        sys.path[0] = os.path.dirname(os.path.abspath(first))
        sys.argv = list(arguments)
        runpy.run_path(first, run_name="__main__")


def main() -> NoReturn:
    """Entry point of ``python -m sardonyx.shim``."""
    run(sys.argv[1:])
    raise SystemExit(0)


if __name__ == "__main__":
    main()
