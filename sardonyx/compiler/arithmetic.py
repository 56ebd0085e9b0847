"""How much arithmetic a node is: two operations for each multiply-add that its definition asks for.

This is the work of the *operator*, computed directly, whatever the kernel does instead: Winograd multiplies less often
and so may show more than the machine's peak. Only operators whose time goes into products are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.program import Block, Kernel, Nest, Program, Step
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops.node import Node

__all__ = ["assign", "operations"]

Shape = tuple[Dim, ...]
Rule = Callable[[Node, Sequence[Shape], Sequence[Shape]], Dim]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _matmul(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
    return ix.product(outputs[0]) * inputs[0][-1]


def _qlinear_matmul(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
    return ix.product(outputs[0]) * inputs[0][-1]


def _gemm(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
    return ix.product(outputs[0]) * inputs[0][0 if node.attr("transA", 0) else 1]


def _conv(weights: int) -> Rule:
    """The rule of a convolution whose weights are input number `weights`."""
    return lambda node, inputs, outputs: ix.product(outputs[0]) * ix.product(inputs[weights][1:])


def _conv_transpose(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
    return ix.product(inputs[0]) * ix.product(inputs[1][1:])


def _recurrent(gates: int) -> Rule:
    """The rule of a recurrent layer with that many gates."""

    def rule(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
        x, w, r = inputs[:3]
        hidden = node.attr("hidden_size", r[2])
        return x[0] * x[1] * w[0] * (gates * hidden) * (x[2] + hidden)

    return rule


def _attention(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Dim:
    """Scores and their product with v, for q [B, H, M, D], k [B, H, N, D] or [B, H, D, N], and v [B, H, N, E]."""
    q, v = inputs[0], inputs[2]
    if len(q) < 3 or len(v) < 3:
        return 0
    return ix.product(q[:-1]) * v[-2] * (q[-1] + v[-1])


RULES: dict[str, Rule] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "Gemm": _gemm,
    "FusedMatMul": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul,
    "MatMulDequantized": _matmul,
    "QGemm": _gemm,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "FusedConv": _conv(1),
    "ScaledConv": _conv(2),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    **{f"{name}{form}": _recurrent(gates) for name, gates in GATES.items() for form in ("", "Dequantized")},
    "DynamicQuantizeLSTM": _recurrent(GATES["LSTM"]),
    "FusedAttention": _attention,
    "Attention": _attention,
}


def operations(node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> Dim:
    """Operations of one node: twice its multiply-adds, 0 where nothing is known of them.

    Args:
        node: The node.
        inputs: What it reads; None for inputs that are left out.
        outputs: What it gives.
    """
    rule = RULES.get(node.op_type)
    shapes = [[() if t is None or t.is_object else t.shape for t in side] for side in (inputs, outputs)]
    if rule is None or not shapes[1]:
        return 0
    try:
        return 2 * rule(node, *shapes)
    except IndexError:  # a form of the operator that the rule does not know: left out or packed operands
        return 0


def assign(program: Program, nodes: Iterable[tuple[str, Dim]]) -> None:
    """Give each node's operations to the step that does them: its last kernel call, or else its last loop nest.

    The work of a node without a step of its own goes to the next that has one: it was fused into that. Steps inside of
    control flow get none, since nobody knows how often they run. A kernel whose `flops` say so already keeps them.
    """
    steps = _heavy(program.main)
    carried: Dim = 0
    for name, flops in nodes:
        step = steps.get(name)
        if step is None:
            carried = carried + flops
            continue
        if step.flops == 0:
            step.flops = flops + carried
        carried = 0


def _heavy(block: Block) -> dict[str, Step]:
    """The step of each node that does its products."""
    found: dict[str, Step] = {}
    for step in block.steps:
        if isinstance(step, Kernel) or (isinstance(step, Nest) and not isinstance(found.get(step.node), Kernel)):
            found[step.node] = step
    return found
