"""`InferenceSession`: the checks and words of ONNX Runtime around a `sardonyx.Session`."""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sardonyx import errors
from sardonyx.onnxruntime import _edits
from sardonyx.onnxruntime._binding import IOBinding
from sardonyx.onnxruntime._exceptions import (
    Fail,
    InvalidArgument,
    InvalidProtobuf,
    NoSuchFile,
    status_for,
    translated,
    unsupported,
)
from sardonyx.onnxruntime._feeds import Feed, ModelMetadata, NodeArg
from sardonyx.onnxruntime._options import RunOptions, SessionOptions
from sardonyx.onnxruntime._providers import (
    ALL,
    AVAILABLE,
    CPU,
    OrtEpDevice,
    OrtMemoryInfo,
    Providers,
    check_and_normalize_provider_args,
)
from sardonyx.onnxruntime._values import OrtValue
from sardonyx.runtime.options import SessionOptions as NativeOptions
from sardonyx.runtime.session import Session as NativeSession

_profile_number = itertools.count()


class Session:
    """What all sessions can do."""

    _native: NativeSession
    _options: SessionOptions
    _path: str
    _provider_options: dict[str, dict[str, str]]

    def __init__(self, enable_fallback: bool = True) -> None:
        self._enable_fallback = enable_fallback
        self._started_ns = 0
        self._executor: ThreadPoolExecutor | None = None

    def _bind(self, native: NativeSession) -> None:
        self._native = native
        self._inputs_meta = [NodeArg.of(info) for info in native.inputs]
        # Initializers are compiled in: those that the model lists among its inputs as well cannot be fed.
        self._overridable_initializers: list[NodeArg] = []
        self._outputs_meta = [NodeArg.of(info) for info in native.outputs]
        self._feeds = {argument.name: Feed(argument) for argument in self._inputs_meta}
        self._required = [a.name for a in self._inputs_meta if not a.type.startswith("optional(")]
        self._output_types = {output.name: output.type for output in self._outputs_meta}

    def get_session_options(self) -> SessionOptions:
        """The options that the session was made with."""
        return self._options

    def get_inputs(self) -> list[NodeArg]:
        """The inputs of the model, without initializers."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        """The outputs of the model."""
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Always empty: initializers are compiled in; `SessionOptions.add_initializer` replaces one."""
        return self._overridable_initializers

    def get_modelmeta(self) -> ModelMetadata:
        """What the model says about itself."""
        return ModelMetadata.of(self._native.metadata)

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each input has to live."""
        return [OrtMemoryInfo() for _ in self._inputs_meta]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where each output will live."""
        return [OrtMemoryInfo() for _ in self._outputs_meta]

    def get_input_epdevices(self) -> list[OrtEpDevice]:
        """The device that reads each input."""
        return [OrtEpDevice() for _ in self._inputs_meta]

    def get_providers(self) -> list[str]:
        """Names of the providers in use."""
        return list(self._provider_options)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options of each provider in use."""
        return self._provider_options

    def set_providers(
        self,
        providers: Providers = None,
        provider_options: Sequence[Mapping[Any, Any]] | None = None,
    ) -> None:
        """Choose providers anew. There is one, so this only checks the arguments."""
        self._choose_providers(providers, provider_options)

    def _choose_providers(self, providers: Providers, provider_options: Sequence[Mapping[Any, Any]] | None) -> None:
        self._provider_options = {CPU: {}}
        try:
            names, _ = check_and_normalize_provider_args(providers, provider_options, AVAILABLE)
            unknown = [name for name in names if name not in ALL]
            if unknown:
                raise RuntimeError(f"Unknown Provider Type: {unknown[0]}")
        except (ValueError, RuntimeError) as error:
            if not self._enable_fallback:
                raise
            warnings.warn(f"{error} (given: {providers}). Falling back to ['{CPU}'].", stacklevel=4)

    def disable_fallback(self) -> None:
        """Make wrong `providers` an error from now on."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Make wrong `providers` a warning from now on."""
        self._enable_fallback = True

    def _prepared(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Every value checked against the model and turned into what `sardonyx.Session` takes."""
        given = feeds.keys()
        missing = [name for name in self._required if name not in given]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(given)}).")
        prepared = {}
        for name, value in feeds.items():
            feed = self._feeds.get(name)
            if feed is None:
                raise InvalidArgument(f"Invalid input name: {name}")
            prepared[name] = feed.prepare(value)
        return prepared

    def _names(self, output_names: Sequence[str] | None) -> list[str]:
        if not output_names:
            return [output.name for output in self._outputs_meta]
        if isinstance(output_names, (str, bytes)):
            raise TypeError("run(): output_names must be a sequence of str, not a single string")
        for name in output_names:
            if name not in self._output_types:
                raise InvalidArgument(f"Invalid output name:{name}")
        return list(output_names)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[Any]:
        """Compute outputs.

        Args:
            output_names: Which, in this order; None or empty for all.
            input_feed: Input name -> numpy array, list, or `OrtValue`.
            run_options: Options of this run.

        Returns:
            One entry per output: array, list (sequence), or list of dicts (ZipMap).

        Raises:
            ValueError: a required input is missing.
            InvalidArgument: an unknown name, or a type or shape that the model does not allow.
        """
        feeds = self._prepared(input_feed)
        names = self._names(output_names)
        _check_terminate(run_options)
        with translated():
            return self._native.run(feeds, names)

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], None],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """Compute outputs in another thread, then call ``callback(results, user_data, error_text)``."""

        def work() -> None:
            try:
                results, message = self.run(output_names, input_feed, run_options), ""
            except Exception as error:
                results, message = [], getattr(error, "message", None) or str(error)
            callback(results, user_data, message)

        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="sardonyx-run-async")
        self._executor.submit(work)

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """The same as `run`, with `OrtValue` in and out."""
        for name, value in input_dict_ort_values.items():
            if not isinstance(value, OrtValue):
                raise AttributeError(f"input {name!r} is {type(value).__name__}, not OrtValue")
        names = self._names(output_names)
        results = self.run(names, input_dict_ort_values, run_options)
        return [OrtValue(value, self._output_types[n]) for n, value in zip(names, results)]

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Compute the outputs that are bound, from the inputs that are bound."""
        _check_terminate(run_options)
        try:
            iobinding._run()
        except errors.SardonyxError as error:
            raise RuntimeError(f"Error in execution: {status_for(error).message}") from error
        except (InvalidArgument, ValueError) as error:
            message = getattr(error, "message", None) or str(error)
            raise RuntimeError(f"Error in execution: {message}") from error

    def io_binding(self) -> IOBinding:
        """A new, empty binding of inputs and outputs."""
        return IOBinding(self)

    def end_profiling(self) -> str:
        """Write what `SessionOptions.enable_profiling` measured and return the name of the file.

        The file is a list of events in Chrome's trace format. The name is empty when profiling was off, or
        has been ended already.
        """
        if not self._started_ns:
            return ""
        self._started_ns = 0
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        name = f"{self._options.profile_file_prefix}_{stamp}_{next(_profile_number)}.json"
        events = self._native.profile().chrome_trace()["traceEvents"]
        with open(name, "w", encoding="utf-8") as file:
            json.dump(events, file)
        return name

    def get_profiling_start_time_ns(self) -> int:
        """When profiling started, in nanoseconds of the monotonic clock; 0 when it is off."""
        return self._started_ns

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Where each node runs: list of `sardonyx.runtime` placements (node, operator, provider, reason)."""
        return list(self._native.placement())

    def create_ortvalue_from_shape_and_type(
        self,
        shape: Sequence[int],
        element_type: Any,
        device_type: str,
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> OrtValue:
        """A tensor to write into; see `OrtValue.ortvalue_from_shape_and_type`."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id)

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Accepted and without effect: the provider has no such options."""

    def get_tuning_results(self) -> list[Any]:
        """Always empty: tuning results live in the cache of Sardonyx."""
        return []

    def set_tuning_results(self, results: list[Any], *, error_on_invalid: bool = False) -> None:
        """Accepted and without effect."""

    run_with_ortvaluevector = unsupported("run_with_ortvaluevector", "use run_with_ort_values")
    release_captured_graph = unsupported("release_captured_graph")


class InferenceSession(Session):
    """A model, compiled and ready to run."""

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: SessionOptions | None = None,
        providers: Providers = None,
        provider_options: Sequence[Mapping[Any, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Load and compile a model.

        Args:
            path_or_bytes: A file, or its content.
            sess_options: Options; see `SessionOptions` for what each does here.
            providers: Names, or (name, options) pairs. What is not available is warned of and left out.
            provider_options: Options for `providers`, in the same order.
            **kwargs: `enable_fallback=0` makes wrong `providers` an error;
                `disabled_optimizers` is accepted and without effect.

        Raises:
            NoSuchFile: the file does not exist.
            InvalidProtobuf: the content is not an ONNX model.
            InvalidGraph: it is, and breaks the specification.
            NotImplemented: it is valid, but uses what Sardonyx does not know.
        """
        super().__init__(enable_fallback=int(kwargs.get("enable_fallback", 1)) == 1)
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options must be SessionOptions, not {type(sess_options)}")
        source = _source(path_or_bytes)
        self._options = sess_options or SessionOptions()
        if providers is None and self._options.has_providers():
            providers = list(self._options._providers.items())
        self._choose_providers(providers, provider_options)
        if self._options.enable_profiling:
            self._started_ns = time.monotonic_ns()
        with translated():
            self._bind(_load(source, self._options))
        if self._options.optimized_model_filepath:
            _edits.write(source, self._options.optimized_model_filepath)


def _check_terminate(run_options: RunOptions | None) -> None:
    if run_options is not None and run_options.terminate:
        raise Fail("Exiting due to terminate flag being set to true.")


def _source(path_or_bytes: Any) -> str | bytes:
    if isinstance(path_or_bytes, bytes):
        if not path_or_bytes:
            raise InvalidArgument("No graph was found in the protobuf.")
        return path_or_bytes
    if not isinstance(path_or_bytes, (str, os.PathLike)):
        raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
    path = os.fspath(path_or_bytes)
    if not os.path.exists(path):
        raise NoSuchFile(f"Load model from {path} failed:Load model {path} failed. File doesn't exist")
    if os.path.isdir(path):
        raise InvalidProtobuf(f"Load model from {path} failed:Protobuf parsing failed.")
    return path


def _load(source: str | bytes, options: SessionOptions) -> NativeSession:
    native_options = NativeOptions(
        threads=options.intra_op_num_threads if options.intra_op_num_threads > 0 else None,
        profile=options.enable_profiling,
        progress=False,
    )
    try:
        model = _edits.apply(source, options) if _edits.needed(options) else source
        return NativeSession(model, native_options)
    except errors.ModelError as error:
        if _edits.parses(source):
            raise
        if isinstance(source, bytes):
            message = "Failed to load model because protobuf parsing failed."
        else:
            message = f"Load model from {source} failed:Protobuf parsing failed."
        raise InvalidProtobuf(message) from error
