"""Builds kernel sources for one ISA and calls them straight from a test, without program, pool or session.

lib = build("matmul_f32.c", isa="x86_64_v3")
Args = struct("matmul_f32.h", "matmul_f32_args")
run(lib, "matmul_f32", Args(a=pointer(a), m=3, ...))
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import mmap
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

SOURCES = Path(__file__).resolve().parents[2] / "sardonyx" / "kernels" / "c"
CACHE = Path(os.environ.get("SARDONYX_TEST_CACHE", Path(tempfile.gettempdir()) / f"sardonyx-tests-{os.getuid()}"))

# Product flags; symbols stay visible here, and one that is missing under -nostdlib is an error.
FLAGS = [
    "-O2",
    "-g0",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-sanitize=undefined",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-command-line-argument",
]
ISAS = {
    "x86_64_v2": ["-target", "x86_64-linux-gnu", "-mcpu=x86_64_v2"],
    "x86_64_v3": ["-target", "x86_64-linux-gnu", "-mcpu=x86_64_v3"],
    "icelake_server": ["-target", "x86_64-linux-gnu", "-mcpu=icelake_server", "-mprefer-vector-width=512"],
    "sapphirerapids": ["-target", "x86_64-linux-gnu", "-mcpu=sapphirerapids", "-mprefer-vector-width=512"],
    "aarch64": ["-target", "aarch64-linux-gnu", "-mcpu=generic"],
    "riscv64_v": ["-target", "riscv64-linux-gnu", "-mcpu=generic_rv64+m+a+f+d+c+v"],
    "wasm32_simd": ["-target", "wasm32-freestanding", "-mcpu=generic+simd128"],
}
# Of a fixture: AVX2, what is below it, and AVX-512 where the processor has it.
ISA_PARAMS = [
    pytest.param(isa, marks=pytest.mark.isa(needed))
    for isa, needed in (("x86_64_v3", "avx2"), ("x86_64_v2", "sse4_2"), ("icelake_server", "avx512_vnni"))
]
LIBC = ctypes.CDLL(None)
GUARD = 4096  # bytes around a scratch buffer that must survive a call
GUARD_BYTE = 0xA5


def compile_kernels(
    *c_files: str | Path,
    isa: str = "x86_64_v3",
    defines: dict[str, object] | None = None,
    flags: Iterable[str] = (),
    kind: str = "so",
    source: str = "",
) -> Path:
    """Compiles kernel sources; the result is cached by content.

    Args:
        c_files: Names inside `kernels/c`, or paths.
        isa: A key of `ISAS`.
        defines: Macros, name to value (None: defined without a value).
        flags: Further compiler flags; they come last, so they win.
        kind: "so" for a shared library, "s" for assembly text, "macros" for the macros defined (one file at a time).
        source: C text compiled along with the files (oracles, test epilogues).

    Returns:
        Path of the compiled file.

    Raises:
        RuntimeError: The compiler failed; its messages are in the text.
    """
    paths = [path if path.is_absolute() else SOURCES / path for path in map(Path, c_files)]
    macros = [f"-D{k}" if v is None else f"-D{k}={v}" for k, v in (defines or {}).items()]
    shape = {"so": ["-fPIC", "-shared", "-nostdlib", "-Wl,-z,defs"], "s": ["-S"], "macros": ["-E", "-dM"]}[kind]
    if isa.startswith("wasm") and kind == "so":
        shape = ["-nostdlib", "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--no-gc-sections"]
    options = [*ISAS[isa], *FLAGS, f"-I{SOURCES}", *macros, *shape, *flags]
    digest = hashlib.sha256(repr((options, source)).encode())
    for path in sorted({*paths, *SOURCES.glob("*.h")}):
        digest.update(f"{path}\0".encode() + path.read_bytes())
    stem = "-".join([path.stem for path in paths] or ["text"])
    output = CACHE / f"{stem}-{isa}-{digest.hexdigest()[:16]}.{kind}"
    if output.exists():
        return output
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if source:
            paths.append(Path(folder) / "text.c")
            paths[-1].write_text(source)
        made = Path(folder) / output.name
        command = [_zig(), "cc", *options, "-o", str(made), *map(str, paths)]
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"), **os.environ}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        if isa.startswith("wasm") and kind == "so" and (wanted := _imports(made.read_bytes())):
            raise RuntimeError(f"undefined symbols: {wanted.decode(errors='replace')}")
        made.replace(output)
    return output


def _imports(module: bytes) -> bytes:
    """The import section of a WebAssembly module, where its linker puts undefined symbols; empty if there is none."""
    at = 8
    while at < len(module):
        section, size, shift = module[at], 0, 0
        while True:  # LEB128
            at += 1
            size |= (module[at] & 0x7F) << shift
            shift += 7
            if module[at] < 0x80:
                break
        if section == 2:
            return module[at + 1 : at + 1 + size]
        at += 1 + size
    return b""


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def build(
    *c_files: str | Path,
    isa: str = "x86_64_v3",
    defines: dict[str, object] | None = None,
    flags: Iterable[str] = (),
    source: str = "",
) -> ctypes.CDLL:
    """`compile_kernels` to a shared library, loaded into this process (once a process)."""
    return _load(compile_kernels(*c_files, isa=isa, defines=defines, flags=flags, source=source))


def _zig() -> str:
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None, "the kernel tests need the ziglang package"
    assert spec.origin is not None
    return str(Path(spec.origin).with_name("zig"))


@functools.cache
def struct(header: str, name: str) -> type[ctypes.Structure]:
    """The ctypes twin of `typedef struct {...} name;` in a header of `kernels/c`.

    Knows int64_t, int32_t, float and sx_epilogue members; anything with a `*` is a pointer (an address).
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", (SOURCES / header).read_text(), flags=re.DOTALL)
    found = re.search(r"typedef struct(?: \w+)?\s*\{([^{}]*)\}\s*" + name + r"\s*;", text)
    assert found, f"{header} has no typedef struct {name}"
    types = {
        "int64_t": ctypes.c_int64,
        "int32_t": ctypes.c_int32,
        "float": ctypes.c_float,
        "sx_epilogue": ctypes.c_void_p,
    }
    fields: list[tuple[str, type]] = []
    for declaration in filter(None, map(str.strip, found[1].split(";"))):
        kind = declaration.removeprefix("const ").split()[0].rstrip("*")
        for declarator in declaration.split(","):
            member = re.findall(r"\w+", declarator)[-1]
            fields.append((member, ctypes.c_void_p if "*" in declarator else types[kind]))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def pointer(array: np.ndarray | None) -> int | None:
    """The address of an array's first element (of a view: where the view begins)."""
    return None if array is None else array.ctypes.data


def function(lib: ctypes.CDLL, name: str) -> int:
    """The address of a function, to put into a function pointer member."""
    return ctypes.cast(getattr(lib, name), ctypes.c_void_p).value or 0


def run(lib: ctypes.CDLL, name: str, args: ctypes.Structure, *, splits: Iterable[tuple[int, int]] | None = None) -> int:
    """Runs all tasks of kernel `name`, or the given ranges in the given order, on this thread.

    The scratch is full of NaNs before each range, and its surroundings are checked after.

    Returns:
        The number of tasks that `<name>_tasks` asked for.
    """
    tasks_of, scratch_of, kernel = (getattr(lib, name + suffix) for suffix in ("_tasks", "_scratch", ""))
    tasks_of.restype = scratch_of.restype = ctypes.c_int64
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    kernel.restype = None
    tasks, size = tasks_of(ctypes.byref(args)), scratch_of(ctypes.byref(args))
    assert tasks >= 0
    assert size >= 0
    memory = np.empty(size + 2 * GUARD + 64, np.uint8)
    start = GUARD + -(memory.ctypes.data + GUARD) % 64
    for lo, hi in [(0, tasks)] if splits is None else splits:
        memory[:] = GUARD_BYTE
        memory[start : start + size] = 0xFF
        kernel(ctypes.byref(args), lo, hi, memory.ctypes.data + start)
        assert (memory[:start] == GUARD_BYTE).all(), f"{name} wrote before its scratch"
        assert (memory[start + size :] == GUARD_BYTE).all(), f"{name} wrote beyond its {size} bytes of scratch"
    return tasks


def at_page_end(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy whose last byte is followed by memory that cannot be read: overreads crash."""
    page = mmap.PAGESIZE
    length = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, length + page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert LIBC.mprotect(ctypes.c_void_p(base + length), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, length - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


def hot_loops(assembly: str, instructions: str = r"fmadd|fmla") -> list[tuple[str, str]]:
    """The innermost loops with such instructions: name of the function, text of the loop."""
    found = []
    for name, body in re.findall(r"^([A-Za-z_]\w*):(.*?)^\.Lfunc_end", assembly, re.MULTILINE | re.DOTALL):
        labels: dict[str, int] = {}
        inner = -1  # start of the last loop that closed
        lines = body.splitlines()
        for i, line in enumerate(lines):
            if label := re.match(r"(\.L\w+):", line):
                labels[label[1]] = i
            jump = re.match(r"\s+(?:j|b\.|cb|tb)\w+\s.*?(\.L\w+)\s*$", line)
            start = labels.get(jump[1], -1) if jump else -1
            if start <= inner:
                continue
            inner = start
            text = "\n".join(lines[start : i + 1])
            if re.search(instructions, text):
                found.append((name, text))
    return found
