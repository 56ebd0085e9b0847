"""Values and devices: `OrtValue`, `OrtDevice`, `SparseTensor` and descriptions of memory.

Everything lives in the memory of the CPU; other devices are refused with the words of the original.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from sardonyx.onnxruntime._exceptions import NotImplemented, unsupported
from sardonyx.onnxruntime._types import (
    ELEMENT_TYPES,
    dtype_of,
    element_from_any,
    element_of,
    tensor_element,
)

_DEVICE_TYPES = {
    "cpu": 0,
    "gpu": 1,
    "cuda": 1,
    "dml": 1,
    "webgpu": 1,
    "fpga": 2,
    "npu": 3,
    "cann": 3,
}
_NO_DEVICE = (
    "Can't allocate memory on the device using this package of OnnxRuntime. "
    "Please use the appropriate package of OnnxRuntime for your hardware to use this feature."
)


class OrtDeviceVendorId(enum.IntEnum):
    """PCI numbers of makers of devices."""

    NONE = 0
    AMD = 0x1002
    NVIDIA = 0x10DE
    ARM = 0x13B5
    MICROSOFT = 0x1414
    HUAWEI = 0x19E5
    QUALCOMM = 0x5143
    INTEL = 0x8086


def get_ort_device_type(device_type: str) -> int:
    """The number of a kind of device; Exception for unknown words."""
    if device_type not in _DEVICE_TYPES:
        raise Exception("Unsupported device type: " + device_type)
    return _DEVICE_TYPES[device_type]


def require_cpu(device_type: str) -> None:
    """RuntimeError unless values can live on `device_type`."""
    if get_ort_device_type(device_type) != 0:
        raise RuntimeError(_NO_DEVICE)


class OrtDevice:
    """A place where values live."""

    def __init__(self, device_type: int = 0, device_id: int = 0) -> None:
        self._type = device_type
        self._id = device_id

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int | OrtDeviceVendorId = -1) -> OrtDevice:
        """The device called `ort_device_name`, such as "cpu"."""
        return OrtDevice(get_ort_device_type(ort_device_name), device_id)

    def device_id(self) -> int:
        """Its number among devices of its kind."""
        return self._id

    def device_type(self) -> int:
        """Its kind; 0 is the CPU."""
        return self._type

    def device_vendor_id(self) -> int:
        """Its maker; 0 when that does not matter."""
        return 0

    def device_mem_type(self) -> int:
        """Its kind of memory; 0 is the default."""
        return 0


class OrtValue:
    """A tensor, or a sequence of tensors, that sessions read and write without copying."""

    def __init__(self, value: Any, type_string: str) -> None:
        self._value = value
        self._type = type_string

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: np.ndarray,
        /,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int | OrtDeviceVendorId = -1,
    ) -> OrtValue:
        """Wrap an array; a contiguous one is shared, not copied."""
        require_cpu(device_type)
        if not isinstance(numpy_obj, np.ndarray) or element_of(numpy_obj.dtype) == "string":
            raise RuntimeError("Creation of OrtValues is currently only supported from non-string numpy arrays")
        array = _contiguous(numpy_obj)
        return cls(array, f"tensor({element_of(array.dtype)})")

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: np.ndarray, /, onnx_element_type: int) -> OrtValue:
        """Read the bytes of an array as elements of another type, such as uint16 as bfloat16."""
        element = element_from_any(onnx_element_type)
        array = _contiguous(data).view(dtype_of(element))
        return cls(array, f"tensor({element})")

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int | OrtDeviceVendorId = -1,
        memory_info: Any = None,
    ) -> OrtValue:
        """A tensor to write into. Its elements are zero until then."""
        require_cpu(device_type)
        element = element_from_any(element_type)
        return cls(np.zeros(tuple(shape), dtype_of(element)), f"tensor({element})")

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """Share the tensor of another library that speaks DLPack."""
        return cls.ortvalue_from_numpy(np.from_dlpack(data))

    @classmethod
    def _from_result(cls, value: Any, type_string: str) -> OrtValue:
        """What a session returned, under the type that its model states."""
        return cls(value, type_string)

    def _array(self) -> np.ndarray:
        if not isinstance(self._value, np.ndarray):
            raise RuntimeError(f"Only tensors have this; the value is of type {self._type}.")
        return self._value

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self._array().ctypes.data

    def device_name(self) -> str:
        """Where it lives: always "cpu"."""
        return "cpu"

    def shape(self) -> list[int]:
        """Dimensions of a tensor."""
        return list(self._array().shape)

    def data_type(self) -> str:
        """Type string such as ``tensor(float)``."""
        return self._type

    def element_type(self) -> int:
        """The number of the element type in the ONNX format."""
        element = tensor_element(self._type)
        if element is None:
            raise RuntimeError(f"Only tensors have an element type; the value is {self._type}.")
        return ELEMENT_TYPES[element][0]

    def tensor_size_in_bytes(self) -> int:
        """Bytes of all elements."""
        return self._array().nbytes

    def has_value(self) -> bool:
        """False for an optional that is empty."""
        return self._value is not None

    def is_tensor(self) -> bool:
        """True for a dense tensor."""
        return self._type.startswith("tensor(")

    def is_sparse_tensor(self) -> bool:
        """Always False."""
        return False

    def is_tensor_sequence(self) -> bool:
        """True for a sequence of tensors."""
        return self._type.startswith("seq(tensor(")

    def numpy(self) -> Any:
        """The tensor as an array (shared memory), a sequence as a list of arrays."""
        return self._value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array(), dtype=dtype, copy=copy)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self._array().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array().__dlpack_device__()

    def to_dlpack(self) -> Any:
        """A DLPack capsule of the tensor."""
        return self.__dlpack__()

    def update_inplace(self, data: np.ndarray | OrtValue) -> None:
        """Copy the elements of an array of the same shape and type into this tensor."""
        source = data._array() if isinstance(data, OrtValue) else data
        target = self._array()
        if source.size != target.size:
            raise RuntimeError("The input size of numpy arrays does not match the size of the OrtValue.")
        if source.dtype != target.dtype:
            raise RuntimeError(f"Cannot copy elements of {source.dtype} into a tensor of {target.dtype}.")
        np.copyto(target, source.reshape(target.shape))

    ort_value_from_sparse_tensor = staticmethod(
        unsupported("OrtValue.ort_value_from_sparse_tensor", "use a dense tensor")
    )
    as_sparse_tensor = unsupported("OrtValue.as_sparse_tensor", "use a dense tensor")


def _contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order and native bytes, and itself where it already is."""
    native = array.dtype.newbyteorder("=")
    if array.flags.c_contiguous and array.dtype == native:
        return array
    return np.ascontiguousarray(array, native).reshape(array.shape)


def array_at(address: int, element_type: Any, shape: Sequence[int]) -> np.ndarray:
    """The memory at `address` as an array. The caller answers for its size and lifetime, as in the original."""
    dtype = dtype_of(element_from_any(element_type))
    if dtype.hasobject:
        raise RuntimeError("Only binding of non-string tensors to addresses is supported")
    count = int(np.prod(tuple(shape), dtype=np.int64))
    if count == 0:
        return np.empty(tuple(shape), dtype)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(tuple(shape))


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Copy each tensor of `src` into that of `dst`."""
    if len(src) != len(dst):
        raise RuntimeError("The number of source and destination tensors must be the same.")
    for source, target in zip(src, dst):
        target.update_inplace(source)


class SparseTensor:
    """Named so that `isinstance` works; sparse tensors themselves are not supported."""

    def __init__(self, sparse_tensor: Any = None) -> None:
        raise NotImplemented("SparseTensor is not supported by Sardonyx. Hint: use a dense tensor.")

    sparse_coo_from_numpy = staticmethod(unsupported("SparseTensor.sparse_coo_from_numpy"))
    sparse_csr_from_numpy = staticmethod(unsupported("SparseTensor.sparse_csr_from_numpy"))
