"""The elementary functions against numpy in wider precision and mpmath; vector against scalar; one ISA against another.

Errors are in units of the last place of the reference (ULP), counted in subnormal steps below the normal range.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
from kernels import harness

LOOPS = Path(__file__).with_name("elementary_loops.c")
BUILDS = {"x86_64_v3": {}, "x86_64_v2": {"SX_PORTABLE": None}}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module", params=BUILDS)
def loops(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """All loops, built with and without fused multiply-add."""
    return harness.build(LOOPS, isa=request.param, defines=BUILDS[request.param])


def call(lib: ctypes.CDLL, name: str, *operands: np.ndarray, dtype: object = None, singly: bool = False) -> np.ndarray:
    """Runs loop `name` over the operands, in one call or (singly) in one call per element."""
    y = np.empty(operands[0].shape, dtype or operands[0].dtype)
    pointers = [ctypes.c_void_p(v.ctypes.data) for v in operands]
    loop, out, n = getattr(lib, f"loop_{name}"), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(y.size)
    if not singly:
        loop(*pointers, out, n)
    elif len(operands) == 1:
        lib.each_unary(loop, *pointers, ctypes.c_int64(operands[0].itemsize), out, ctypes.c_int64(y.itemsize), n)
    else:
        lib.each_binary(loop, *pointers, out, ctypes.c_int64(y.itemsize), n)
    return y


def ulps(got: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Errors of `got` in ULP; infinite where a NaN, an infinity or the sign of a zero is wrong."""
    info = np.finfo(got.dtype)
    reference = reference.astype(np.longdouble)
    largest = np.longdouble(info.max) + np.ldexp(np.longdouble(1), info.maxexp - info.nmant - 2)
    reference = np.where(np.abs(reference) >= largest, np.copysign(np.inf, reference), reference)
    exponent = np.maximum(np.frexp(reference)[1] - 1, info.minexp)
    error = np.abs(got.astype(np.longdouble) - reference) / np.ldexp(np.longdouble(1), exponent - info.nmant)
    same = (got == reference) | (np.isnan(got) & np.isnan(reference))
    error = np.where(same, 0, np.where(np.isnan(error), np.inf, error)).astype(np.float64)
    return np.where((reference == 0) & (got == 0) & (np.signbit(got) != np.signbit(reference)), np.inf, error)


def check(name: str, got: np.ndarray, reference: np.ndarray, bound: float, *operands: np.ndarray) -> None:
    error = ulps(got, reference)
    worst = int(np.argmax(error))
    at = ", ".join(repr(v[worst]) for v in operands)
    assert error[worst] <= bound, f"{name}({at}) = {got[worst]!r}, not {reference[worst]!r}: {error[worst]:.2f} ULP"


def special(dtype: type) -> np.ndarray:
    info = np.finfo(dtype)
    values = [0.0, 1.0, 0.5, 2.0, 3.0, 1.5, 2.5, 88.72284, 103.97, np.inf, info.max, info.tiny, info.smallest_subnormal]
    return np.array([*values, *np.negative(values), np.nan], dtype)


@functools.cache
def samples(dtype: type, n: int) -> np.ndarray:
    """Random bits (all exponents), dense intervals about 0 and 1, integers, multiples of pi / 2, special values."""
    rng = np.random.default_rng(7)
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    anything = rng.integers(0, np.iinfo(bits).max, n, bits, endpoint=True).view(dtype)
    dense = [rng.uniform(-a, a, n // 8).astype(dtype) for a in (1e-3, 0.1, 1.3, 4.2, 20, 110, 760)]
    near_one = (1 + np.arange(-2000, 2000) * np.finfo(dtype).eps / 2).astype(dtype)
    whole = np.arange(-3000, 3000).astype(dtype)
    quarters = (whole * (np.pi / 2)).astype(dtype)
    return np.concatenate([anything, *dense, near_one, -near_one, whole, quarters, special(dtype)])


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def erf(x: np.ndarray) -> np.ndarray:
    """erf by mpmath, rounded to double."""
    return np.array([float(mpmath.erf(float(v))) for v in x])


def softplus(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0 * x.clip(-1, 1)) + np.log1p(np.exp(-np.abs(x)))


# name: (reference, bound in ULP for float, the same for portable builds, bound for double)
UNARY: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float, float]] = {
    "exp": (np.exp, 1, 1, 1),
    "expm1": (np.expm1, 1.5, 1.5, 2),
    "log": (np.log, 1, 1.25, 0.51),
    "log1p": (np.log1p, 1.5, 1.75, 0.51),
    "sqrt": (np.sqrt, 0.5, 0.5, 0.501),
    "reciprocal": (np.reciprocal, 0.5, 0.5, 0.501),
    "sin": (np.sin, 0.51, 0.51, 1),
    "cos": (np.cos, 0.51, 0.51, 1),
    "tan": (np.tan, 0.51, 0.51, 2.5),
    "asin": (np.arcsin, 0.51, 0.51, 2.5),
    "acos": (np.arccos, 0.51, 0.51, 2),
    "atan": (np.arctan, 0.51, 0.51, 2),
    "sinh": (np.sinh, 0.51, 0.51, 2),
    "cosh": (np.cosh, 0.51, 0.51, 2),
    "tanh": (np.tanh, 1.5, 1.5, 1.5),
    "asinh": (np.arcsinh, 0.51, 0.51, 2),
    "acosh": (np.arccosh, 0.51, 0.51, 2),
    "atanh": (np.arctanh, 0.51, 0.51, 2),
    "sigmoid": (sigmoid, 2, 2, 2),
    "softplus": (softplus, 2, 2, 2),
    "floor": (np.floor, 0, 0, 0),
    "ceil": (np.ceil, 0, 0, 0),
    "trunc": (np.trunc, 0, 0, 0),
    "round_even": (np.rint, 0, 0, 0),
    "fabs": (np.abs, 0, 0, 0),
    "sign": (np.sign, 0, 0, 0),
}


def is_portable(lib: ctypes.CDLL) -> bool:
    return "v2" in lib._name


@pytest.mark.parametrize("name", UNARY)
def test_float_functions_are_within_their_bounds(loops: ctypes.CDLL, name: str) -> None:
    reference, fused, portable, _ = UNARY[name]
    x = samples(np.float32, 500_000)
    got = call(loops, f"{name}_f32", x)
    check(name, got, reference(x.astype(np.float64)), portable if is_portable(loops) else fused, x)


def test_exp_of_negative_numbers_is_exact_or_has_no_subnormal_result(loops: ctypes.CDLL) -> None:
    x = samples(np.float32, 500_000)
    x = x[~(x > 0)]
    got, reference = call(loops, "exp_negative_f32", x), np.exp(x.astype(np.float64))
    kept = ~(x < -87.68)
    check("exp_negative", got[kept], reference[kept], 1, x[kept])
    assert not got[x < -87.69].any(), "results that would be subnormal are 0"


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="needs a long double wider than double")
@pytest.mark.parametrize("name", UNARY)
def test_double_functions_are_within_their_bounds(loops: ctypes.CDLL, name: str) -> None:
    reference, _, _, bound = UNARY[name]
    x = samples(np.float64, 50_000)
    check(name, call(loops, f"{name}_f64", x), reference(x.astype(np.longdouble)), bound, x)


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sin", "cos", "log1p", "expm1", "asin", "atan"])
def test_double_functions_agree_with_mpmath(loops: ctypes.CDLL, name: str) -> None:
    x = samples(np.float64, 1000)[::7]
    limit = {"asin": 1, "sin": np.inf, "cos": np.inf}.get(name, 700)
    x = x[(np.abs(x) < limit) & (x > {"log": 0, "log1p": -1}.get(name, -np.inf))]
    with mpmath.workprec(1300):
        wanted = [getattr(mpmath, name)(mpmath.mpf(float(v))) for v in x]
        high = np.array([float(v) for v in wanted]).astype(np.longdouble)
        reference = high + np.array([float(v - mpmath.mpf(float(h))) for v, h in zip(wanted, high, strict=True)])
    reference = np.where(x == 0, x, reference) if name not in ("exp", "cos") else reference  # mpmath has no -0
    check(name, call(loops, f"{name}_f64", x), reference, 2.5 if name == "asin" else 2, x)


def test_erf_of_floats(loops: ctypes.CDLL) -> None:
    x = samples(np.float32, 1_000)
    x = np.concatenate([x, np.linspace(-4.1, 4.1, 20_001, dtype=np.float32)])
    reference = np.where(x == 0, x, erf(x))
    check("erf", call(loops, "erf_f32", x), reference, 1.25, x)


def test_gelu_errs_by_two_units_of_its_operand_at_most(loops: ctypes.CDLL) -> None:
    """As the composition of erf, which loses what 1 + erf(x) cancels; NaN, infinities and zeros as the composition."""
    x = np.concatenate([samples(np.float32, 1_000), np.linspace(-14, 14, 50_001, dtype=np.float32)])
    got = call(loops, "gelu_f32", x)
    wide = x.astype(np.float64)
    wanted = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
    wanted[x < -6] = 0 * wide[x < -6]  # NaN at -inf, -0 else
    inside = np.isfinite(x)
    error = np.abs(got - wanted)[inside]
    bound = 2 * np.maximum(np.abs(wide[inside]) * 2.0**-24, 2.0**-149)
    assert (error <= bound).all(), (x[inside][error > bound][:5], got[inside][error > bound][:5])
    assert np.array_equal(got[~inside], wanted[~inside].astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(got[x == 0]), np.signbit(x[x == 0]))
    far = (x < -14) & inside
    assert far.any()
    assert not got[far].any()


def test_mish_of_floats(loops: ctypes.CDLL) -> None:
    x = samples(np.float32, 200_000)
    x = x[~((x < -87) & np.isfinite(x))]  # below, tanh(softplus(x)) is subnormal and x times it no better
    wide = x.astype(np.float64)
    e = np.exp(np.minimum(wide, 300))
    reference = wide * (e * (e + 2) / (e * (e + 2) + 2))
    check("mish", call(loops, "mish_f32", x), reference, 5, x)


def operands(dtype: type, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of anything with anything, of moderate numbers, of whole numbers, and all pairs of special values."""
    rng = np.random.default_rng(11)
    x = rng.permutation(samples(dtype, n))
    y = rng.permutation(samples(dtype, n))
    base, power = rng.uniform(0, 8, n).astype(dtype), rng.uniform(-30, 30, n).astype(dtype)
    whole = [rng.integers(-40, 40, n).astype(dtype) for _ in range(2)]
    s, t = np.meshgrid(special(dtype), special(dtype))
    return np.concatenate([x, base, whole[0], s.ravel()]), np.concatenate([y, power, whole[1], t.ravel()])


def test_pow_of_floats(loops: ctypes.CDLL) -> None:
    x, y = operands(np.float32, 200_000)
    check("pow", call(loops, "pow_f32", x, y), np.power(x.astype(np.float64), y.astype(np.float64)), 0.51, x, y)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="needs a long double wider than double")
def test_pow_of_doubles(loops: ctypes.CDLL) -> None:
    x, y = operands(np.float64, 50_000)
    reference = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    check("pow", call(loops, "pow_f64", x, y), reference, 1, x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("fmod", np.fmod),
        ("mod_floor", np.remainder),
        ("copysign", np.copysign),
    ],
)
def test_binary_functions_equal_numpy(loops: ctypes.CDLL, name: str, reference: np.ufunc, dtype: type) -> None:
    x, y = operands(dtype, 20_000)
    suffix = "f32" if dtype is np.float32 else "f64"
    check(name, call(loops, f"{name}_{suffix}", x, y), reference(x, y), 0, x, y)


@pytest.mark.parametrize("suffix", ["f32", "f64"])
def test_max_and_min_pass_nan_and_prefer_the_first(loops: ctypes.CDLL, suffix: str) -> None:
    x, y = operands(np.float32 if suffix == "f32" else np.float64, 20_000)
    for name, reference in (("max", np.maximum), ("min", np.minimum)):
        got = call(loops, f"{name}_{suffix}", x, y)
        assert np.array_equal(got, reference(x, y), equal_nan=True)
        assert np.array_equal(np.signbit(got)[x == y], np.signbit(x)[x == y])


@pytest.mark.parametrize("suffix", ["f32", "f64"])
def test_isnan_and_isinf(loops: ctypes.CDLL, suffix: str) -> None:
    x = samples(np.float32 if suffix == "f32" else np.float64, 1000)
    assert np.array_equal(call(loops, f"isnan_{suffix}", x, dtype=bool), np.isnan(x))
    assert np.array_equal(call(loops, f"isinf_{suffix}", x, dtype=bool), np.isinf(x))


@pytest.mark.parametrize("suffix", ["f32", "f64"])
@pytest.mark.parametrize("name", [*UNARY, "erf"])
def test_vector_and_scalar_code_give_the_same_bits(loops: ctypes.CDLL, name: str, suffix: str) -> None:
    dtype, bits = (np.float32, np.uint32) if suffix == "f32" else (np.float64, np.uint64)
    x = samples(dtype, 4000)
    together, singly = (call(loops, f"{name}_{suffix}", x, singly=one) for one in (False, True))
    same = (together.view(bits) == singly.view(bits)) | (np.isnan(together) & np.isnan(singly))
    assert same.all(), x[~same][:5]


@pytest.mark.parametrize("suffix", ["f32", "f64"])
@pytest.mark.parametrize("name", ["pow", "max", "min"])
def test_vector_and_scalar_code_of_two_operands_give_the_same_bits(loops: ctypes.CDLL, name: str, suffix: str) -> None:
    dtype, bits = (np.float32, np.uint32) if suffix == "f32" else (np.float64, np.uint64)
    x, y = operands(dtype, 4000)
    together, singly = (call(loops, f"{name}_{suffix}", x, y, singly=one) for one in (False, True))
    same = (together.view(bits) == singly.view(bits)) | (np.isnan(together) & np.isnan(singly))
    assert same.all(), (x[~same][:5], y[~same][:5])


# ---- conversions ----------------------------------------------------------------------------------------------------

INTEGERS = ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]


def edges(dtype: type, integer: str) -> np.ndarray:
    """Samples and the neighbours of the ends of an integer type."""
    info = np.iinfo(np.dtype(f"{integer[0]}{int(integer[1:]) // 8}"))
    ends = np.array([info.min, info.max, 0], dtype)
    around = [np.nextafter(ends, to) for to in (np.full(3, np.inf, dtype), np.full(3, -np.inf, dtype))]
    more = [ends - 0.5, ends + 0.5, ends - 1, ends + 1, ends * 2]
    return np.concatenate([samples(dtype, 20_000), ends, *around, *more]).astype(dtype)


@pytest.mark.parametrize("suffix", ["f32", "f64"])
@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_are_truncated_and_saturated(loops: ctypes.CDLL, integer: str, suffix: str) -> None:
    x = edges(np.float32 if suffix == "f32" else np.float64, integer)
    kind = np.dtype(f"{integer[0]}{int(integer[1:]) // 8}")
    info = np.iinfo(kind)
    got = call(loops, f"{suffix}_to_{integer}", x, dtype=kind)
    wanted = [
        0 if np.isnan(v) else info.max if v > 1e30 else info.min if v < -1e30 else min(max(int(v), info.min), info.max)
        for v in x.tolist()
    ]
    assert np.array_equal(got, np.array(wanted, kind))


def test_bool_and_the_integer_fallback_of_64_bits(loops: ctypes.CDLL) -> None:
    x = samples(np.float64, 20_000)
    assert np.array_equal(call(loops, "f64_to_bool", x, dtype=bool), x.astype(bool))
    small = samples(np.float32, 1000)
    assert np.array_equal(call(loops, "f32_to_bool", small, dtype=bool), small.astype(bool))
    x = x[np.abs(x) < 2.0**63]
    assert np.array_equal(call(loops, "truncated_bits_f64", x, dtype=np.int64), x.astype(np.int64))


def test_every_f16_and_bf16_widens_exactly(loops: ctypes.CDLL) -> None:
    h = np.arange(65536, dtype=np.uint16)
    wanted = h.view(np.float16).astype(np.float32)
    for name in ("f16_to_f32", "f16_to_f32_integer"):
        got = call(loops, name, h, dtype=np.float32)
        assert np.array_equal(got.view(np.uint32)[~np.isnan(wanted)], wanted.view(np.uint32)[~np.isnan(wanted)])
        assert np.isnan(got[np.isnan(wanted)]).all()
    quiet = (call(loops, name, h, dtype=np.uint32) for name in ("f16_to_f32", "f16_to_f32_integer"))
    assert np.array_equal(*quiet), "hardware and integers differ, NaN payloads included"
    assert np.array_equal(call(loops, "bf16_to_f32", h, dtype=np.uint32), h.astype(np.uint32) << 16)


def halfway(bits: int) -> np.ndarray:
    """All 16-bit floats with `bits` of mantissa, the points between neighbours, and what lies next to those."""
    h = np.arange(0x7C00 if bits == 10 else 0x7F80, dtype=np.uint16)
    exact = h.view(np.float16) if bits == 10 else (h.astype(np.uint32) << 16).view(np.float32)
    exact = exact.astype(np.float64)
    middle = (exact[1:] + exact[:-1]) / 2
    points = np.concatenate([exact, middle, [65519.0, 65520.0, 65521.0] if bits == 10 else [3.4e38]])
    points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, 0)])
    return np.concatenate([points, -points])


def test_narrowing_to_f16_rounds_once_to_nearest_even(loops: ctypes.CDLL) -> None:
    x = np.concatenate([halfway(10), samples(np.float64, 20_000)])
    got, wanted = call(loops, "f64_to_f16", x, dtype=np.uint16), x.astype(np.float16)
    nan = np.isnan(x)
    assert np.array_equal(got[~nan], wanted.view(np.uint16)[~nan])
    assert np.isnan(got.view(np.float16)[nan]).all()
    f = np.concatenate([x.astype(np.float32), samples(np.float32, 500_000)])
    got, wanted = call(loops, "f32_to_f16", f, dtype=np.uint16), f.astype(np.float16)
    assert np.array_equal(got[~np.isnan(f)], wanted.view(np.uint16)[~np.isnan(f)])
    assert np.array_equal(got, call(loops, "f32_to_f16_integer", f, dtype=np.uint16))


def test_narrowing_to_bf16_rounds_once_to_nearest_even(loops: ctypes.CDLL) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    f = np.concatenate([halfway(7).astype(np.float32), samples(np.float32, 200_000)])
    got, wanted = call(loops, "f32_to_bf16", f, dtype=np.uint16), f.astype(ml_dtypes.bfloat16).view(np.uint16)
    nan = np.isnan(f)
    assert np.array_equal(got[~nan], wanted[~nan])
    assert np.isnan(got.view(ml_dtypes.bfloat16)[nan].astype(np.float32)).all()
    x = halfway(7)
    inside = x[np.abs(x) < 1e38]
    below = np.where(np.abs(inside) > np.abs(inside.astype(np.float32)), 1, -1)
    nearest = call(loops, "f64_to_bf16", inside, dtype=np.uint16)
    # A double just off a tie must follow its own side, which rounding to float first forgets.
    tie = (inside.astype(np.float32) != inside) & ((inside.astype(np.float32).view(np.uint32) & 0xFFFF) == 0x8000)
    up = (inside.astype(np.float32).view(np.uint32) >> 16) + (below > 0)
    assert tie.any()
    assert np.array_equal(nearest[tie], up[tie].astype(np.uint16))


# ---- code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("isa", "register"), [("x86_64_v3", "%ymm"), ("icelake_server", "%zmm"), ("aarch64", ".4s")])
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sigmoid", "gelu", "mish", "sin"])
def test_hot_loops_are_vectorised_without_calls_or_spills(name: str, isa: str, register: str) -> None:
    text = harness.compile_kernels(LOOPS, isa=isa, kind="s").read_text()
    body = text.split(f"\nloop_{name}_f32:", 1)[1].split("func_end", 1)[0]
    lines = [line.split() for line in body.splitlines() if line.startswith("\t")]
    assert register in body or (name == "sin" and ".2d" in body)
    assert not any(words[0] in ("call", "callq", "bl") for words in lines)
    # Outside the loop (callee-saved registers, a constant too many for the register file) the stack may be written.
    loop = body[body.index("Inner Loop Header") :]
    assert "Spill" not in loop


# ---- ISAs -----------------------------------------------------------------------------------------------------------

EMULATED = {
    "aarch64": ["qemu-aarch64"],
    "riscv64": ["qemu-riscv64"],
    "riscv64_v": ["qemu-riscv64", "-cpu", "rv64,v=true,vlen=256"],
}
TARGETS = {
    **harness.ISAS,
    "riscv64": ["-target", "riscv64-linux-gnu", "-mcpu=generic_rv64+m+a+f+d+c"],
    "riscv64_v": [*harness.ISAS["riscv64_v"], "-DSCALAR_CONVERSIONS"],
}


@functools.cache
def static_program(isa: str, *macros: str) -> Path:
    """The loops as a program without libc that writes the results of all of them to standard output."""
    options = [
        *TARGETS[isa],
        *harness.FLAGS,
        f"-I{harness.SOURCES}",
        "-DELEMENTARY_MAIN",
        *macros,
        "-fno-builtin",
        "-nostdlib",
        "-static",
    ]
    digest = hashlib.sha256(repr(options).encode() + LOOPS.read_bytes())
    for header in sorted(harness.SOURCES.glob("*.h")):
        digest.update(header.read_bytes())
    program = harness.CACHE / f"elementary-{isa}-{digest.hexdigest()[:16]}"
    if not program.exists():
        harness.CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(harness.CACHE / "zig"), **os.environ}
        command = [harness._zig(), "cc", *options, str(LOOPS), "-o", str(program)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("macros", [(), ("-DSX_PORTABLE",)], ids=["fused", "portable"])
@pytest.mark.parametrize("isa", EMULATED)
def test_other_isas_give_the_same_bits(isa: str, macros: tuple[str, ...]) -> None:
    emulator = EMULATED[isa]
    if shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is not installed")
    here = "x86_64_v2" if macros else "x86_64_v3"
    wanted = subprocess.run([static_program(here, *macros)], capture_output=True, timeout=60, check=True).stdout
    command = [*emulator, str(static_program(isa, *macros))]
    got = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout
    assert len(wanted) > 1_000_000
    differing = np.flatnonzero(np.frombuffer(got, np.uint8) != np.frombuffer(wanted, np.uint8))
    assert differing.size == 0, f"first difference at byte {differing[0]} of {len(wanted)}, {differing.size} in all"
