"""The classes of the public interface under their original home."""

from sardonyx.onnxruntime._binding import IOBinding
from sardonyx.onnxruntime._providers import (
    AdapterFormat,
    ModelCompiler,
    check_and_normalize_provider_args,
)
from sardonyx.onnxruntime._session import InferenceSession, Session
from sardonyx.onnxruntime._values import (
    OrtDevice,
    OrtDeviceVendorId,
    OrtValue,
    SparseTensor,
    copy_tensors,
    get_ort_device_type,
)
