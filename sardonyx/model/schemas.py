"""What the standard says about an operator, looked up once per (domain, operator, opset)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

VERSION_KEY = "sardonyx.opset"  # metadata of a node: the opset it follows, where that is not the model's
TYPE_KEY = "sardonyx.type"  # metadata of a graph input or output: its type, where `onnx_ir` has none for it (maps)
MIN_OPSET = 7  # before it, broadcasting and many attributes meant something else
_REQUIRED = onnx.defs.OpSchema.FormalParameterOption.Single


@dataclass(frozen=True)
class Signature:
    """The parts of a schema that a node must agree with.

    Attributes:
        name: operator with the version that defined it, such as ``Conv-11``.
        attributes: name -> (attribute type number, is required).
        required_inputs: for each formal input, whether a node must give it.
    """

    name: str
    schema: Any  # onnx.defs.OpSchema; its stub lacks half of its methods
    attributes: dict[str, tuple[int, bool]]
    required_inputs: tuple[bool, ...]
    inputs: range
    outputs: range


@functools.lru_cache(maxsize=4096)
def signature(domain: str, operator: str, opset: int) -> Signature | None:
    """The signature in force in `opset` of `domain`; None if the standard has no such operator."""
    if not onnx.defs.has(operator, opset, domain):
        return None
    schema: Any = onnx.defs.get_schema(operator, opset, domain)
    attributes = {key: (int(value.type), value.required) for key, value in schema.attributes.items()}
    return Signature(
        name=_full_name(domain, operator, schema.since_version),
        schema=schema,
        attributes=attributes,
        required_inputs=tuple(formal.option == _REQUIRED for formal in schema.inputs),
        inputs=range(schema.min_input, schema.max_input + 1),
        outputs=range(schema.min_output, schema.max_output + 1),
    )


@functools.cache
def newest_opset(domain: str) -> int | None:
    """The newest opset of `domain` that the installed `onnx` package defines; None for foreign domains."""
    versions = onnx.defs.C.schema_version_map().get(domain)
    return versions[1] if versions else None


def version_of(node: ir.Node, opset_imports: Mapping[str, int]) -> int:
    """The opset whose definition `node` follows: its own version if set, else the model's for its domain."""
    return node.version if node.version is not None else opset_imports.get(node.domain, 1)


def operator_name(node: ir.Node, opset_imports: Mapping[str, int]) -> str:
    """The operator with its version for messages, such as ``Conv-11`` or ``com.microsoft.Gelu-1``."""
    return full_name(node.domain, node.op_type, version_of(node, opset_imports))


def full_name(domain: str, operator: str, opset: int) -> str:
    """`operator` with the version that is in force in `opset` (the opset itself, if the standard has none)."""
    found = signature(domain, operator, opset)
    return found.name if found else _full_name(domain, operator, opset)


def _full_name(domain: str, operator: str, version: int) -> str:
    return f"{domain}.{operator}-{version}" if domain else f"{operator}-{version}"
