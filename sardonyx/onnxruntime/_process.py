"""Functions and settings that concern the whole process."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from sardonyx._version import __version__ as _own_version
from sardonyx.onnxruntime._providers import ALL, AVAILABLE, OrtArenaCfg, OrtEpDevice, OrtMemoryInfo

# The release of ONNX Runtime whose interface this package follows. Programs compare it, so it is theirs, not ours.
__version__ = "1.32.0"


def get_available_providers() -> list[str]:
    """Names of the providers that can be used."""
    return list(AVAILABLE)


def get_all_providers() -> list[str]:
    """Names of all providers that exist, most specialised first."""
    return list(ALL)


def get_device() -> str:
    """The kind of device that is used."""
    return "CPU"


def get_version_string() -> str:
    """The release of ONNX Runtime whose interface this is."""
    return __version__


def get_build_info() -> str:
    """One line about who answers here."""
    return f"ORT Build Info: provided by sardonyx {_own_version} ({platform.machine()})"


def get_ep_devices() -> list[OrtEpDevice]:
    """Providers with their devices."""
    return [OrtEpDevice(ep_metadata={"version": _own_version})]


def has_collective_ops() -> bool:
    """Always False: no operators across machines."""
    return False


def set_seed(seed: int) -> None:
    """Seed the operators that draw random numbers without a seed of their own."""
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the reference evaluator draws from the global generator


def set_default_logger_severity(severity: int) -> None:
    """Check the number as the original does; there is no log to filter."""
    if not 0 <= severity <= 4:
        raise RuntimeError("Invalid logging severity. 0:Verbose, 1:Info, 2:Warning, 3:Error, 4:Fatal")


def set_default_logger_verbosity(verbosity: int) -> None:
    """Accepted: there is no log."""


def set_default_logger_callback(callback: Callable[..., Any]) -> None:
    """Accepted: there is no log."""


def set_global_thread_pool_sizes(intra: int, inter: int) -> None:
    """Accepted: the pool has as many threads as the session that needs most."""


def create_and_register_allocator(info: OrtMemoryInfo, config: OrtArenaCfg | None) -> None:
    """Accepted: memory is planned ahead."""


def create_and_register_allocator_v2(
    provider: str, info: OrtMemoryInfo, options: dict[str, str], config: OrtArenaCfg | None
) -> None:
    """Accepted: memory is planned ahead."""


def enable_telemetry_events() -> None:
    """Accepted: nothing is ever sent."""


def disable_telemetry_events() -> None:
    """Accepted: nothing is ever sent."""


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Accepted: there is nothing to load ahead."""


def print_debug_info() -> None:
    """Print which package answers, for reports of errors."""
    print(f"onnxruntime version: {__version__}\n{get_build_info()}")
