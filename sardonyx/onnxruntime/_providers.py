"""Which execution providers there are, and how `providers` arguments are read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sardonyx.onnxruntime._enums import (
    OrtAllocatorType,
    OrtDeviceMemoryType,
    OrtHardwareDeviceType,
    OrtMemType,
)
from sardonyx.onnxruntime._exceptions import unsupported

CPU = "CPUExecutionProvider"
AVAILABLE = [CPU]
# In the order of the original: most specialised first.
ALL = [
    *(f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "MIGraphX", "OpenVINO", "Dnnl")),
    *(f"{name}ExecutionProvider" for name in ("VitisAI", "QNN", "Nnapi", "VSINPU", "Js", "CoreML")),
    *(f"{name}ExecutionProvider" for name in ("Dml", "Rknpu", "WebNN", "WebGpu", "Xnnpack")),
    *(f"{name}ExecutionProvider" for name in ("CANN", "Azure", "CPU")),
]

Providers = Sequence[str | tuple[str, Mapping[Any, Any]]] | None


def check_and_normalize_provider_args(
    providers: Providers,
    provider_options: Sequence[Mapping[Any, Any]] | None,
    available_provider_names: Sequence[str],
) -> tuple[list[str], list[dict[str, str]]]:
    """Split `providers` into names and options; warns of those that are not available.

    Raises:
        ValueError: lengths or types do not fit together.
    """
    if providers is None:
        return [], []
    if isinstance(providers, str):
        raise ValueError("'providers' must be a sequence of names, not a single string.")
    if provider_options is not None:
        if len(providers) != len(provider_options):
            raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
        if not all(isinstance(provider, str) for provider in providers):
            raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
        if not all(isinstance(options, Mapping) for options in provider_options):
            raise ValueError("'provider_options' values must be dicts.")
        pairs: list[tuple[Any, Any]] = list(zip(providers, provider_options))
    else:
        pairs = [_pair(provider) for provider in providers]
    chosen: dict[str, dict[str, str]] = {}
    for name, options in pairs:
        if name not in available_provider_names:
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names. "
                f"Available providers: '{', '.join(available_provider_names)}'",
                stacklevel=4,
            )
        if name in chosen:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", stacklevel=4)
            continue
        chosen[name] = {str(key): str(value) for key, value in options.items()}
    return list(chosen), list(chosen.values())


def _pair(provider: Any) -> tuple[str, Mapping[Any, Any]]:
    if isinstance(provider, str):
        return provider, {}
    if (
        isinstance(provider, tuple)
        and len(provider) == 2
        and isinstance(provider[0], str)
        and isinstance(provider[1], Mapping)
    ):
        return provider
    raise ValueError("'providers' values must be either strings or (string, dict) tuples.")


@dataclass(frozen=True)
class OrtMemoryInfo:
    """A description of where a tensor lives."""

    name: str = "Cpu"
    allocator_type: OrtAllocatorType = OrtAllocatorType.ORT_DEVICE_ALLOCATOR
    device_id: int = 0
    mem_type: OrtMemType = OrtMemType.DEFAULT
    device_mem_type: OrtDeviceMemoryType = OrtDeviceMemoryType.DEFAULT
    device_vendor_id: int = 0


@dataclass(frozen=True)
class OrtArenaCfg:
    """Parameters of an arena; kept, since memory is planned ahead."""

    max_mem: int | Mapping[str, int] = 0
    arena_extend_strategy: int = -1
    initial_chunk_size_bytes: int = -1
    max_dead_bytes_per_chunk: int = -1


@dataclass(frozen=True)
class OrtHardwareDevice:
    """A piece of hardware."""

    type: OrtHardwareDeviceType = OrtHardwareDeviceType.CPU
    vendor_id: int = 0
    vendor: str = ""
    device_id: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrtEpDevice:
    """A provider on a piece of hardware."""

    ep_name: str = CPU
    ep_vendor: str = "Sardonyx"
    ep_metadata: Mapping[str, str] = field(default_factory=dict)
    ep_options: Mapping[str, str] = field(default_factory=dict)
    device: OrtHardwareDevice = field(default_factory=OrtHardwareDevice)


LoraAdapter = unsupported("LoraAdapter")
AdapterFormat = unsupported("AdapterFormat")
ModelCompiler = unsupported("ModelCompiler", "Sardonyx compiles when a session is made")
OrtSyncStream = unsupported("OrtSyncStream")
OrtExternalInitializerInfo = unsupported("OrtExternalInitializerInfo")
register_execution_provider_library = unsupported("register_execution_provider_library")
unregister_execution_provider_library = unsupported("unregister_execution_provider_library")
