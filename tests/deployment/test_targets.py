"""Other processors and numbers of threads give the same bytes as this one; scripts/check_targets.py does all cases."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from deployment.checks import (
    Ready,
    Row,
    Sample,
    check,
    difference,
    emitted,
    official,
    outcome,
    ready,
)
from deployment.models import SAMPLES, floats, numbers, sample

from sardonyx import Session, SessionOptions, errors
from sardonyx.deployment.bundle import make_bundle
from sardonyx.deployment.run_target import MACHINES, Request, link, machine, run, run_on
from sardonyx.deployment.targets import find, host_target
from sardonyx.model import load

# One or two of each family of operators.
CASES = """
    test_add_bcast test_mod_mixed_sign_int32 test_bitshift_left_uint8 test_pow_types_float32_int64
    test_gelu_default_1 test_erf test_sinh test_cast_FLOAT_to_FLOAT16 test_cast_BFLOAT16_to_FLOAT
    test_reduce_log_sum_exp_default_axes_keepdims_random
    test_reduce_prod_negative_axes_keepdims_random test_argmax_default_axis_random_select_last_index
    test_softmax_large_number test_logsoftmax_axis_1 test_cumsum_2d_axis_1
    test_layer_normalization_3d_axis1_epsilon test_batchnorm_epsilon
    test_group_normalization_epsilon test_lrn test_gather_elements_1 test_gathernd_example_float32
    test_scatternd_add test_nonzero_example test_unique_sorted_with_axis_3d
    test_transpose_all_permutations_3 test_slice_neg_steps test_reflect_pad test_tile
    test_conv_with_strides_padding test_convtranspose_pads
    test_averagepool_2d_pads_count_include_pad test_maxpool_2d_dilations test_gemm_all_attributes
    test_matmul_4d test_einsum_batch_matmul test_qlinearmatmul_2D_uint8_float32
    test_dynamicquantizelinear test_lstm_with_peepholes test_gru_seq_length
    test_resize_upsample_scales_cubic test_top_k test_if test_loop11 test_triu_pos
""".split()
EMULATED = ("aarch64", "riscv64_v128", "riscv64_v256")


def small() -> Sample:
    """Matrix products with tails, a softmax and special values through functions: one program of a few kernels."""
    text = """g (float[M,67] x, float[N] s) => (float[M,35] y, float[N] e, float[N] t, float[1] r, int32[N] c) {
        p = MatMul(x, w)  y = Softmax(p)  e = Exp(s)  t = Tanh(s)  r = ReduceSum(s)  c = Cast<to=6>(s)
    }"""
    weights = {"w": floats(67, 35, seed=1)}
    feeds = [{"x": floats(m, 67, seed=m), "s": numbers(101, "float32")} for m in (1, 13)]
    return sample("small", text, weights, *feeds, {"x": floats(3, 67), "s": floats(77)})


@functools.cache
def batch() -> tuple[Ready, ...]:
    return tuple(emitted([*map(official, CASES), small(), SAMPLES["own_activations_of_bytes"]()]))


def bad(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.outcome != "same"]


def test_most_cases_can_run_without_python():
    assert len(batch()) >= 38


@pytest.mark.qemu
@pytest.mark.parametrize("name", EMULATED)
def test_an_emulated_processor_gives_the_same_bytes(name):
    if reason := machine(name).missing():
        pytest.skip(reason)
    assert bad(check(batch(), machine(name))) == []


def test_a_program_gives_what_a_session_gives():
    for item in (small(), official("test_gathernd_example_float32")):
        assert bad(check([ready(item)], machine("host"))) == []


def test_several_programs_whose_work_follows_from_their_inputs_become_one():
    made = [sample(name, "g (float[M,7] x) => (float[M,5] y) { y = MatMul(x, w) }", {"w": floats(7, 5)},
                   {"x": floats(3, 7)}) for name in ("first", "second")]  # fmt: skip
    assert bad(check([ready(item) for item in made], machine("host"))) == []


def test_guarded_memory_and_tasks_in_reverse_give_the_same_bytes():
    assert bad(check(batch(), machine("host"))) == []


def test_nothing_undefined_happens():
    assert bad(check(batch(), MACHINES[f"{host_target().name}+undefined"])) == []


@pytest.mark.parametrize("name", ["skylake_avx512", "icelake_server", "sapphirerapids", "znver4"])
def test_wide_vectors_give_the_same_bytes(name):
    if reason := machine(name).missing():
        pytest.skip(reason)
    assert bad(check(batch(), machine(name))) == []


def test_models_whose_work_depends_on_sizes_share_a_program():
    text = "g (float[N,3] x) => (float[N,2] y) { y = MatMul(x, w) }"
    items = [sample(name, text, {"w": floats(3, 2, seed=5)}, {"x": floats(7, 3)}) for name in ("first", "second")]
    assert bad(check([ready(item) for item in items], machine("host"))) == []


def test_the_number_of_threads_changes_no_byte():
    samples = ("own_attention", "own_convolutions_in_groups", "own_reductions")
    for item in (*(SAMPLES[name]() for name in samples), small()):
        one, *others = (Session(item.model, SessionOptions(threads=n)) for n in (1, 2, 4))
        for feeds in item.feeds:
            want = outcome(one, feeds)
            for session in others:
                got = outcome(session, feeds)
                same = want == got if isinstance(want, str) else not difference(want, got)
                assert same, f"{item.name}, {session.options.threads} threads"


def test_run_on_gives_outputs_or_the_errors_of_a_session():
    model = sample("gather", "g (float[5] x, int64[2] i) => (float[2] y) { y = Gather(x, i) }", {}).model
    x = np.arange(5, dtype=np.float32)
    (y,) = run_on(load(model), "host", {"x": x, "i": np.array([4, -5])})
    assert y.tolist() == [4, 0]
    with pytest.raises(errors.RuntimeFailure, match="out of range"):
        run_on(load(model), "host", {"x": x, "i": np.array([4, 5])})
    with pytest.raises(errors.InputError, match="'i' is missing"):
        run_on(load(model), "host", {"x": x})
    with pytest.raises(ValueError, match="unknown machine"):
        run_on(load(model), "pdp11", {})


def test_the_runner_notices_an_access_beyond_a_block(tmp_path):
    """The guard is what the memory checks rest on, so it is seen to work: the library thinks an input is longer."""
    model = sample("relu", "g (float[40] x) => (float[40] y) { y = Relu(x) }", {}).model
    bundle = make_bundle(load(model), host_target(), tmp_path)
    link([bundle], host_target(), tmp_path / "program")
    short = [Request(0, {"x": np.zeros(size, np.float32)}) for size in (40, 39)]
    whole, beyond = run(tmp_path / "program", machine("host"), [bundle], short)
    assert not whole.crash
    assert "signal 11" in beyond.crash


def test_differences_are_found_and_nans_are_equal():
    a = np.array([1, np.nan, 0], np.float32)
    assert difference([a], [np.array([1, -np.nan, 0], np.float32)]) == ""
    assert "first at 2" in difference([a], [np.array([1, np.nan, -0.0], np.float32)])
    assert "expected float32[3]" in difference([a], [a[:2]])


@pytest.mark.parametrize("target", ["aarch64_macos", "x86_64_windows", "wasm32_simd"])
def test_a_bundle_for_another_system(target, tmp_path):
    bundle = make_bundle(load(official("test_softmax_large_number").model), find(target), tmp_path / "out")
    files = {path.name for path in bundle.folder.iterdir()}
    assert files >= {"model.so", "weights.bin", "program.json", "model.c", "sardonyx.h", "target.json"}
