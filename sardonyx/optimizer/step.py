"""What an optimisation is: a step with parameters that makes a new model of a model, and can be written down.

A recipe is a list of steps, so every step is a frozen dataclass whose fields are its parameters: plain numbers, texts,
booleans, and tuples of them. A step never changes the model that it is given, and says in `Applied` what it did. The
result is a standard ONNX model that other runtimes run as well.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

import onnx_ir as ir

from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data

__all__ = ["Applied", "Context", "Step", "make_step", "registered_steps", "step"]

# Modules that register steps; listed, never searched for.
FAMILIES: tuple[str, ...] = (
    "sardonyx.optimizer.compress.low_rank",
    "sardonyx.optimizer.compress.palette",
    "sardonyx.optimizer.finetune.fine_tune",
    "sardonyx.optimizer.prune.channels",
    "sardonyx.optimizer.prune.layers",
    "sardonyx.optimizer.prune.weights",
    "sardonyx.optimizer.quantize.dynamic_int8",
    "sardonyx.optimizer.quantize.equalize",
    "sardonyx.optimizer.quantize.smooth_quant",
    "sardonyx.optimizer.quantize.static_int8",
    "sardonyx.optimizer.quantize.storage",
    "sardonyx.optimizer.quantize.weights_int4",
    "sardonyx.optimizer.quantize.weights_int8",
)


@dataclass(frozen=True)
class Context:
    """What steps work with besides the model.

    Attributes:
        data: calibration data; None: there is none, and steps that can do without say what that costs.
        seed: of whatever is random; the same seed gives the same model.
        progress: called with a few words at each long stage.
        original: the model before the first step, for steps that learn from it.
    """

    data: Data | None = None
    seed: int = 0
    progress: Callable[[str], None] = lambda text: None
    original: ir.Model | None = None


@dataclass
class Applied:
    """What a step did.

    Attributes:
        model: the new model.
        modified: False: there was nothing to do.
        notes: what the user should know, a sentence each (which nodes were left alone and why, and so on).
    """

    model: ir.Model
    modified: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step(ABC):
    """One optimisation with its parameters.

    Raises (`apply`):
        OptimizationError: it cannot be done; why, and what to change.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, model: ir.Model, context: Context) -> Applied:
        """A new model; `model` itself is left as it is (start from `sardonyx.model.load`, which copies)."""

    def to_json(self) -> dict[str, Any]:
        """``{name: parameters}``, the form in which recipes have it; tuples become lists."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {self.name: plain}


_STEPS: dict[str, type[Step]] = {}
S = TypeVar("S", bound=type[Step])


def step(name: str) -> Callable[[S], S]:
    """Register a `Step` under the name that recipes use, such as ``static-int8``."""

    def register(cls: S) -> S:
        if name in _STEPS:
            raise ValueError(f"two steps are called {name!r}")
        cls.name = name
        _STEPS[name] = cls
        return cls

    return register


def registered_steps() -> Mapping[str, type[Step]]:
    """All steps by name."""
    for module in FAMILIES:
        importlib.import_module(module)
    return _STEPS


def make_step(name: str, parameters: Mapping[str, Any] | None = None) -> Step:
    """The step called `name` with `parameters`, as a recipe has them.

    Raises:
        InputError: there is no such step or parameter.
    """
    known = registered_steps()
    if name not in known:
        raise InputError(f"there is no optimisation step called {name!r}", hint=f"known are: {', '.join(known)}")
    cls, given = known[name], dict(parameters or {})
    names = [each.name for each in fields(cls)]
    unknown = sorted(set(given) - set(names))
    if unknown:
        hint = f"its parameters are: {', '.join(names) or 'none'}"
        raise InputError(f"step {name!r} has no parameter {unknown[0]!r}", hint=hint)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
