"""Checks of a step's parameters, made when the step is."""

from __future__ import annotations

from collections.abc import Sequence

from sardonyx.errors import InputError

__all__ = ["between", "one_of"]


def one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a parameter that is not one of `known`.

    Raises:
        InputError: it is not.
    """
    if value not in known:
        raise InputError(f"{name} is {value!r}, not one of {', '.join(map(str, known))}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not in [low, high].

    Raises:
        InputError: it is not.
    """
    if not low <= value <= high:  # NaN is refused, too
        raise InputError(f"{name} is {value}, not within {low} ... {high}")
