"""Threads, scratch memory and clock for compiled models: one pool a process, written in C (kernels/c/pool.c).

Python only lends the pool its threads: each spends its life in one call of `sx_pool_worker`, without the interpreter
lock. They are started by the first step of a model that has work to share, and again in a forked child. Idle they spin
for 50 microseconds and then sleep.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sardonyx.compiler import cache
from sardonyx.deployment.targets import host_target
from sardonyx.errors import RuntimeFailure

__all__ = ["Host", "HostMemory", "Pool", "available_cpus", "get_pool"]

MAX_THREADS = 256
_SOURCES = Path(__file__).parent.parent / "kernels" / "c"
CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_START = ctypes.CFUNCTYPE(None)


# ---------------------------------------------------------------- processors


def available_cpus(root: str = "/") -> int:
    """Processors that this process may use: affinity or quota of its control group, whichever is less.

    Args:
        root: Where the file system begins (for tests).
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_quota(root)
    return max(1, min(count, math.ceil(quota)) if quota is not None else count)


def cgroup_quota(root: str = "/") -> float | None:
    """Processors that the control group and those above it grant, None if any number.

    Args:
        root: Where the file system begins.
    """
    quotas = []
    for line in (_read(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        names = controllers.split(",")
        if controllers == "":  # version 2; in a hybrid system the quota is with version 1 below
            mounts, read = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), _quota_v2
        elif "cpu" in names:
            mounts, read = (f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"), _quota_v1
        else:
            continue
        for mount in mounts:
            quotas += [q for folder in _upwards(group) if (q := read(os.path.join(root, mount, folder)))]
    return min(quotas, default=None)


def _upwards(group: str) -> list[str]:
    """The folder of a control group and all above it, relative to the mount.

    A path that leads out of our name space (`/../x`) leaves only the top.
    """
    parts = [part for part in group.split("/") if part]
    if ".." in parts:
        return [""]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _quota_v2(folder: str) -> float | None:
    words = (_read(os.path.join(folder, "cpu.max")) or "").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: str) -> float | None:
    quota = _read(os.path.join(folder, "cpu.cfs_quota_us"))
    period = _read(os.path.join(folder, "cpu.cfs_period_us"))
    return _ratio(quota or "", period or "")


def _ratio(quota: str, period: str) -> float | None:
    """`max` and -1 mean any number."""
    try:
        value = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _read(path: str) -> str | None:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return None


# ---------------------------------------------------------------- the pool


class HostMemory(NamedTuple):
    """What a host holds, in bytes and blocks."""

    live: int
    cached: int
    scratch: int
    live_blocks: int
    cached_blocks: int


class Pool:
    """The threads of this process.

    Use `get_pool`: a second pool would compete with the first for the same processors.

    Args:
        threads: The most threads that run at one time, callers included.
    """

    def __init__(self, threads: int) -> None:
        self._library = _load()
        self._lock = threading.Lock()
        self._hosts: weakref.WeakSet[Host] = weakref.WeakSet()
        self._started = 0
        self._starter = _START(self._start)
        self._threads = threads
        self._system = _system(self._starter)
        self._pool = self._library.sx_pool_create(self._system, threads)
        if not self._pool:
            raise RuntimeFailure("no memory for the thread pool")

    @property
    def threads(self) -> int:
        """The most threads that run at one time, callers included."""
        return self._threads

    @property
    def workers(self) -> int:
        """Worker threads that are running now: 0 until there was work to share."""
        return int(self._library.sx_pool_workers(self._pool))

    def host(self, threads: int | None = None) -> Host:
        """A host for one session context.

        Args:
            threads: The most threads one of its steps may use; the pool's number if None.

        Raises:
            RuntimeFailure: There is no memory.
        """
        host = Host(self, threads or self._threads)
        self._hosts.add(host)
        return host

    def direct_method(self, functions: int) -> int:
        """The address of what describes a direct run to the interpreter; see `runtime/direct.py`."""
        return self._library.sx_direct_method(functions)

    def _grow(self, threads: int) -> None:
        with self._lock:
            if threads <= self._threads:
                return
            self._threads = threads
            self._library.sx_pool_set_limit(self._pool, threads)
            if self._started:
                self._lend()

    def _start(self) -> None:
        """Called from C, by the first step that has work to share."""
        with self._lock:
            self._lend()

    def _lend(self) -> None:
        while self._started < self._threads - 1:
            name = f"sardonyx-{self._started + 1}"
            thread = threading.Thread(target=self._library.sx_pool_worker, args=(self._pool,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had: those that there are do the work
                return
            self._started += 1

    def _forked(self) -> None:
        """In a forked child: the threads are gone, and with them whatever they were doing."""
        self._lock = threading.Lock()
        self._started = 0
        self._library.sx_pool_reset(self._pool)
        for host in list(self._hosts):
            self._library.sx_host_reset(host.address)

    def _stop(self) -> None:
        """Ends the workers (for tests; a process just exits)."""
        self._library.sx_pool_stop(self._pool)


class Host:
    """What one session context hands to compiled code: an `sx_host`.

    One thread uses it at a time. Blocks that compiled code allocated and Python kept must be released before the
    host is closed, so whoever keeps one keeps the host.

    Attributes:
        address: Of the `sx_host`.
        pool: Its pool.
    """

    def __init__(self, pool: Pool, threads: int) -> None:
        self.pool = pool
        self._library = pool._library
        self._call: object = None
        self.address: int = self._library.sx_host_create(pool._pool, threads)
        if not self.address:
            raise RuntimeFailure("no memory for a host")
        self._finalizer = weakref.finalize(self, self._library.sx_host_destroy, self.address)
        # At exit other threads may still be running a model, and the system takes the memory back anyway.
        self._finalizer.atexit = False

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.address)

    def set_threads(self, threads: int) -> None:
        """The most threads one step may use (the pool's number is the limit all the same)."""
        self._library.sx_host_set_threads(self.address, threads)

    def set_call(self, call: Callable[[int, int], int] | None) -> None:
        """Sets what runs program steps outside native code.

        Args:
            call: Gets the address of the `sx_call` under way and the number of the step, returns 0 when it
                succeeded. It must not raise; if it does, the step counts as failed. None: every step fails.
        """
        if call is None:
            self._library.sx_host_set_call(self.address, None)
            self._call = None
            return

        def enter(_host: int, run: int, step: int) -> int:
            try:
                return call(run, step)
            except Exception:  # nothing may pass through C; whoever wants the error keeps it
                return 1

        kept = CALL(enter)
        self._library.sx_host_set_call(self.address, ctypes.cast(kept, ctypes.c_void_p))
        self._call = kept

    def failed(self) -> bool:
        """Whether since the last question a step could not run for want of memory: the results are worthless."""
        return bool(self._library.sx_host_failed(self.address))

    def release(self, memory: int) -> None:
        """Gives back a block that compiled code allocated and handed out."""
        self._library.sx_host_release(self.address, memory)

    def trim(self) -> None:
        """Gives cached and scratch memory back to the system."""
        self._library.sx_host_trim(self.address)

    def memory(self) -> HostMemory:
        """What it holds now."""
        counts = (ctypes.c_int64 * 5)()
        self._library.sx_host_memory(self.address, counts)
        return HostMemory(*counts)

    def close(self) -> None:
        """Frees it; it cannot be used any more."""
        self._finalizer()
        self.address = 0


_pool: Pool | None = None
_pool_lock = threading.Lock()


def get_pool(threads: int | None = None) -> Pool:
    """The pool of this process, made at the first call.

    Args:
        threads: It shall run at least this many threads at one time, callers included; if None as many as there are
            processors to use. A pool never shrinks: to use fewer threads, say so to the host.

    Raises:
        ValueError: `threads` is not in 1..256.
        CompileError: The pool's library had to be compiled and could not be.
        CacheError: The cache is unsafe or cannot be written.
    """
    global _pool
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must be in 1..{MAX_THREADS}, not {threads}")
    wanted = threads or min(MAX_THREADS, available_cpus())
    with _pool_lock:
        if _pool is None:
            _pool = Pool(wanted)
    _pool._grow(wanted)
    return _pool


def _after_fork() -> None:
    global _pool_lock
    _pool_lock = threading.Lock()
    if _pool is not None:
        _pool._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------- its library


def _library_path() -> Path:
    """The compiled pool, from the cache or compiled now (0.2 s)."""
    target = host_target()
    digest = hashlib.sha256(target.name.encode())
    for name in ("pool.c", "direct.c", "sardonyx.h", "builtins.c"):
        digest.update((_SOURCES / name).read_bytes())
    key = f"pool-{digest.hexdigest()[:40]}"
    file = f"pool{target.library_suffix}"
    store = cache.default()
    entry = store.entry(key)
    if entry is None:
        from sardonyx.compiler.build import Unit, compile_library

        def make(folder: Path) -> None:
            compile_library([Unit(name, Path(f"{name}.c")) for name in ("pool", "direct")], target, folder / file)

        entry = store.publish(key, make)
    return entry / file


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library_path()))
    pointer, int32 = ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "sx_pool_create": (pointer, [pointer, int32]),
        "sx_pool_set_limit": (None, [pointer, int32]),
        "sx_pool_workers": (int32, [pointer]),
        "sx_pool_worker": (None, [pointer]),
        "sx_pool_stop": (None, [pointer]),
        "sx_pool_reset": (None, [pointer]),
        "sx_host_create": (pointer, [pointer, int32]),
        "sx_host_set_call": (None, [pointer, pointer]),
        "sx_host_set_threads": (None, [pointer, int32]),
        "sx_host_failed": (int32, [pointer]),
        "sx_host_reset": (None, [pointer]),
        "sx_host_release": (None, [pointer, pointer]),
        "sx_host_trim": (None, [pointer]),
        "sx_host_memory": (None, [pointer, pointer]),
        "sx_host_destroy": (None, [pointer]),
        "sx_direct_method": (pointer, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _system(start: object) -> ctypes.Array:
    """The addresses that `sx_system` in pool.c wants, in its order."""
    if sys.platform == "win32":
        synch = ctypes.WinDLL("api-ms-win-core-synch-l1-2-0")
        kernel, crt = ctypes.WinDLL("kernel32"), ctypes.CDLL("ucrtbase")
        functions = [
            synch.WaitOnAddress,
            synch.WakeByAddressAll,
            crt._aligned_malloc,
            crt._aligned_free,
            kernel.QueryPerformanceCounter,
            kernel.QueryPerformanceFrequency,
            kernel.SwitchToThread,
        ]
    else:
        libc = ctypes.CDLL(None)
        names = ["posix_memalign", "free", "clock_gettime", "sched_yield"]
        linux = ["syscall", "sched_getcpu", "sched_getaffinity", "sched_setaffinity"]
        waits = ["__ulock_wait", "__ulock_wake"] if sys.platform == "darwin" else linux
        functions = [getattr(libc, name) for name in waits + names]
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in [*functions, start]]
    return (ctypes.c_void_p * len(addresses))(*addresses)
