"""The memory planner: nothing alive at one time overlaps, and the arena is near the lower bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sardonyx.compiler.memory import ALIGN, lower_bound, place

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
