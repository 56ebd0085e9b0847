"""C units -> one library: compiled in parallel, each object once per machine, linked without libc.

The compiler is the Clang inside the `ziglang` package, called as `zig clang` and `ld.lld`, past zig's own driver.
Measured on two Zen 3 cores, ten small kernels in a file: `zig cc -c` 94 ms, `zig clang -c` 82 ms, two at once 94 and
77 ms each, so neither waits for the other; linking by `zig cc` 15 ms, by `ld.lld` 8 ms; all the same from an
empty cache. One process for all files (`zig cc a.c b.c`) takes the sum of the times. The code is as good or better:
no frame pointers, and tuned for the CPU that was named, where zig says `-tune-cpu generic`.
macOS has no lld here and Windows needs import libraries, so these are linked by `zig cc`.

SARDONYX_CC may name another compiler that understands Clang's options; it links as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sardonyx.compiler.cache import Cache, default
from sardonyx.deployment.targets import Target
from sardonyx.errors import CompileError

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "SOURCES",
    "Unit",
    "compile_library",
    "compiler_identity",
    "headers_digest",
    "link_executable",
]

SOURCES = Path(__file__).parent.parent / "kernels" / "c"
# Seconds for one unit. The largest generated file takes 5; a compiler that hangs must not hang us.
TIMEOUT = 300
OUTPUT_LIMIT = 6000

# No -O3: it compiles for longer and its code was never faster. Contraction would make bits depend on the target.
_FLAGS = (
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fno-sanitize=undefined",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-ident",
    "-Wno-unused-command-line-argument",
)
_FLAGS_OF = {
    # Without these Clang calls helpers of a run-time library that is not there.
    "aarch64": ("-mno-outline-atomics",),
    "windows": ("-mno-stack-arg-probe",),
}


@dataclass(frozen=True)
class Unit:
    """One C file.

    Attributes:
        name: For progress and messages; need not be unique.
        source: The text, or the path of a file (a relative one lies in `kernels/c`).
        defines: Macros and their values.
    """

    name: str
    source: str | Path
    defines: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """The source itself."""
        if isinstance(self.source, Path):
            return (SOURCES / self.source).read_text()
        return self.source


@dataclass(frozen=True)
class _Compiler:
    """The commands of one compiler, without files."""

    compile: tuple[str, ...]
    zig: str | None
    identity: str


def compile_library(
    units: Sequence[Unit],
    target: Target,
    output: Path,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    debug: bool = False,
) -> None:
    """Compiles units and links them to a shared library that needs nothing but itself.

    Args:
        units: The C files; `builtins.c` (memcpy and the like) is added.
        target: What to compile for.
        output: The library to write.
        jobs: Compilers at one time; as many as there are processors to use, if None.
        progress: Called from this thread after each unit with how many are done, how many there are, and its name.
        debug: Keep symbols and line numbers.

    Raises:
        CompileError: The compiler failed, hung or is missing; `output` of the error is what it printed.
        CacheError: Objects cannot be stored.
    """
    builtins = Unit("builtins", Path("builtins.c"))
    store = default()
    objects = _compile_all([*units, builtins], target, store, jobs, progress, debug)
    _run(_link_command(target, objects, output, store, debug), f"cannot link {output.name}", store)


def link_executable(
    units: Sequence[Unit],
    target: Target,
    output: Path,
    *,
    jobs: int | None = None,
    debug: bool = False,
) -> None:
    """Compiles and links a static program without libc, for tests of other targets under an emulator.

    Args:
        units: The C files; one of them defines `_start`.
        target: A target with ELF files (Linux).
        output: The program to write.
        jobs: As for `compile_library`.
        debug: Keep symbols and line numbers.

    Raises:
        CompileError: The compiler or linker failed.
        CacheError: Objects cannot be stored.
        ValueError: The target is not a Linux.
    """
    if target.system != "linux":
        raise ValueError(f"programs are linked for Linux targets only, not for {target.name}")
    store = default()
    objects = _compile_all([*units, Unit("builtins", Path("builtins.c"))], target, store, jobs, None, debug)
    compiler = _compiler()
    strip = () if debug else ("-s",)
    if compiler.zig:
        command = [compiler.zig, "ld.lld", "-static", "-e", "_start", *strip]
    else:
        command = [*compiler.compile, *target.clang, "-static", "-nostdlib", *strip]
    _run([*command, *map(str, objects), "-o", str(output)], f"cannot link {output.name}", store)


def compiler_identity() -> str:
    """Text that changes when the compiler does: its path, size and time of change. Belongs in every cache key."""
    return _compiler().identity


@cache
def headers_digest() -> str:
    """SHA-256 over all headers of `kernels/c`, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.h")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


# ---------------------------------------------------------------- compiling


def _compile_all(
    units: Sequence[Unit],
    target: Target,
    store: Cache,
    jobs: int | None,
    progress: Callable[[int, int, str], None] | None,
    debug: bool,
) -> list[Path]:
    """Objects of the units, in their order, each from the cache if it is there."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from sardonyx.runtime.threads import available_cpus

    cancelled = threading.Event()
    by_key = {_object_key(unit, target, debug): unit for unit in units}
    paths: dict[str, Path] = {}
    with ThreadPoolExecutor(max(1, jobs or available_cpus())) as pool:
        waiting = {pool.submit(_compile, u, k, target, store, debug, cancelled): k for k, u in by_key.items()}
        try:
            for done in as_completed(waiting):
                key = waiting[done]
                paths[key] = done.result()
                if progress is not None:
                    progress(len(paths), len(by_key), by_key[key].name)
        except BaseException:
            # The first error ends it: compilers that run are stopped, the others never begin.
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [paths[key] for key in by_key]


def _compile(unit: Unit, key: str, target: Target, store: Cache, debug: bool, cancelled: threading.Event) -> Path:
    def make(folder: Path) -> None:
        source = folder / f"{_file_name(unit)}.c"
        source.write_text(unit.text())
        command = [*_compiler().compile, *_compile_flags(target, debug)]
        command += [f"-D{name}={value}" for name, value in unit.defines]
        if debug:  # the source stays beside the object, for debuggers
            command.append(f"-fdebug-prefix-map={folder}={store.root / 'entries' / key}")
        # Names without folders: messages are shorter, and no temporary path gets into an object.
        command += ["-I", str(SOURCES), "-c", source.name, "-o", "unit.o"]
        _run(command, f"cannot compile {unit.name} for {target.name}", store, cancelled, folder)
        if not debug:
            source.unlink()

    return store.publish(key, make) / "unit.o"


def _compile_flags(target: Target, debug: bool) -> list[str]:
    flags = [*target.clang, *_FLAGS, *target.flags]
    flags += _FLAGS_OF.get(target.arch, ())
    flags += _FLAGS_OF.get(target.system, ())
    if target.system not in ("windows", "freestanding"):
        flags.append("-fPIC")
    flags += ["-g", "-fno-omit-frame-pointer"] if debug else ["-g0"]
    return flags


def _object_key(unit: Unit, target: Target, debug: bool) -> str:
    parts = [
        compiler_identity(),
        headers_digest(),
        repr(_compile_flags(target, debug)),
        repr(unit.defines),
        unit.text(),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return f"object-{digest.hexdigest()[:40]}"


def _file_name(unit: Unit) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in unit.name)[:60] or "unit"


def _link_command(target: Target, objects: Sequence[Path], output: Path, store: Cache, debug: bool) -> list[str]:
    strip = () if debug else ("-s",)
    files = [*map(str, objects), "-o", str(output)]
    compiler = _compiler()
    if compiler.zig is None:
        checks = ["-Wl,--no-undefined,-z,noexecstack"] if target.system == "linux" else []
        return [*compiler.compile, *target.clang, "-shared", "-nostdlib", *checks, *strip, *files]
    if target.system == "linux":
        options = ["-shared", "--no-undefined", "--gc-sections", "-z", "noexecstack", "-Bsymbolic"]
        return [compiler.zig, "ld.lld", *options, *strip, *files]
    if target.system == "freestanding":
        return [compiler.zig, "wasm-ld", "--no-entry", "--export-dynamic", *strip, *files]
    triple = ["-target", target.triple, f"-mcpu={target.cpu}"]
    return [compiler.zig, "cc", *triple, "-shared", "-nostdlib", *strip, *files]


# ---------------------------------------------------------------- the compiler


def _compiler() -> _Compiler:
    return _find_compiler(os.environ.get("SARDONYX_CC", ""))


@cache
def _find_compiler(named: str) -> _Compiler:
    import shlex
    import shutil

    if named:
        command = shlex.split(named)
        program = shutil.which(command[0])
        if program is None:
            raise CompileError(f"SARDONYX_CC names {command[0]!r}, which is not a program")
        program = os.path.abspath(program)
        return _Compiler((program, *command[1:]), None, f"{_identity(Path(program))} {command[1:]}")
    zig = _find_zig()
    # Only the headers that belong to the compiler itself: what is compiled here includes nothing else.
    include = zig.parent / "lib" / "include"
    compile_command = (str(zig), "clang", "-nostdinc", "-isystem", str(include))
    return _Compiler(compile_command, str(zig), _identity(zig))


def _find_zig() -> Path:
    from importlib.util import find_spec

    spec = find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in ("zig", "zig.exe"):
            path = Path(folder) / name
            if path.is_file():
                return path
    raise CompileError(
        "there is no C compiler",
        hint="pip install ziglang, or let SARDONYX_CC name a compiler that understands Clang's options",
    )


def _identity(program: Path) -> str:
    facts = os.stat(program)
    return f"{os.path.realpath(program)} {facts.st_size} {facts.st_mtime_ns}"


def _run(
    command: Sequence[str],
    failure: str,
    store: Cache,
    cancelled: threading.Event | None = None,
    folder: Path | None = None,
) -> None:
    """Runs a compiler or linker.

    Raises:
        CompileError: It failed, could not be started, ran out of time, or `cancelled` was set meanwhile.
    """
    import subprocess

    if cancelled is not None and cancelled.is_set():
        raise CompileError(f"{failure}: cancelled")
    own = str(store.folder("zig"))
    environment = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=own, ZIG_LOCAL_CACHE_DIR=own, LC_ALL="C")
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
        )
    except OSError as error:
        raise CompileError(f"{failure}: cannot start {command[0]}: {error.strerror}") from error
    with process, _ended(process):
        output = _output(process, failure, cancelled)
    if process.returncode:
        if len(output) > OUTPUT_LIMIT:
            output = output[:OUTPUT_LIMIT] + "\n..."
        raise CompileError(f"{failure} (exit status {process.returncode})", output=output.strip())


def _output(process: subprocess.Popen[str], failure: str, cancelled: threading.Event | None) -> str:
    import subprocess
    import time

    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return process.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            if cancelled is not None and cancelled.is_set():
                raise CompileError(f"{failure}: cancelled") from None
            if time.monotonic() > deadline:
                raise CompileError(f"{failure}: no end after {TIMEOUT} s") from None


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stops the process, whatever interrupts waiting for it."""
    try:
        yield
    except BaseException:
        process.kill()
        raise
