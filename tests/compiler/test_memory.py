"""The memory planner: nothing alive at one time overlaps, and the arena is near the lower bound."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Network, check, program_of

from sardonyx.compiler.memory import ALIGN, lower_bound, place, plan
from sardonyx.compiler.program import Program

buffers = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 8)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(buffers)
def test_live_buffers_do_not_overlap(rows: list[tuple[int, int, int]]) -> None:
    sizes = [size for size, _, _ in rows]
    lives = tuple((first, first + length) for _, first, length in rows)
    offsets, arena = place(sizes, lives)
    for i, (at, size, life) in enumerate(zip(offsets, sizes, lives, strict=True)):
        assert at % ALIGN == 0
        assert at + size <= arena
        for other_at, other_size, other in list(zip(offsets, sizes, lives, strict=True))[:i]:
            apart = at + size <= other_at or other_at + other_size <= at
            assert apart or life[1] < other[0] or other[1] < life[0]
    assert arena >= lower_bound(sizes, lives)


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [640, 1280, 640, 1280, 640]
    lives = tuple((step, step + 1) for step in range(5))
    offsets, arena = place(sizes, lives)
    assert arena == lower_bound(sizes, lives) == 1920
    assert len(set(offsets)) > 1


sizes_and_lives = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=14
)


@settings(max_examples=100, deadline=None)
@given(sizes_and_lives)
def test_a_small_plan_is_near_its_bound(rows: list[tuple[int, int, int]]) -> None:
    sizes = [size * ALIGN for size, _, _ in rows]
    lives = [(first, first + length) for _, first, length in rows]
    assert place(sizes, lives)[1] <= 1.25 * lower_bound(sizes, lives)


def test_where_the_largest_first_is_not_the_best_another_order_is_found() -> None:
    sizes, lives = [size * ALIGN for size in (3, 2, 2, 4)], [(0, 1), (1, 2), (2, 3), (0, 0)]
    assert place(sizes, lives)[1] == lower_bound(sizes, lives)


def chain(*, keep: bool = False, turned: bool = False) -> tuple[Program, onnx.ModelProto]:
    """Two products with something element-wise between them that is no epilogue of the first."""
    net = Network([6, 6])
    first = net.add("Softmax", net.add("MatMul", "x", net.weight(6, 6)))
    other = net.add("Transpose", first, perm=[1, 0]) if turned else first
    second = net.add("Sigmoid", net.add("Add", other, net.add("ReduceMax", "x", axes=[1])))
    rest = [net.add("Neg", first)] if keep else []
    model = net.model(net.add("Softmax", second, axis=0), *rest)
    return program_of(model), model


def test_an_elementwise_result_takes_over_a_dying_input() -> None:
    program, model = chain()
    (pair,) = plan(program).shared.items()
    assert pair[0].size == pair[1].size == 36
    check(model, (6, 6))


@pytest.mark.parametrize("options", [{"keep": True}, {"turned": True}], ids=["read later", "read elsewhere"])
def test_an_input_that_is_read_otherwise_keeps_its_memory(options: dict[str, bool]) -> None:
    program, model = chain(**options)
    assert not plan(program).shared
    check(model, (6, 6))
