"""An ONNX graph as a differentiable function of PyTorch: a table of operators, and the walk over the nodes.

Only what is in the table can be trained through; anything else is refused with its name before anything begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.errors import OptimizationError, ProviderError
from sardonyx.ops.node import Node

__all__ = ["TorchGraph", "import_torch"]


def import_torch() -> Any:
    """PyTorch.

    Raises:
        ProviderError: it is missing.
    """
    try:
        import torch
    except ImportError:
        raise ProviderError(
            "fine-tuning needs PyTorch, which is missing", hint="pip install 'sardonyx[torch]'"
        ) from None
    return torch


class TorchGraph:
    """The main graph of a model.

    Args:
        model: flat and with constants as initializers; see `tidied`.

    Raises:
        OptimizationError: it has an operator that is not in the table, or one of its forms that is not.
        ProviderError: PyTorch is missing.
    """

    def __init__(self, model: ir.Model):
        self.torch = import_torch()
        self.model, self.rules = model, _rules(self.torch)
        for node in model.graph:
            if node.domain or node.op_type not in self.rules:
                raise OptimizationError(
                    f"nothing can be trained through {node.op_type}",
                    node=str(node.name),
                    hint="Fine-tune before quantisation, or fine-tune in the framework that the model comes from.",
                )
        arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
        self.constants = {name: self.torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    def trainable(self) -> dict[str, Any]:
        """The weights and biases of layers, as leaves that want gradients; other constants stay as they are."""
        found = {}
        for node in self.model.graph:
            if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "Add"):
                continue
            for value in node.inputs[:3]:
                tensor = self.constants.get(str(value.name)) if value is not None else None
                if tensor is not None and tensor.dtype == self.torch.float32 and tensor.numel() > 1:
                    found[str(value.name)] = tensor.requires_grad_()  # type: ignore[union-attr]
        return found

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs, as tensors that know where they come from."""
        known: dict[str, Any] = {**self.constants, **feeds}
        for node in self.model.graph:
            inputs = [None if value is None else known[str(value.name)] for value in node.inputs]
            known[str(node.outputs[0].name)] = self.rules[node.op_type](Node(node, 0), *inputs)
        return [known[str(value.name)] for value in self.model.graph.outputs]


def _rules(torch: Any) -> dict[str, Callable[..., Any]]:
    """What each operator does with tensors: ``rule(node, *inputs)``, its first output."""
    F = torch.nn.functional
    simple: dict[str, Callable[..., Any]] = {
        "Abs": torch.abs, "Add": torch.add, "Div": torch.div, "Erf": torch.erf, "Exp": torch.exp,
        "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True), "HardSwish": F.hardswish,
        "Identity": lambda x: x, "MatMul": torch.matmul, "Mul": torch.mul, "Neg": torch.neg, "Pow": torch.pow,
        "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Softplus": F.softplus, "Sqrt": torch.sqrt, "Sub": torch.sub,
        "Tanh": torch.tanh,
    }  # fmt: skip
    rules = {name: (lambda node, *inputs, f=function: f(*inputs)) for name, function in simple.items()}
    return rules | {
        "Concat": lambda node, *inputs: torch.cat(inputs, node.attr("axis")),
        "Conv": lambda node, x, w, b=None: _conv(torch, node, x, w, b),
        "Clip": lambda node, x, low=None, high=None: torch.clamp(x, low, high),
        "Flatten": lambda node, x: x.reshape(int(np.prod(x.shape[: node.attr("axis", 1)])), -1),
        "Gelu": lambda node, x: F.gelu(x, approximate=node.attr("approximate", "none")),
        "Gemm": lambda node, a, b, c=None: _gemm(node, a, b, c),
        "HardSigmoid": lambda node, x: torch.clamp(node.attr("alpha", 0.2) * x + node.attr("beta", 0.5), 0, 1),
        "LayerNormalization": lambda node, x, w, b=None: F.layer_norm(
            x, x.shape[node.attr("axis", -1) % x.ndim :], w, b, node.attr("epsilon", 1e-5)
        ),
        "LeakyRelu": lambda node, x: F.leaky_relu(x, node.attr("alpha", 0.01)),
        "MaxPool": lambda node, x: _pool(torch, node, x, "max"),
        "AveragePool": lambda node, x: _pool(torch, node, x, "avg"),
        "ReduceMean": lambda node, x, axes=None: _mean(node, x, axes),
        "Reshape": lambda node, x, shape: x.reshape(
            [x.shape[place] if size == 0 else size for place, size in enumerate(shape.tolist())]
        ),
        "Softmax": lambda node, x: torch.softmax(x, node.attr("axis", -1)),
        "Squeeze": lambda node, x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
        "Transpose": lambda node, x: x.permute(node.attr("perm") or list(range(x.ndim))[::-1]),
        "Unsqueeze": lambda node, x, axes: _unsqueezed(x, axes.tolist()),
    }


def _conv(torch: Any, node: Node, x: Any, w: Any, b: Any) -> Any:
    rank = x.ndim - 2
    _plain(node)
    x = torch.nn.functional.pad(x, _pads(node, rank))
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    stride, dilation = (node.attr(name, [1] * rank) for name in ("strides", "dilations"))
    return convolve(x, w, b, stride, 0, dilation, node.attr("group", 1))


def _pool(torch: Any, node: Node, x: Any, kind: str) -> Any:
    rank, kernel = x.ndim - 2, node.attr("kernel_shape")
    _plain(node)
    if node.attr("ceil_mode", 0) or any(each != 1 for each in node.attr("dilations", [1])):
        raise OptimizationError("pooling of this form cannot be trained through", node=node.name)
    pads = _pads(node, rank)
    if kind == "avg" and any(pads) and not node.attr("count_include_pad", 0):
        raise OptimizationError("averages without their padding cannot be trained through", node=node.name)
    x = torch.nn.functional.pad(x, pads, value=-torch.inf if kind == "max" else 0.0)
    return getattr(torch.nn.functional, f"{kind}_pool{rank}d")(x, kernel, node.attr("strides", [1] * rank))


def _plain(node: Node) -> None:
    if node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise OptimizationError("padding by auto_pad cannot be trained through", node=node.name)


def _pads(node: Node, rank: int) -> list[int]:
    """As PyTorch wants them: the last axis first, before and after."""
    pads: Sequence[int] = node.attr("pads", [0] * 2 * rank)
    return [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]


def _gemm(node: Node, a: Any, b: Any, c: Any) -> Any:
    a, b = (x.T if node.attr(flag, 0) else x for x, flag in ((a, "transA"), (b, "transB")))
    y = node.attr("alpha", 1.0) * (a @ b)
    return y if c is None else y + node.attr("beta", 1.0) * c


def _mean(node: Node, x: Any, axes: Any) -> Any:
    chosen = node.attr("axes") or (list(range(x.ndim)) if axes is None else axes.tolist())
    return x.mean(tuple(chosen), keepdim=bool(node.attr("keepdims", 1)))


def _unsqueezed(x: Any, axes: Sequence[int]) -> Any:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x
