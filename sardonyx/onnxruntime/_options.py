"""`SessionOptions` and `RunOptions` under the names that ONNX Runtime gave them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from sardonyx.onnxruntime._enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtExecutionProviderDevicePolicy,
)
from sardonyx.onnxruntime._exceptions import Fail, unsupported
from sardonyx.onnxruntime._values import OrtValue


class _Option:
    """A typed attribute: what does not convert is refused at once, as in the original."""

    def __init__(self, kind: type, default: Any, doc: str) -> None:
        self.kind = kind
        self.default = default
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return instance._values.get(self.name, self.default)

    def __set__(self, instance: Any, value: Any) -> None:
        instance._values[self.name] = self._converted(value)

    def _converted(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        if self.kind is int and not isinstance(value, (str, float)):
            return operator.index(value)
        if self.kind is bool and isinstance(value, np.bool_):
            return bool(value)
        raise TypeError(f"{self.name} must be {self.kind.__name__}, not {type(value).__name__} ({value!r})")


class _Config:
    """String entries by key, with the limits of the original."""

    __slots__ = ("_config", "_values", "_what")

    def __init__(self, what: str) -> None:
        self._values: dict[str, Any] = {}
        self._config: dict[str, str] = {}
        self._what = what

    def _add_entry(self, key: str, value: str) -> None:
        for word in (key, value):
            if not isinstance(word, str):
                raise TypeError(f"configuration keys and values are str, not {type(word).__name__}")
        if not 0 < len(key) <= 1024:
            raise RuntimeError("Config key is empty or longer than maximum length 1024")
        self._config[key] = value

    def _get_entry(self, key: str) -> str:
        if key not in self._config:
            raise RuntimeError(f"{self._what} does not have configuration with key: {key}")
        return self._config[key]


class SessionOptions(_Config):
    """Options of an `InferenceSession`.

    What has a meaning here is obeyed: threads, profiling, overrides of free dimensions and of initializers,
    log identity, the path for a copy of the model. Switches that steer the internals of ONNX Runtime
    (arenas, memory patterns, execution order) are kept and can be read back; results do not depend on them.
    """

    __slots__ = ("_dim_denotations", "_dim_names", "_initializers", "_providers")

    enable_cpu_mem_arena = _Option(bool, True, "Kept; memory is planned ahead.")
    enable_mem_pattern = _Option(bool, True, "Kept; memory is planned ahead.")
    enable_mem_reuse = _Option(bool, True, "Kept; memory is planned ahead.")
    enable_profiling = _Option(bool, False, "Measure each step; see `end_profiling`.")
    execution_mode = _Option(ExecutionMode, ExecutionMode.ORT_SEQUENTIAL, "Kept.")
    execution_order = _Option(ExecutionOrder, ExecutionOrder.DEFAULT, "Kept.")
    graph_optimization_level = _Option(GraphOptimizationLevel, GraphOptimizationLevel.ORT_ENABLE_ALL, "Kept.")
    inter_op_num_threads = _Option(int, 0, "Kept; one pool of threads serves a process.")
    intra_op_num_threads = _Option(int, 0, "Number of threads; 0: what the process may use.")
    log_severity_level = _Option(int, -1, "Kept.")
    log_verbosity_level = _Option(int, 0, "Kept.")
    logid = _Option(str, "", "Kept.")
    optimized_model_filepath = _Option(str, "", "Where to write the model that was loaded.")
    profile_file_prefix = _Option(str, "onnxruntime_profile_", "Start of the name of profiles.")
    use_deterministic_compute = _Option(bool, False, "Kept; results are always deterministic.")
    use_per_session_threads = _Option(bool, True, "Kept; one pool of threads serves a process.")

    def __init__(self) -> None:
        super().__init__("SessionOptions")
        self._dim_names: dict[str, int] = {}
        self._dim_denotations: dict[str, int] = {}
        self._initializers: dict[str, np.ndarray] = {}
        self._providers: dict[str, dict[str, str]] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep one configuration entry."""
        self._add_entry(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The entry under `key`; RuntimeError when there is none."""
        return self._get_entry(key)

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        """Fix the symbolic dimension called `name`."""
        self._dim_names[name] = operator.index(value)

    def add_free_dimension_override_by_denotation(self, denotation: str, value: int) -> None:
        """Fix every dimension that carries this denotation."""
        self._dim_denotations[denotation] = operator.index(value)

    def add_initializer(self, name: str, value: OrtValue) -> None:
        """Use `value` in place of the initializer called `name`."""
        self._initializers[name] = value.numpy()

    def add_external_initializers(self, names: list[str], values: list[OrtValue]) -> None:
        """Use `values` in place of the initializers called `names`."""
        if len(names) != len(values):
            raise RuntimeError("Expecting names and ort_values lists to have equal length")
        for name, value in zip(names, values):
            self.add_initializer(name, value)

    def add_provider(self, name: str, options: dict[str, str]) -> None:
        """Ask for a provider; the same as `providers` of `InferenceSession`."""
        self._providers[name] = dict(options)

    def has_providers(self) -> bool:
        """True once `add_provider` has been called."""
        return bool(self._providers)

    def register_custom_ops_library(self, path: str) -> None:
        """Always fails: such a library is compiled against the C interface of ONNX Runtime."""
        raise Fail(
            f"Failed to load library {path} with error: custom-operator libraries are written against the "
            "C interface of ONNX Runtime, which Sardonyx does not have. "
            "Hint: define the operator in Python with @sardonyx.operator."
        )

    def set_load_cancellation_flag(self, value: bool) -> None:
        """Kept for compatibility: a load cannot be cancelled."""
        self._values["load_cancellation_flag"] = bool(value)

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Kept: there is one device."""
        self._values["provider_selection_policy"] = OrtExecutionProviderDevicePolicy(policy)

    add_external_initializers_from_files_in_memory = unsupported(
        "SessionOptions.add_external_initializers_from_files_in_memory",
        "save the model and its external data to files and load those",
    )
    add_provider_for_devices = unsupported("SessionOptions.add_provider_for_devices")
    set_provider_selection_policy_delegate = unsupported("SessionOptions.set_provider_selection_policy_delegate")
    set_ep_context_data_read_func = unsupported("SessionOptions.set_ep_context_data_read_func")
    clear_ep_context_data_read_func = unsupported("SessionOptions.clear_ep_context_data_read_func")


class RunOptions(_Config):
    """Options of one run."""

    __slots__ = ()

    log_severity_level = _Option(int, -1, "Kept.")
    log_verbosity_level = _Option(int, 0, "Kept.")
    logid = _Option(str, "", "Kept.")
    only_execute_path_to_fetches = _Option(bool, False, "Kept; steps that nobody needs never run.")
    terminate = _Option(bool, False, "A run with this set fails at once.")

    def __init__(self) -> None:
        super().__init__("RunOptions")

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep one configuration entry."""
        self._add_entry(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry under `key`; RuntimeError when there is none."""
        return self._get_entry(key)

    add_active_adapter = unsupported("RunOptions.add_active_adapter")
