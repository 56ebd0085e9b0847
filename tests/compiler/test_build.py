"""Compiling and linking: objects once per machine, clear errors, every target in the table."""

import ctypes
import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sardonyx import errors
from sardonyx.compiler import build
from sardonyx.compiler.build import Unit, compile_library, link_executable
from sardonyx.compiler.cache import default
from sardonyx.deployment.targets import TARGETS, find, host_target, parse_cpuinfo
from sardonyx.errors import CompileError

ROOT = Path(__file__).parents[2]
ADD = "int add(int a, int b) { return a + b + OFFSET; }\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SARDONYX_CC", raising=False)


def objects():
    return {e.key for e in default().entries() if e.key.startswith("object-")}


def test_a_library_of_text_and_files_loads_and_runs(tmp_path):
    text = '#include <stdint.h>\n#include "simd.h"\nfloat twice(float x) { return x + x; }\n'
    units = [Unit("add", ADD, (("OFFSET", "5"),)), Unit("twice", text)]
    seen = []
    output = tmp_path / "out.so"
    compile_library(units, host_target(), output, progress=lambda *a: seen.append(a))
    library = ctypes.CDLL(str(output))
    library.twice.restype = ctypes.c_float
    assert library.add(2, 3) == 10
    assert library.twice(ctypes.c_float(1.5)) == 3.0
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert {total for _, total, _ in seen} == {3}
    assert {name for _, _, name in seen} == {"add", "twice", "builtins"}


def test_objects_are_compiled_once(tmp_path):
    target = host_target()
    compile_library([Unit("a", ADD, (("OFFSET", "1"),))], target, tmp_path / "a.so")
    first = objects()
    compile_library([Unit("b", ADD, (("OFFSET", "1"),))], target, tmp_path / "b.so")
    assert objects() == first
    compile_library([Unit("b", ADD, (("OFFSET", "2"),))], target, tmp_path / "b.so")
    assert len(objects() - first) == 1
    compile_library([Unit("a", ADD, (("OFFSET", "1"),))], target, tmp_path / "d.so", debug=True)
    assert len(objects() - first) == 3  # the unit and the builtins, with symbols
    assert ctypes.CDLL(str(tmp_path / "b.so")).add(1, 1) == 4


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    target = host_target()
    units = [Unit("add", ADD, (("OFFSET", "1"),))]
    compile_library(units, target, tmp_path / "a.so")
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "other"))
    compile_library(units, target, tmp_path / "b.so")
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


def test_a_compile_error_names_the_unit_and_shows_the_compiler(tmp_path):
    good = [Unit(f"good{n}", f"int f{n}(void) {{ return {n}; }}") for n in range(3)]
    with pytest.raises(CompileError, match=r"cannot compile broken for") as caught:
        compile_library([*good, Unit("broken", "int f( { return x; }")], host_target(), tmp_path / "x")
    assert caught.value.output.startswith("broken.c:1:")
    assert "error:" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_call_of_libc_is_an_error_when_linking(tmp_path):
    text = 'int puts(const char *); int f(void) { return puts("no"); }'
    with pytest.raises(CompileError, match=r"(?s)cannot link x\.so.*undefined symbol: puts"):
        compile_library([Unit("f", text)], host_target(), tmp_path / "x.so")


def test_memcpy_of_the_compiler_is_our_own(tmp_path):
    text = "struct s { char x[5000]; }; void copy(struct s *a, struct s *b) { *a = *b; }"
    compile_library([Unit("copy", text)], host_target(), tmp_path / "x.so")
    one, two = ctypes.create_string_buffer(5000), ctypes.create_string_buffer(b"abc" * 1600, 5000)
    ctypes.CDLL(str(tmp_path / "x.so")).copy(one, two)
    assert one.raw == two.raw


def test_a_hanging_compiler_is_stopped(tmp_path, monkeypatch):
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    monkeypatch.setenv("SARDONYX_CC", str(script))
    monkeypatch.setattr(build, "TIMEOUT", 0.2)
    begin = time.monotonic()
    with pytest.raises(CompileError, match="no end after"):
        compile_library([Unit("a", "int a;")], host_target(), tmp_path / "x.so", jobs=1)
    assert time.monotonic() - begin < 10


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for a compiler is a shell script")
def test_another_compiler_is_used_and_belongs_to_the_key(tmp_path, monkeypatch):
    before = build.compiler_identity()
    zig = build._find_zig()
    script = tmp_path / "my cc"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n'
        f'case "$*" in *" -c "*) exec {zig} clang -isystem {zig.parent}/lib/include "$@";; esac\n'
        'for last; do :; done; files=; for a; do case "$a" in *.o) files="$files $a";; esac; done\n'
        f'exec {zig} ld.lld -shared $files -o "$last"\n'
    )
    script.chmod(0o700)
    monkeypatch.setenv("SARDONYX_CC", f"'{script}' -DOFFSET=9")
    assert build.compiler_identity() != before
    compile_library([Unit("add", ADD)], host_target(), tmp_path / "x.so", jobs=1)
    assert ctypes.CDLL(str(tmp_path / "x.so")).add(1, 2) == 12
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert all("-DOFFSET=9" in line for line in lines)
    assert "-nostdlib" in lines[-1]
    monkeypatch.setenv("SARDONYX_CC", "no-such-compiler-anywhere")
    with pytest.raises(CompileError, match="no-such-compiler-anywhere"):
        compile_library([Unit("a", "int a;")], host_target(), tmp_path / "x.so")


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_links_a_library(tmp_path, name):
    target = TARGETS[name]
    text = (
        '#include "simd.h"\n'
        "void f(float *c, const float *a) { store16(c, SX_FMA(load16(a), load16(c), set16(2.f))); }\n"
    )
    output = tmp_path / f"x{target.library_suffix}"
    compile_library([Unit("f", text)], target, output)
    head = output.read_bytes()[:4]
    magic = {
        "linux": b"\x7fELF",
        "windows": b"MZ",
        "macos": b"\xcf\xfa\xed\xfe",
        "freestanding": b"\0asm",
    }
    assert head.startswith(magic[target.system])
    assert output.stat().st_size < 60_000


@pytest.mark.parametrize("name", ["x86_64_v3", "aarch64", "riscv64", "x86_64_windows", "aarch64_macos"])
def test_the_pool_compiles_for_every_system(tmp_path, name):
    target = TARGETS[name]
    compile_library([Unit("pool", Path("pool.c"))], target, tmp_path / f"p{target.library_suffix}")


@pytest.mark.skipif(sys.platform != "linux", reason="runs a Linux program")
def test_a_static_program_runs_without_libc(tmp_path):
    text = (
        "__attribute__((force_align_arg_pointer)) void _start(void) {\n"
        '__asm__ volatile("syscall" : : "a"(60L), "D"(42L)); }\n'
    )
    target = TARGETS["x86_64"]
    link_executable([Unit("start", text)], target, tmp_path / "program")
    if host_target().arch == "x86_64":
        os.chmod(tmp_path / "program", stat.S_IRWXU)
        assert subprocess.run([tmp_path / "program"], check=False).returncode == 42
    with pytest.raises(ValueError, match="Linux targets only"):
        link_executable([Unit("start", text)], TARGETS["x86_64_windows"], tmp_path / "program")


def test_targets_are_found_by_name():
    assert find("host") is host_target()
    assert find("x86_64_v3").cpu == "x86_64_v3"
    assert "-mprefer-vector-width=512" in find("icelake_server").flags
    assert find("wasm32_simd").portable
    with pytest.raises(ValueError, match=r"unknown target 'vax'; known are host, aarch64"):
        find("vax")


def test_flags_of_processors_are_read():
    text = "processor: 0\nflags\t\t: fpu avx avx2\nprocessor: 1\nflags\t\t: avx fma\n"
    assert parse_cpuinfo(text) == {"avx"}
    assert parse_cpuinfo("Features : asimd asimddp\n") == {"asimd", "asimddp"}
    assert {"v", "zvfh"} <= parse_cpuinfo("isa\t: rv64imafdcv_zvfh\n")
    assert "v" not in parse_cpuinfo("isa\t: rv64imafdc_zve32x\n")
    assert parse_cpuinfo("") == frozenset()


def test_errors_say_what_where_and_what_to_do():
    error = errors.ShapeError("3 != 4", node="conv1", operator="Conv-11", hint="check the kernel")
    assert str(error) == "node 'conv1' (Conv-11): 3 != 4\nHint: check the kernel"
    assert isinstance(error, errors.SardonyxError)
    assert isinstance(error, ValueError)
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.SardonyxError)
        copy = pickle.loads(pickle.dumps(kind("m", node="n", operator="o", hint="h")))
        assert (type(copy), str(copy)) == (kind, str(kind("m", node="n", operator="o", hint="h")))
    compiled = pickle.loads(pickle.dumps(CompileError("m", output="line 1")))
    assert str(compiled) == "m\nline 1"


def test_a_warm_load_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; from sardonyx.runtime.threads import get_pool; get_pool();"
        "print(*[m for m in ('onnx', 'onnx_ir', 'rich', 'subprocess', 'sardonyx.compiler.build',"
        " 'concurrent.futures') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for warm in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert warm or "sardonyx.compiler.build" in done.stdout
    assert done.stdout.strip() == ""
