"""``module:factory``: a function of the user that makes the model; what it makes decides on the converter."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sardonyx.converters import table
from sardonyx.converters.source import Request, Source
from sardonyx.errors import SourceError

# A class among the bases of the object -> kind; compared by name, so that no framework is imported to ask.
_BASES = (
    ("transformers.modeling_utils.PreTrainedModel", "huggingface"),
    ("torch.nn.modules.module.Module", "torch-module"),
    ("keras.src.models.model.Model", "keras-model"),
    ("tf_keras.src.engine.training.Model", "keras-model"),
    ("tensorflow.python.eager.polymorphic_function.polymorphic_function.Function", "tf-function"),
    ("xgboost.core.Booster", "boosting-model"),
    ("xgboost.sklearn.XGBModel", "boosting-model"),
    ("lightgbm.basic.Booster", "boosting-model"),
    ("lightgbm.sklearn.LGBMModel", "boosting-model"),
    ("catboost.core.CatBoost", "boosting-model"),
    ("sklearn.base.BaseEstimator", "sklearn-model"),
)


def kind_of(made: Any) -> str:
    """The kind of a model in memory.

    Raises:
        SourceError: it is none that is known.
    """
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(made).__mro__}
    for base, kind in _BASES:
        if base in names:
            return kind
    if type(made).__module__.startswith(("jax", "flax")) or callable(made):
        return "jax"
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):  # a function with example arguments
        return "jax"
    raise SourceError(f"a {type(made).__name__} is no model that is known here", hint="See sardonyx convert --help.")


def make(source: str) -> Any:
    """What the function named by ``module:factory`` returns; an object that is no function is taken as it is."""
    found = imported(source)
    return found() if callable(found) and kind_or_none(found) is None else found


def imported(source: str) -> Any:
    """The object named by ``module:attribute``.

    Raises:
        SourceError: it cannot be imported.
    """
    name, _, attribute = source.partition(":")
    try:
        found = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as problem:
        raise SourceError(f"{source!r} cannot be imported: {problem}") from problem
    return found


def kind_or_none(made: Any) -> str | None:
    """`kind_of` for objects that are certainly models: a bare function is a factory."""
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(made).__mro__}
    return next((kind for base, kind in _BASES if base in names), None)


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Make the object and open it with the converter that its type asks for."""
    made = make(request.source) if made is None else made
    row = table.kind_called(kind_of(made))
    table.require(row)
    request.kind = row.name
    module = importlib.import_module(f"sardonyx.converters.{row.converter}")
    return module.open_source(request, progress, made)
