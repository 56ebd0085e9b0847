"""The catalog of kernels against the files: complete, compiling everywhere, with the tiles it says, in registers."""

from __future__ import annotations

import re

import pytest
from kernels import harness

from sardonyx.kernels.catalog import KERNELS, SUPPORT

PORTABLE = ("x86_64_v2", "wasm32_simd")
HOT = [name for name, row in KERNELS.items() if row.hot]
STACK = r"%[er][sb]p|\[(sp|x29)"


def defines(isa: str) -> dict[str, object]:
    return {"SX_PORTABLE": None} if isa in PORTABLE else {}


def test_every_file_has_a_row_and_every_row_its_files():
    files = {path.stem for path in harness.SOURCES.glob("*.c")}
    assert files == KERNELS.keys() | SUPPORT.keys()
    assert all((harness.SOURCES / f"{name}.h").exists() for name in KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_a_header_declares_what_programs_call(name):
    text = (harness.SOURCES / f"{name}.h").read_text()
    for include in re.findall(r'#include "(\w+\.h)"', text):
        text += (harness.SOURCES / include).read_text()
    if "INTERFACE(" in text:
        return  # declared by a macro
    assert re.search(rf"}} {name}_args;|\b{name}_args;", text)
    wanted = (name,) if KERNELS[name].serial else (name, f"{name}_tasks", f"{name}_scratch")
    for function in wanted:
        assert re.search(rf"\b{function}\(", text), function


@pytest.mark.parametrize("name", [name for name, row in KERNELS.items() if row.tile])
def test_the_tile_is_the_one_in_the_catalog(name):
    row = KERNELS[name]
    for isa, values in row.tiles.items():
        text = harness.compile_kernels(row.file, isa=isa, kind="macros").read_text()
        found = {key: int(value) for key, value in re.findall(r"#define (\w+) (\d+)\s*(?://.*)?$", text, re.MULTILINE)}
        assert tuple(found[macro] for macro in row.tile) == values, isa


@pytest.mark.parametrize("isa", ["x86_64_v3", "icelake_server"])
@pytest.mark.parametrize("name", HOT)
def test_the_hot_loop_has_no_stack_references(name, isa):
    row = KERNELS[name]
    loops = harness.hot_loops(harness.compile_kernels(row.file, isa=isa, kind="s").read_text(), row.hot)
    loops = [found for found in loops if found[0].startswith(row.hot_in)]
    assert loops, f"no loop with {row.hot}"
    function, loop = max(loops, key=lambda found: len(re.findall(row.hot, found[1])))
    assert not re.search(STACK, loop), f"{function}:\n{loop}"


@pytest.mark.long
@pytest.mark.parametrize("isa", harness.ISAS)
@pytest.mark.parametrize("name", [*KERNELS, "peak", "pool"])
def test_it_compiles_alone_without_undefined_symbols(name, isa):
    if name == "pool" and isa.startswith("wasm"):
        pytest.skip("threads of WebAssembly are another host's")
    harness.compile_kernels(f"{name}.c", "builtins.c", isa=isa, defines=defines(isa))


def test_a_missing_symbol_is_noticed():
    source = "void absent(void); void present(void) { absent(); }"
    for isa in ("x86_64_v3", "wasm32_simd"):
        with pytest.raises(RuntimeError, match="absent"):
            harness.compile_kernels(isa=isa, source=source)
