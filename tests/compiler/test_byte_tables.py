"""Functions of one byte become tables, where that pays, and give the same bytes."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import onnx
import pytest
from kernels import harness
from programs import program_of

from sardonyx import Session, SessionOptions
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.byte_tables import looked_up, tabulate
from sardonyx.compiler.emit_nest import emit_task
from sardonyx.compiler.emit_program import PRELUDE
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import extent_of, simplify
from sardonyx.compiler.program import Buffer, Nest, Program, Store
from sardonyx.compiler.rounding import rounded_bytes

X, OTHER = Buffer("b1", "uint8", 1 << 20), Buffer("b2", "uint8", 1 << 20)
SCALES, SIGNED = Buffer("b3", "float32", 1 << 20), Buffer("b4", "int8", 1 << 20)


def number(byte: Expr, scale: float = 0.021, zero: int = 3) -> Expr:
    return ex.cast(ex.cast(byte, "int32") - zero, "float32") * scale


def quantized(value: Expr, dtype: str = "uint8", scale: float | Expr = 0.013, zero: int = 5) -> Expr:
    return ex.cast(ex.unary("round_even", value / scale) + ex.constant(zero, "float32"), dtype)


def silu(byte: Expr, dtype: str = "uint8") -> Expr:
    gate = quantized(ex.unary("sigmoid", number(byte)), "uint8", 1 / 255, 0)
    return quantized(number(byte) * number(gate, 1 / 255, 0), dtype)


def loops(*extents: Dim) -> list[Dim]:
    return [ix.variable(f"i{axis}", extent) for axis, extent in enumerate(extents)]


def nest_of(value: Expr, place: Dim, variables: list[Dim], dtype: str = "uint8") -> Nest:
    store = Store(Buffer("b5", dtype, 1 << 20), place, rounded_bytes(value))
    return simplify(Nest(tuple(variables), [store]))


def tabulated(nest: Nest) -> list[Nest]:
    """The steps that `nest` becomes."""
    names = (f"b{number}" for number in itertools.count(6))
    program = Program("p")
    program.main.steps = [nest]
    tabulate(program, lambda prefix: next(names))
    return program.main.steps  # type: ignore[return-value]


def is_lookup(nest: Nest) -> bool:
    return looked_up(nest.stages[0].value) is not None


# ---- Fires, and does not ---------------------------------------------------------------------------------------------


def test_a_costly_function_of_one_byte_becomes_a_table_and_lookups():
    (i,) = loops(5003)
    table, lookups = tabulated(nest_of(silu(ex.load(X, i)), i, [i]))
    assert [extent_of(v) for v in table.outer] == [256]
    assert not list(table.reads())
    assert looked_up(lookups.stages[0].value) == (table.stages[0].buffer, X, i)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_of_both_kinds_have_tables(dtype):
    (i,) = loops(5003)
    steps = tabulated(nest_of(silu(ex.load(SIGNED, i), dtype), i, [i], dtype))
    assert len(steps) == 2
    assert is_lookup(steps[1])


def test_an_unknown_number_of_elements_is_taken_for_large():
    (i,) = loops(ix.symbol("s0"))
    assert len(tabulated(nest_of(silu(ex.load(X, i)), i, [i]))) == 2


def unchanged(value: Expr, *variables: Dim, dtype: str = "uint8") -> bool:
    place: Dim = 0
    for v in variables:
        place = place * extent_of(v) + v
    nest = nest_of(value, place, list(variables), dtype)
    before = nest.stages[0].value.key
    steps = tabulated(nest)
    return len(steps) == 1 and steps[0].stages[0].value.key == before


def test_what_has_no_table():
    i, j = loops(97, 53)
    at = i * 53 + j
    x = ex.load(X, at)
    small = loops(29, 31)
    assert unchanged(ex.maximum(x, 7), i, j), "few operations"
    assert unchanged(quantized(ex.maximum(number(x), 0)), i, j), "a rectifier that changes scale"
    assert unchanged(silu(ex.load(X, small[0] * 31 + small[1])), *small), "few elements"
    assert unchanged(quantized(number(x) + number(ex.load(OTHER, at))), i, j), "two operands"
    assert unchanged(quantized(number(x) + number(ex.load(X, j * 97 + i))), i, j), "two places of one"
    assert unchanged(quantized(ex.unary("sigmoid", number(x)), scale=ex.load(SCALES, j)), i, j), "a scale each channel"
    assert unchanged(ex.guard(ex.compare("lt", ex.index(j), 50), silu(x), 0), i, j), "padding"
    integer = ex.binary("div", ex.constant(1000, "int32"), ex.cast(x, "int32"))
    assert unchanged(quantized(ex.unary("sigmoid", ex.cast(integer, "float32"))), i, j), "division by zero"
    assert unchanged(ex.unary("sigmoid", number(x)), i, j, dtype="float32"), "floats"


def test_a_costly_operand_of_an_addition_is_looked_up_before_it():
    i, j = loops(97, 53)
    value = quantized(number(silu(ex.load(X, i * 64 + j))) + number(ex.load(OTHER, i * 53 + j)))
    table, lookups, addition = tabulated(nest_of(value, i * 53 + j, [i, j]))
    assert is_lookup(lookups)
    assert {buffer.name for buffer in addition.reads()} == {lookups.stages[0].buffer.name, OTHER.name}
    assert not any(node.op == "sigmoid" for node in ex.walk(addition.stages[0].value))
    assert lookups.stages[0].buffer.size == 97 * 53
    assert len(table.outer) == 1


def test_a_costly_operand_that_is_spread_over_rows_stays():
    i, j = loops(97, 53)
    assert unchanged(quantized(number(silu(ex.load(X, j))) + number(ex.load(OTHER, i * 53 + j))), i, j)


# ---- The same bytes --------------------------------------------------------------------------------------------------


class Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "pde"]


def run(steps: list[Nest], isa: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What the steps leave in b5."""
    functions = [emit_task(step) for step in steps]
    texts = [function.text.replace("static void NAME", f"void loop{i}") for i, function in enumerate(functions)]
    defines = {"SX_PORTABLE": None} if isa == "x86_64_v2" else {}
    lib = harness.build("builtins.c", isa=isa, source=PRELUDE + "\n".join(texts), defines=defines)
    held = {step.stages[0].buffer.name: step.stages[0].buffer.dtype for step in steps}
    memory = {name: np.full(1 << 16, 77, dtype) for name, dtype in held.items()} | arrays
    for number_, function in enumerate(functions):
        pointers = (ctypes.c_void_p * 8)(*(memory[buffer.name].ctypes.data for buffer in function.buffers))
        args = Args(ctypes.cast(pointers, ctypes.c_void_p), None, None)
        getattr(lib, f"loop{number_}")(ctypes.byref(args), ctypes.c_int64(0), ctypes.c_int64(int(function.tasks)), None)
    return memory["b5"]


ISAS = ["x86_64_v2", pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2")),
        pytest.param("icelake_server", marks=pytest.mark.isa("avx512vbmi"))]  # fmt: skip


def shapes() -> dict[str, tuple[Dim, Dim, list[Dim], int]]:
    """Offset of x, of y, variables, and how many look-ups are calls rather than loops."""
    (n,) = loops(8192 * 2 + 61)
    i, j = loops(53, 97)
    return {
        "one run": (n, n, [n], 1),
        "rows with a pitch": (i * 131 + j, i * 101 + j + 3, [i, j], 1),
        "transposed": (i * 97 + j, j * 53 + i, [i, j], 0),
        "every second byte": (i * 194 + j * 2, i * 97 + j, [i, j], 0),
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize(("source", "target"), [*itertools.product(("uint8", "int8"), repeat=2)])
def test_lookups_give_the_bytes_of_the_expression(isa, shape, source, target):
    x_place, y_place, variables, calls = shapes()[shape]
    x = np.random.default_rng(3).integers(0, 256, 1 << 16).astype(np.uint8)
    x[:256] = np.arange(256)
    buffer = X if source == "uint8" else SIGNED
    arrays = {buffer.name: x.view(source)}
    nest = nest_of(silu(ex.load(buffer, x_place), target), y_place, variables, target)
    wanted = run([nest], isa, arrays)
    steps = tabulated(nest)
    assert len(steps) == 2
    assert emit_task(steps[1]).text.count("look_up_bytes") == calls
    np.testing.assert_array_equal(run(steps, isa, arrays), wanted)


@pytest.mark.parametrize("isa", ISAS[1:])
def test_functions_of_many_kinds_give_the_same_bytes(isa):
    (i,) = loops(1031)
    x = np.resize(np.arange(256, dtype=np.uint8), 1031)
    byte = ex.load(SIGNED, i)
    hard = ex.maximum(ex.minimum(number(byte) * (1 / 6) + 0.5, 1.0), 0.0)
    for value in (
        quantized(number(byte) * hard), quantized(ex.unary("gelu", number(byte, 0.05)), "int8"),
        quantized(ex.unary("tanh", number(byte)), "int8", 1 / 127, 0), quantized(ex.unary("exp", number(byte, 0.9))),
        quantized(ex.unary("log", number(byte))), quantized(number(byte) / number(byte), "int8"),
        quantized(ex.select(number(byte) < 0, number(byte) * 0.125, number(byte))),
    ):  # fmt: skip
        nest = nest_of(value, i, [i], value.dtype)
        wanted = run([nest], isa, {"b4": x.view(np.int8)})
        steps = tabulated(nest)
        assert len(steps) == 2
        np.testing.assert_array_equal(run(steps, isa, {"b4": x.view(np.int8)}), wanted)


@pytest.mark.parametrize("isa", ISAS[1:])
def test_an_addition_of_looked_up_bytes_gives_the_same_bytes(isa):
    i, j = loops(97, 53)
    value = quantized(number(silu(ex.load(X, i * 64 + j))) + number(ex.load(OTHER, i * 53 + j)))
    rng = np.random.default_rng(7)
    arrays = {name: rng.integers(0, 256, 1 << 16).astype(np.uint8) for name in ("b1", "b2")}
    nest = nest_of(value, i * 53 + j, [i, j])
    wanted = run([nest], isa, arrays)
    np.testing.assert_array_equal(run(tabulated(nest), isa, arrays), wanted)


# ---- Whole models ----------------------------------------------------------------------------------------------------

SILU = """<ir_version: 9, opset_import: ["" : 19]> g (TYPE[N,7,H] x) => (TYPE[N,7,H] y) <
    float s = {0.03}, float t = {0.0039}, float u = {0.02}, TYPE z = {ZERO}, uint8 o = {0}> {
    a = DequantizeLinear(x, s, z)  b = Sigmoid(a)  c = QuantizeLinear(b, t, o)  d = DequantizeLinear(c, t, o)
    e = Mul(a, d)  y = QuantizeLinear(e, u, z) }"""


@pytest.mark.parametrize(("kind", "zero"), [("uint8", 117), ("int8", -9)])
def test_a_session_gives_what_the_standard_says_for_any_size_and_number_of_threads(kind, zero):
    model = onnx.parser.parse_model(SILU.replace("TYPE", kind).replace("ZERO", str(zero)))
    assert sum(map(is_lookup, program_of(model).main.steps)) == 1
    reference = Session(model, SessionOptions(providers=("reference",)))
    sessions = [Session(model, SessionOptions(threads=threads)) for threads in (1, 3)]
    for shape in ((1, 7, 1), (0, 7, 5), (3, 7, 211), (2, 7, 9001)):
        x = np.resize(np.arange(256, dtype=np.uint8), shape).view(kind)
        (wanted,), (one,), (three,) = (session.run({"x": x}) for session in (reference, *sessions))
        assert np.abs(one.astype(int) - wanted.astype(int)).max(initial=0) <= 1  # exp is rounded differently
        np.testing.assert_array_equal(three, one)


def test_a_table_inside_a_branch_belongs_to_the_branch():
    body = """a = DequantizeLinear(x, s, z)  b = Sigmoid(a)  c = QuantizeLinear(b, t, z)"""
    text = f"""<ir_version: 9, opset_import: ["" : 19]> g (uint8[2003] x, bool p) => (uint8[2003] y) <
        float s = {{0.03}}, float t = {{0.0039}}, uint8 z = {{0}}> {{
        y = If(p) <then_branch = f () => (uint8[2003] c) {{ {body} }},
                   else_branch = h () => (uint8[2003] e) {{ e = Identity(x) }}> }}"""
    model = onnx.parser.parse_model(text)
    steps = list(program_of(model).main.walk())
    assert sum(isinstance(step, Nest) and is_lookup(step) for step in steps) == 1
    session = Session(model)
    x = np.resize(np.arange(256, dtype=np.uint8), 2003)
    wanted = np.minimum(np.rint(1 / (1 + np.exp(x * -0.03)) / 0.0039), 255)
    (y,) = session.run({"x": x, "p": np.array(True)})
    assert np.abs(y - wanted).max() <= 1
    np.testing.assert_array_equal(session.run({"x": x, "p": np.array(False)})[0], x)
