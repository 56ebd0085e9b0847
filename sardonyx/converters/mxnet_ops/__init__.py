"""What the operators of MXNet are in ONNX: a file for each family, a row or a paragraph for each operator."""

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_ops import (  # noqa: F401  # each registers its operators
    arithmetic,
    detection,
    heads,
    layers,
    movement,
    recurrent,
    selection,
    sequence,
)

# Operators with parameters, and the first of the slots that hold them.
_PARAMETERS = {
    "Convolution": 1, "Deconvolution": 1, "FullyConnected": 1, "BatchNorm": 1, "LayerNorm": 1, "InstanceNorm": 1,
    "GroupNorm": 1, "Embedding": 1,
}  # fmt: skip


def is_parameter(node: Node, slot: int) -> bool:
    """Whether what feeds this slot of a node is a weight, which must be in the file of parameters."""
    if node.op == "RNN":
        return slot == 1
    if node.op == "LeakyReLU":
        return slot == 1 and node.text("act_type", "leaky") == "prelu"
    if node.op == "_rnn_param_concat":
        return True
    return slot >= _PARAMETERS.get(node.op, 99)


def is_ignored(node: Node, slot: int) -> bool:
    """Whether this slot matters to training alone: the label of a loss."""
    return slot > 0 and node.op in heads.LOSSES
