"""`IOBinding`: inputs and outputs at fixed places, for runs without copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx.onnxruntime._values import OrtValue, array_at, get_ort_device_type, require_cpu

if TYPE_CHECKING:
    from sardonyx.onnxruntime._session import Session


class IOBinding:
    """What a session reads from and writes to. Made by `InferenceSession.io_binding`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._targets: dict[str, np.ndarray | None] = {}
        self._results: list[OrtValue] = []

    def _input(self, name: str, value: Any) -> None:
        if name not in self._session._feeds:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")
        self._inputs[name] = value

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Read input `name` from an array."""
        self._input(name, arr_on_cpu)

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Read input `name` from the memory at `buffer_ptr`, which must stay valid."""
        require_cpu(device_type)
        self._input(name, array_at(buffer_ptr, element_type, shape))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read input `name` from a value."""
        self._input(name, ortvalue)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Compute output `name`, into the memory at `buffer_ptr` when that is given."""
        if buffer_ptr is None:
            get_ort_device_type(device_type)
            self._targets[name] = None
            return
        require_cpu(device_type)
        if element_type is None or shape is None:
            raise ValueError("element_type and shape are to be provided with buffer_ptr")
        self._targets[name] = array_at(buffer_ptr, element_type, shape)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Compute output `name` into a value."""
        self._targets[name] = ortvalue._array()

    def _run(self) -> None:
        session = self._session
        if not self._targets:
            raise ValueError("At least one output should be requested.")
        names = session._names(list(self._targets))
        into = {name: array for name, array in self._targets.items() if array is not None}
        feeds = session._prepared(self._inputs)
        results = session._native.run(feeds, names, out=into or None)
        self._results = [OrtValue(value, session._output_types[name]) for name, value in zip(names, results)]

    def synchronize_inputs(self) -> None:
        """Nothing to wait for on a CPU."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for on a CPU."""

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order in which they were bound."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> list[OrtValue]:
        """The same as `get_outputs`."""
        return self.get_outputs()

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run as arrays."""
        return [np.copy(value._array()) if value.is_tensor() else value.numpy() for value in self._results]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self._targets.clear()
        self._results.clear()
