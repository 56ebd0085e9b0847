"""Sardonyx: an ONNX runtime and compiler. Python decides, C computes.

>>> import sardonyx
>>> session = sardonyx.Session("model.onnx")            # doctest: +SKIP
>>> [y] = session.run({"x": array})                     # doctest: +SKIP

Importing this package costs nearly nothing: a public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sardonyx._version import __version__

if TYPE_CHECKING:
    from sardonyx import errors
    from sardonyx.converters.convert import convert
    from sardonyx.deployment.deploy import deploy
    from sardonyx.errors import SardonyxError
    from sardonyx.model import load, save
    from sardonyx.ops.custom import operator
    from sardonyx.optimizer.optimize import optimize, replay
    from sardonyx.runtime.options import SessionOptions
    from sardonyx.runtime.session import Session
    from sardonyx.verifier.verify import verify

# Public name -> "module:attribute"; without an attribute the name is the module itself.
_EXPORTS = {
    "SardonyxError": "sardonyx.errors:SardonyxError",
    "Session": "sardonyx.runtime.session:Session",
    "SessionOptions": "sardonyx.runtime.options:SessionOptions",
    "convert": "sardonyx.converters.convert:convert",
    "deploy": "sardonyx.deployment.deploy:deploy",
    "errors": "sardonyx.errors",
    "load": "sardonyx.model:load",
    "operator": "sardonyx.ops.custom:operator",
    "optimize": "sardonyx.optimizer.optimize:optimize",
    "replay": "sardonyx.optimizer.optimize:replay",
    "save": "sardonyx.model:save",
    "verify": "sardonyx.verifier.verify:verify",
}

__all__ = [
    "SardonyxError",
    "Session",
    "SessionOptions",
    "__version__",
    "convert",
    "deploy",
    "errors",
    "load",
    "operator",
    "optimize",
    "replay",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    target = _EXPORTS.get(name)
    if target is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, _, attribute = target.partition(":")
    module = import_module(module_name)
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
