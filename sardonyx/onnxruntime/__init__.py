"""The Python interface of ONNX Runtime on top of Sardonyx.

    import sardonyx.onnxruntime as onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    outputs = session.run(None, {"input": array})

Programs that cannot be changed run with ``python -m sardonyx.shim program.py``. Names, arguments, types of results
and exceptions are those of the version in `__version__`; what Sardonyx has no meaning for raises
`capi.onnxruntime_pybind11_state.NotImplemented` with a hint when it is used, never when it is imported.
"""

from sardonyx.onnxruntime import capi
from sardonyx.onnxruntime._binding import IOBinding
from sardonyx.onnxruntime._binding import IOBinding as SessionIOBinding
from sardonyx.onnxruntime._enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtAllocatorType,
    OrtCompileApiFlags,
    OrtDeviceMemoryType,
    OrtExecutionProviderDevicePolicy,
    OrtHardwareDeviceType,
    OrtMemoryInfoDeviceType,
    OrtMemType,
    OrtSparseFormat,
)
from sardonyx.onnxruntime._feeds import ModelMetadata, NodeArg
from sardonyx.onnxruntime._options import RunOptions, SessionOptions
from sardonyx.onnxruntime._process import (
    __version__,
    create_and_register_allocator,
    create_and_register_allocator_v2,
    disable_telemetry_events,
    enable_telemetry_events,
    get_all_providers,
    get_available_providers,
    get_build_info,
    get_device,
    get_ep_devices,
    get_version_string,
    has_collective_ops,
    preload_dlls,
    print_debug_info,
    set_default_logger_callback,
    set_default_logger_severity,
    set_default_logger_verbosity,
    set_global_thread_pool_sizes,
    set_seed,
)
from sardonyx.onnxruntime._providers import (
    AdapterFormat,
    LoraAdapter,
    ModelCompiler,
    OrtArenaCfg,
    OrtEpDevice,
    OrtExternalInitializerInfo,
    OrtHardwareDevice,
    OrtMemoryInfo,
    OrtSyncStream,
    register_execution_provider_library,
    unregister_execution_provider_library,
)
from sardonyx.onnxruntime._session import InferenceSession
from sardonyx.onnxruntime._values import (
    OrtDevice,
    OrtDeviceVendorId,
    OrtValue,
    SparseTensor,
    copy_tensors,
)
