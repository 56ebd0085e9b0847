"""The processors and systems that Sardonyx compiles for: one table of rows.

A row holds what a compiler must be told. The names of CPUs come in two spellings, the one of `zig cc` (`cpu`)
and the one of Clang itself (`clang`); compiler/build.py compiles with the second and links by zig where it must.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

__all__ = ["TARGETS", "Target", "find", "host_target"]


@dataclass(frozen=True)
class Target:
    """One processor with one operating system.

    Attributes:
        name: The name users say, such as `x86_64_v3` or `aarch64_dotprod_macos`.
        triple: As `zig cc -target` spells it. Linux rows say musl, where zig can link static programs too;
            a library that needs no libc loads beside glibc just the same.
        cpu: As `zig cc -mcpu` spells it.
        clang: The same two facts as options of Clang.
        flags: Further options of the compiler.
        portable: Without fused multiply-add: kernels multiply, then add (SX_PORTABLE).
        needs: Flags of /proc/cpuinfo that a processor must have to run it.
    """

    name: str
    triple: str
    cpu: str
    clang: tuple[str, ...]
    flags: tuple[str, ...] = ()
    portable: bool = False
    needs: frozenset[str] = frozenset()

    @property
    def arch(self) -> str:
        """`x86_64`, `aarch64`, `riscv64` or `wasm32`."""
        return self.triple.partition("-")[0]

    @property
    def system(self) -> str:
        """`linux`, `macos`, `windows` or `freestanding`."""
        return self.triple.split("-")[1]

    @property
    def library_suffix(self) -> str:
        """How the file name of a library ends."""
        return {"macos": ".dylib", "windows": ".dll", "freestanding": ".wasm"}.get(self.system, ".so")


class _Cpu(NamedTuple):
    name: str
    arch: str
    cpu: str
    clang: tuple[str, ...]
    needs: str
    flags: tuple[str, ...] = ()
    portable: bool = False


# Within an architecture from the least to the most demanding: the last one that fits the host is chosen.
_V2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
_V3 = f"{_V2} avx avx2 bmi1 bmi2 f16c fma abm movbe"
_SKYLAKE = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl adx"
_ICELAKE = (
    f"{_SKYLAKE} avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512ifma avx512_vpopcntdq gfni vaes vpclmulqdq"
)
_SAPPHIRE = f"{_ICELAKE} avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_int8"
# Without this Clang splits 512-bit vectors for Intel into halves and spills them: 2.5 times slower.
_WIDE = ("-mprefer-vector-width=512",)
_SOFT = ("-DSX_PORTABLE",)
_CPUS = (
    _Cpu("x86_64", "x86_64", "x86_64", ("-march=x86-64",), "", _SOFT, portable=True),
    _Cpu("x86_64_v2", "x86_64", "x86_64_v2", ("-march=x86-64-v2",), _V2, _SOFT, portable=True),
    _Cpu("x86_64_v3", "x86_64", "x86_64_v3", ("-march=x86-64-v3",), _V3),
    _Cpu("skylake_avx512", "x86_64", "skylake_avx512", ("-march=skylake-avx512",), _SKYLAKE, _WIDE),
    _Cpu("icelake_server", "x86_64", "icelake_server", ("-march=icelake-server",), _ICELAKE, _WIDE),
    _Cpu("sapphirerapids", "x86_64", "sapphirerapids", ("-march=sapphirerapids",), _SAPPHIRE, _WIDE),
    _Cpu("znver4", "x86_64", "znver4", ("-march=znver4",), f"{_ICELAKE} avx512_bf16 clzero"),
    _Cpu("aarch64", "aarch64", "generic", ("-march=armv8-a",), ""),
    _Cpu(
        "aarch64_dotprod",
        "aarch64",
        "generic+dotprod+fullfp16",
        ("-march=armv8-a+dotprod+fp16",),
        "asimddp asimdhp",
    ),
    _Cpu(
        "aarch64_i8mm",
        "aarch64",
        "generic+dotprod+i8mm+fullfp16",
        ("-march=armv8-a+dotprod+i8mm+fp16",),
        "asimddp asimdhp i8mm",
    ),
    _Cpu("riscv64", "riscv64", "generic_rv64+m+a+f+d+c", ("-march=rv64imafdc", "-mabi=lp64d"), ""),
    _Cpu(
        "riscv64_v",
        "riscv64",
        "generic_rv64+m+a+f+d+c+v",
        ("-march=rv64imafdcv", "-mabi=lp64d"),
        "v",
    ),
    _Cpu("wasm32", "wasm32", "generic", (), "", _SOFT, portable=True),
    _Cpu("wasm32_simd", "wasm32", "generic+simd128", ("-msimd128",), "", _SOFT, portable=True),
)
# Ending of the name, zig's triple, Clang's, architectures.
_SYSTEMS = (
    ("", "linux-musl", "unknown-linux-musl", ("x86_64", "aarch64", "riscv64")),
    ("_macos", "macos", "apple-macosx11.0", ("x86_64", "aarch64")),
    ("_windows", "windows-gnu", "w64-windows-gnu", ("x86_64", "aarch64")),
    ("", "freestanding", "unknown-unknown", ("wasm32",)),
)


def _rows() -> dict[str, Target]:
    rows = {}
    for ending, zig, clang, archs in _SYSTEMS:
        for cpu in _CPUS:
            if cpu.arch not in archs:
                continue
            arch = "arm64" if (cpu.arch, zig) == ("aarch64", "macos") else cpu.arch
            rows[cpu.name + ending] = Target(
                name=cpu.name + ending,
                triple=f"{cpu.arch}-{zig}",
                cpu=cpu.cpu,
                clang=(f"--target={arch}-{clang}", *cpu.clang),
                flags=cpu.flags,
                portable=cpu.portable,
                needs=frozenset(cpu.needs.split()),
            )
    return rows


TARGETS: dict[str, Target] = _rows()


def find(name: str) -> Target:
    """The row of that name; `host` is the one of this machine.

    Raises:
        ValueError: No such row; the message lists the names.
    """
    if name == "host":
        return host_target()
    try:
        return TARGETS[name]
    except KeyError:
        known = ", ".join(sorted(TARGETS))
        raise ValueError(f"unknown target {name!r}; known are host, {known}") from None


@cache
def host_target() -> Target:
    """The most demanding row that this machine can run.

    Raises:
        ValueError: No row fits this kind of machine.
    """
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")
    flags = cpu_flags()
    fitting = [row for row in TARGETS.values() if (row.arch, row.system) == (arch, system) and row.needs <= flags]
    if not fitting:
        raise ValueError(f"no target fits this machine ({arch}, {system})")
    return fitting[-1]


@cache
def cpu_flags() -> frozenset[str]:
    """What this processor can do, in the words of Linux's /proc/cpuinfo; empty when unknown."""
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")
    if system == "linux":
        try:
            # The first processors are enough, and all of a large machine cost milliseconds to read.
            with open("/proc/cpuinfo", errors="replace") as file:
                flags = parse_cpuinfo(file.read(65536).rpartition("\n")[0])
        except OSError:
            return frozenset()
        return flags if "amx_tile" not in flags or _tiles_allowed() else flags - {"amx_tile", "amx_int8", "amx_bf16"}
    if system == "macos":
        return _macos_flags()
    return _windows_flags()


def _tiles_allowed() -> bool:
    """Asks Linux for the registers of matrix tiles (AMX); a process may use them only with its permission.

    It holds for all threads of the process and its forks. Linux refuses it before 5.16, under some hypervisors and
    sandboxes, and where a thread has a signal stack too small for the state.
    """
    import ctypes

    arch_prctl, req_xcomp_perm, tile_data = 158, 0x1023, 18
    try:
        return ctypes.CDLL(None).syscall(arch_prctl, req_xcomp_perm, tile_data) == 0
    except (OSError, AttributeError):
        return False


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Flags that every processor of a /proc/cpuinfo has (cores of one machine may differ)."""
    sets = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key in ("flags", "features"):
            sets.append(frozenset(value.split()))
        elif key == "isa":
            # rv64imafdcv_zicsr: single letters follow the width, longer names follow underscores.
            letters, *names = value.strip().lower().split("_")
            sets.append(frozenset(letters[4:]) | frozenset(names))
    return frozenset.intersection(*sets) if sets else frozenset()


def _macos_flags() -> frozenset[str]:
    import subprocess

    wanted = {
        "hw.optional.arm.FEAT_DotProd": ("asimddp",),
        "hw.optional.arm.FEAT_FP16": ("asimdhp",),
        "hw.optional.arm.FEAT_I8MM": ("i8mm",),
        "hw.optional.sse4_2": tuple(_V2.split()),
        "hw.optional.avx2_0": tuple(_V3.split()),
        "hw.optional.avx512vl": tuple(_SKYLAKE.split()),
        "hw.optional.avx512vbmi": tuple(_ICELAKE.split()),
    }
    flags: set[str] = set()
    for name, implied in wanted.items():
        try:
            answer = subprocess.run(
                ["/usr/sbin/sysctl", "-n", name],
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return frozenset()
        if answer.stdout.strip() == "1":
            flags.update(implied)
    return frozenset(flags)


def _windows_flags() -> frozenset[str]:
    import ctypes

    present = getattr(ctypes, "windll").kernel32.IsProcessorFeaturePresent  # noqa: B009 (absent elsewhere)
    # PF_SSE4_2, PF_AVX2, PF_ARM_V82_DP. PF_AVX512F says nothing of its extensions, so such machines stay at v3.
    flags: set[str] = set()
    for feature, implied in ((38, _V2), (40, _V3), (43, "asimddp asimdhp")):
        if present(feature):
            flags.update(implied.split())
    return frozenset(flags)
