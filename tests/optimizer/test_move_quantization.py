"""What moves data moves bytes; weights are quantised once; quantising again to the same numbers vanishes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.optimizer.quantized_graphs import F32, Quantised, check, operators, rewritten

MOVES = {
    "Reshape": lambda g, x: g.add("Reshape", x, g.constant(np.array([-1, 7]))),
    "Transpose": lambda g, x: g.add("Transpose", x, perm=[2, 0, 3, 1]),
    "Flatten": lambda g, x: g.add("Flatten", x, axis=2),
    "Slice": lambda g, x: g.add("Slice", x, *(g.constant(np.array([i])) for i in (1, 3, 2))),
    "Gather": lambda g, x: g.add("Gather", x, g.constant(np.array([2, 0, 2])), axis=1),
    "Expand": lambda g, x: g.add("Expand", x, g.constant(np.array([2, 1, 3, 1, 1]))),
    "MaxPool": lambda g, x: g.add("MaxPool", x, kernel_shape=[2, 3], pads=[1, 1, 1, 1]),
    "Pad": lambda g, x: g.add("Pad", x, g.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2]))),
    "Pad by reflection": lambda g, x: g.add("Pad", x, g.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2])), mode="reflect"),
    "Resize": lambda g, x: g.add("Resize", x, "", g.constant(np.array([1, 1, 2, 3], F32)), mode="nearest"),
    "DepthToSpace": lambda g, x: g.add("DepthToSpace", x, blocksize=2),
    "Concat": lambda g, x: g.add("Concat", x, x, axis=1),
}  # fmt: skip


SHAPES = {"Expand": (2, 1, 4, 7), "Slice": (4, 3, 5, 7)}


def shape(name: str) -> tuple[int, ...]:
    return SHAPES.get(name, (1, 4, 3, 7))


@pytest.mark.parametrize("name", MOVES)
def test_dequantisation_goes_behind_a_move_and_quantisation_before_it(name: str) -> None:
    g = Quantised(17)
    down = g.add("Exp", MOVES[name](g, g.qdq(g.x(*shape(name)))))
    assert operators(g.model(down)) == ["QuantizeLinear", name.split()[0], "DequantizeLinear", "Exp"]
    g = Quantised(17)
    up = g.q(MOVES[name](g, g.add("Exp", g.x(*shape(name)))))
    assert operators(g.model(up)) == ["Exp", "QuantizeLinear", name.split()[0]]


def test_moves_of_bytes_give_the_same_numbers() -> None:
    g = Quantised(17)
    outputs = []
    for name, move in MOVES.items():
        outputs.append(g.add("Exp", move(g, g.qdq(g.x(*shape(name)), 0.02, 9))))
        outputs.append(g.q(move(g, g.add("Exp", g.x(*shape(name))))))
    check(g.model(*outputs), g.feeds)


def test_chains_of_moves_between_the_same_numbers_leave_no_arithmetic() -> None:
    g = Quantised(17)
    x = g.add("Flatten", g.add("MaxPool", g.qdq(g.x(1, 2, 4, 5)), kernel_shape=[2, 2]))
    model = g.model(g.add("Relu", g.qdq(x)))
    assert operators(model) == ["QuantizeLinear", "MaxPool", "Flatten", "DequantizeLinear", "Relu"]
    check(model, g.feeds)


def test_parts_that_nobody_reads_move_nothing() -> None:
    g = Quantised(18)
    first = g.add("Split", g.qdq(g.x(2, 6)), outputs=3, axis=1, num_outputs=3)
    check(g.model(g.add("Exp", first)), g.feeds)
    g = Quantised(18)
    g.add("Split", g.qdq(g.x(2, 6)), outputs=3, axis=1, num_outputs=3)
    check(g.model(g.add("Exp", "v2_2")), g.feeds)


def test_maxima_of_bytes_are_there_since_opset_12() -> None:
    g = Quantised(11)
    model = g.model(g.add("Exp", g.add("MaxPool", g.qdq(g.x(1, 2, 4, 5)), kernel_shape=[2, 2])))
    assert operators(model) == ["QuantizeLinear", "MaxPool", "DequantizeLinear", "Exp"]
    check(model, g.feeds)


def test_a_concatenation_of_other_scales_joins_bytes() -> None:
    g = Quantised(17)
    x, y = g.qdq(g.x(2, 3)), g.qdq(g.x(2, 2), 0.04, 3)
    model = g.model(g.q(g.add("Concat", x, y, axis=1)))
    assert operators(model) == ["QuantizeLinear", "QuantizeLinear", "DequantizeLinear", "QuantizeLinear", "Concat"]
    check(model, g.feeds)


def test_weights_kept_in_floats_become_bytes() -> None:
    g = Quantised(17)
    both = g.parameters(np.linspace(0.01, 0.03, 5), np.arange(5), np.int8)
    w = g.constant(g.rng.standard_normal((7, 5)).astype(F32))
    w = g.add("DequantizeLinear", g.add("QuantizeLinear", w, *both, axis=1), *both, axis=1)
    number = g.qdq(g.constant(F32(0.7)), 0.01, 5)
    y = g.qdq(g.add("MatMul", g.qdq(g.x(3, 7)), w), 0.1)
    model = g.model(g.q(g.add("Mul", y, number), 0.1))
    assert operators(model) == ["QuantizeLinear", "QLinearMatMul", "QLinearMul"]
    check(model, g.feeds, steps=1)


def test_transposed_weights_are_transposed_once() -> None:
    g = Quantised(17)
    w = g.add("Transpose", g.weight(5, 7, scale=np.linspace(0.01, 0.03, 5), zero=np.arange(5), axis=0), perm=[1, 0])
    model = g.model(g.q(g.add("MatMul", g.qdq(g.x(3, 7)), w), 0.1))
    assert operators(model) == ["QuantizeLinear", "QLinearMatMul"]
    check(model, g.feeds, steps=1)


def test_equal_quantisations_of_one_value_are_one() -> None:
    g = Quantised(17)
    x = g.x(3, 7)
    model = g.model(g.add("Add", g.add("Exp", g.qdq(x)), g.add("Sin", g.qdq(x))))
    assert operators(model).count("QuantizeLinear") == 1
    check(model, g.feeds)


STAY = {
    "another scale": lambda g: g.qdq(g.qdq(g.x(3, 4)), 0.05, 100),
    "padded with what bytes can't say": lambda g: g.add(
        "Exp", g.add("Pad", g.qdq(g.x(3, 4)), g.constant(np.array([0, 1, 0, 0])), g.constant(np.float32(0.0301)))),
    "positions of maxima": lambda g: g.add(
        "Add", g.add("MaxPool", g.qdq(g.x(array=np.arange(16, dtype=F32).reshape(1, 1, 4, 4) / 9)), outputs=2,
                     kernel_shape=[2, 2], strides=[2, 2]),
        g.add("Cast", f"v{len(g.nodes) - 1}_1", to=1)),
    "linear": lambda g: g.add(
        "Resize", g.qdq(g.x(1, 1, 3, 4)), "", g.constant(np.array([1, 1, 2, 2], F32)), mode="linear"),
    "scales of channels": lambda g: g.add("Reshape", g.add(
        "DequantizeLinear", g.x(array=np.arange(12, dtype=np.int8).reshape(3, 4)),
        *g.parameters([0.1, 0.2, 0.3], [1, 2, 3], np.int8), axis=0), g.constant(np.array([4, 3]))),
    "parts of floats that are wanted": lambda g: [
        (y := g.add("Exp", g.x(4, 3))),
        g.q(g.add("Slice", y, g.constant(np.array([1])), g.constant(np.array([3])))),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", STAY)
def test_what_can_not_move_stays(case: str) -> None:
    g = Quantised(17)
    outputs = STAY[case](g)
    model = g.model(*([outputs] if isinstance(outputs, str) else outputs))
    assert not [node for node in rewritten(model).graph if node.name.endswith("/bytes")]


def test_what_stays_gives_the_same_numbers() -> None:
    g = Quantised(17)
    outputs = [build(g) for build in STAY.values()]
    check(g.model(*(name for made in outputs for name in ([made] if isinstance(made, str) else made))), g.feeds)
