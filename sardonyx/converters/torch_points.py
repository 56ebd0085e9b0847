"""Values inside a PyTorch module, and the ONNX values that should equal them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.source import Point

_SCOPES = "pkg.torch.onnx.name_scopes"  # written by the new exporter: a list of module paths, outermost first


def points(module: Any, model: ir.Model) -> list[Point]:
    """One point for each part of `module` whose output can be found in `model`, in the order of the graph.

    The output of a part is that of the last node in its scope: by the metadata of the new exporter, or by the names
    that the TorchScript exporter gives nodes (``/layer1/conv1/Conv``).
    """
    if not hasattr(module, "named_modules"):
        return []
    classes = {name: type(part).__name__ for name, part in module.named_modules() if name}
    last: dict[str, tuple[int, ir.Node]] = {}
    for number, node in enumerate(model.graph):
        for scope in _scopes(node):
            if scope in classes:
                last[scope] = number, node
    ordered = sorted(last.items(), key=lambda item: item[1][0])
    return [Point(scope, str(node.outputs[0].name), f"{scope} ({classes[scope]})") for scope, (_, node) in ordered]


def _scopes(node: ir.Node) -> list[str]:
    """Paths of the modules that the node belongs to."""
    written = node.metadata_props.get(_SCOPES)
    if written:
        return [part.strip(" '\"") for part in written.strip("[]").split(",")]
    parts = (node.name or "").strip("/").split("/")[:-1]
    # Each part of a name is a path of its own ("layer1.0") or a name below the one before.
    found: list[str] = []
    for part in parts:
        found.append(part if not found or part.startswith(found[-1] + ".") else f"{found[-1]}.{part}")
    return found


def observe(module: Any, run: Callable[[], Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The outputs of the parts `names` while `run` runs the module; of a part that runs often, the last."""
    from sardonyx.converters.pytorch import array, tensors_in

    found: dict[str, np.ndarray] = {}
    parts = dict(module.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            tensors = tensors_in(output)
            if tensors:
                found[name] = array(tensors[0])

        return hook

    hooks = [parts[name].register_forward_hook(keep(name)) for name in names if name in parts]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found
