"""What the machine can do at best: fused multiply-adds and bytes a second, by kernels/c/peak.c.

The kernel is compiled like any other, for this machine, and run on the pool's threads; the best of several short jobs
counts, since whatever disturbs a job only makes it slower.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.compiler import cache
from sardonyx.compiler.build import SOURCES, Unit, compile_library, compiler_identity
from sardonyx.deployment.targets import Target, find, host_target
from sardonyx.runtime.threads import Host, get_pool

__all__ = ["Peak", "measure_peak"]

JOBS = 12  # the best of so many
JOB_NANOSECONDS = 4_000_000
L2_BYTES = 256 << 10  # of each thread: within the second level everywhere, beyond the first
DRAM_BYTES = 96 << 20  # of each thread: beyond the last level of what is known


@dataclass(frozen=True)
class Peak:
    """The best that `threads` threads reach together.

    Attributes:
        threads: How many.
        gflops: 1e9 float32 operations a second; a fused multiply-add is two.
        l2: 1e9 bytes a second, read from what each thread keeps in its second-level cache.
        dram: 1e9 bytes a second, read from memory.
    """

    threads: int
    gflops: float
    l2: float
    dram: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


class _Arguments(ctypes.Structure):
    _fields_ = (
        ("rounds", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("floats", ctypes.c_int64),
    )


def measure_peak(threads: int, *, jobs: int = JOBS, dram_bytes: int = DRAM_BYTES, target: str | None = None) -> Peak:
    """Measure, in about a second.

    Args:
        threads: How many threads work at once.
        jobs: The best of so many jobs counts.
        dram_bytes: What each thread reads to measure memory.
        target: Whose instructions to use; None: this machine's.

    Raises:
        CompileError: The kernel could not be compiled.
    """
    library = _library(find(target) if target else host_target())
    host = get_pool(threads).host(threads)
    try:
        arguments = _Arguments(1, 0, 0, 0)
        sums = np.zeros(threads, np.float32)
        arguments.sums = sums.ctypes.data
        flops = _rate(library, host, "peak_fma", arguments, threads, jobs) * library.peak_fma_flops()
        rates = []
        for size in (L2_BYTES, dram_bytes):
            data = np.zeros((threads, size // 4), np.float32)
            data += 1.0  # pages that nobody has written are all the same one
            arguments.data, arguments.floats = data.ctypes.data, size // 4
            rates.append(_rate(library, host, "peak_read", arguments, threads, jobs) * size)
    finally:
        host.close()
    return Peak(threads, flops, *rates)


def _rate(library: ctypes.CDLL, host: Host, task: str, arguments: _Arguments, threads: int, jobs: int) -> float:
    """Rounds a nanosecond, of all threads together, in the best job."""
    function = ctypes.cast(getattr(library, task), ctypes.c_void_p)

    def run(rounds: int) -> int:
        arguments.rounds = rounds
        return max(1, library.peak_time(host, function, ctypes.byref(arguments), threads))

    rounds = 1
    while (taken := run(rounds)) < JOB_NANOSECONDS // 4:
        rounds *= 2
    rounds = max(1, rounds * JOB_NANOSECONDS // taken)
    return threads * rounds / min(run(rounds) for _ in range(jobs))


def _library(target: Target) -> ctypes.CDLL:
    """The compiled kernel, from the cache or compiled now."""
    digest = hashlib.sha256(f"{target.name} {compiler_identity()}".encode())
    for name in ("peak.c", "simd.h", "sardonyx.h", "builtins.c"):
        digest.update((SOURCES / name).read_bytes())
    file = f"peak{target.library_suffix}"

    def make(folder: Path) -> None:
        compile_library([Unit("peak", Path("peak.c"))], target, folder / file)

    folder = cache.default().publish(f"peak-{digest.hexdigest()[:40]}", make)
    library = ctypes.CDLL(str(folder / file))
    library.peak_time.restype = library.peak_fma_flops.restype = ctypes.c_int64
    library.peak_time.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return library
