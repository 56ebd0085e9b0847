"""Stages that can be compared: the source framework, and an ONNX file under one runtime or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.process import Exported
from sardonyx.converters.source import Input
from sardonyx.model.load import load

Feeds = Mapping[str, np.ndarray]


class Stage(Protocol):
    """One form of a model that can be run.

    Attributes:
        name: what reports call it.
        path: an ONNX file of it: itself, or a fresh conversion of a source.
    """

    name: str
    path: Path

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """All outputs, in order."""
        ...

    def inputs(self) -> Sequence[Input]:
        """What it takes."""
        ...

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """Sizes of dynamic dimensions that make sense; see `Source.sizes`."""
        ...


class SourceStage:
    """The model in its own framework."""

    def __init__(self, name: str, opened: Exported, path: Path = Path()):
        self.name = name
        self.opened = opened
        self.path = path
        self.run = opened.run
        self.inputs = opened.inputs
        self.sizes = opened.sizes


class OnnxStage:
    """An ONNX file under one provider: ``reference``, ``native`` (Sardonyx itself), ``onnxruntime``, ``openvino``."""

    def __init__(self, path: Path, provider: str, name: str = ""):
        self.path = path
        self.provider = provider
        self.name = name or {"native": "sardonyx", "reference": "reference"}.get(provider, provider)
        self._session: object | None = None

    def inputs(self) -> Sequence[Input]:
        """As the model declares them."""
        return model_inputs(load(self.path))

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """A file does not say."""
        return {}

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """All outputs; sequences are flattened."""
        from sardonyx.runtime.options import SessionOptions
        from sardonyx.runtime.session import Session

        if self._session is None:
            self._session = Session(str(self.path), SessionOptions(providers=(self.provider,)))
        return flatten(self._session.run(dict(feeds)))  # type: ignore[attr-defined]


def flatten(values: Sequence[object]) -> list[np.ndarray]:
    """Arrays in the order in which they stand, out of lists and maps."""
    found: list[np.ndarray] = []
    for value in values:
        if isinstance(value, Mapping):
            found += flatten([np.asarray(list(value)), np.asarray(list(value.values()))])
        elif isinstance(value, (list, tuple)):
            found += flatten(value)
        elif value is not None:
            found.append(np.asarray(value))
    return found
