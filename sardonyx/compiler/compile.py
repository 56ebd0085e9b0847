"""From a model to a library and its weights: the pipeline, step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import sardonyx
from sardonyx.compiler import build
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import itemsize
from sardonyx.compiler.emit_program import Source, emit_program
from sardonyx.compiler.failures import reported
from sardonyx.compiler.graph import lower
from sardonyx.compiler.memory import Plan, plan
from sardonyx.compiler.program import Buffer, Port, Program
from sardonyx.compiler.tuning import Choice
from sardonyx.deployment.targets import Target
from sardonyx.model.prepare import prepare
from sardonyx.ops import registry
from sardonyx.optimizer import NATIVE_PASSES

LIBRARY = "model.so"
WEIGHTS = "weights.bin"
PROGRAM = "program.json"
HOST_MODEL = "host.onnx"
ALIGN = 64

Progress = Callable[[int, int, str], None]


def is_native(domain: str, operator: str, version: int) -> bool:
    """True when the operator has a lowering of its own, so that its function body need not be inlined."""
    return registry.find(domain, operator, version) is not None


def compile_model(
    model: ir.Model,
    target: Target,
    folder: Path,
    assumptions: Mapping[str, bool] | None = None,
    *,
    progress: Progress | None = None,
    tuned: Choice | None = None,
) -> None:
    """Compile `model` for `target` into `folder`: library, weights, and what the loader needs to know.

    `assumptions` are truths that `Lowering.assume` asks for, by key; it has a default for each. `tuned` are macros of
    kernels, by name.

    Raises:
        SardonyxError: the model can't be compiled; what, where and what to do about it.
    """
    prepared, program, memory, offsets, size, source = generate(model, assumptions)
    write_weights(program, offsets, size, folder / WEIGHTS)
    for name, text in source.files.items():
        (folder / name).write_text(text)
    write_host_model(program, prepared, folder / HOST_MODEL)
    units = [build.Unit(name.removesuffix(".c"), text) for name, text in source.files.items()]
    units += kernel_units(source.kernels, tuned or {})
    build.compile_library(units, target, folder / LIBRARY, progress=progress)
    facts = describe(program, memory, source, size, prepared)
    (folder / PROGRAM).write_text(json.dumps(facts | {"tuned": tuned or {}}))


def kernel_units(kernels: Iterable[str], tuned: Choice) -> list[build.Unit]:
    """The C files of kernels, with the macros that tuning has chosen."""

    def macros(name: str) -> tuple[tuple[str, str], ...]:
        return tuple((macro, str(value)) for macro, value in sorted(tuned.get(name, {}).items()))

    return [build.Unit(name, Path(f"{name}.c"), macros(name)) for name in kernels]


def rebuild(entry: Path, tuned: Choice, target: Target, folder: Path) -> None:
    """The compiled model in `entry` once more, in `folder`, with other macros of kernels; the weights are linked."""
    facts = json.loads((entry / PROGRAM).read_text())
    units = [build.Unit(path.stem, path.read_text()) for path in sorted(entry.glob("*.c"))]
    build.compile_library([*units, *kernel_units(facts["kernels"], tuned)], target, folder / LIBRARY)
    (folder / PROGRAM).write_text(json.dumps(facts | {"tuned": tuned}))
    for name in (WEIGHTS, HOST_MODEL):
        if (entry / name).exists():
            (folder / name).symlink_to(entry / name)


def generate(
    model: ir.Model, assumptions: Mapping[str, bool] | None = None
) -> tuple[ir.Model, Program, Plan, dict[Buffer, int], int, Source]:
    """Everything up to the C text: the prepared model, its program, memory plan, weights' offsets and size, source.

    Raises:
        SardonyxError: the model can't be compiled, whatever is wrong with it.
    """
    with reported():
        prepared = prepare(model, is_native=is_native)
        for fuse in NATIVE_PASSES:
            fuse(prepared)
        program = lower(prepared, assumptions)
        memory = plan(program)
        offsets, size = place_weights(program)
        return prepared, program, memory, offsets, size, emit_program(program, memory, offsets)


def place_weights(program: Program) -> tuple[dict[Buffer, int], int]:
    """Each used constant's offset in the weights file, and the file's size in bytes."""
    used = {buffer for step in program.main.walk() for buffer in step.reads()}
    offsets: dict[Buffer, int] = {}
    end = 0
    for buffer in program.constants:
        if buffer in used:
            offsets[buffer] = end
            assert isinstance(buffer.size, int)
            end += -(-buffer.size * itemsize(buffer.dtype) // ALIGN) * ALIGN
    return offsets, end


def write_weights(program: Program, offsets: dict[Buffer, int], size: int, path: Path) -> None:
    """Write the constants; one at a time is in memory."""
    with path.open("wb") as file:
        for buffer, offset in offsets.items():
            assert buffer.data is not None
            file.seek(offset)
            file.write(np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8).data)
        file.truncate(size)


def write_host_model(program: Program, model: ir.Model, path: Path) -> None:
    """The nodes that run on the host, as a model that is never run whole; each keeps its captured names."""
    if not program.host_nodes:
        return
    nodes = [ir.serde.serialize_node(node) for node, _ in program.host_nodes]
    names = {name for node in nodes for name in node.input}
    names |= {value.name or "" for _, captured in program.host_nodes for value in captured}
    free = "made"  # names of outputs of their own: two nodes may have the same, and nothing reads them by name
    while any(name.startswith(free) for name in names):
        free += "_"
    for number, node in enumerate(nodes):
        node.output[:] = [name and f"{free}{number}.{index}" for index, name in enumerate(node.output)]
    inputs = [onnx.ValueInfoProto(name=name) for name in sorted(names - {""})]
    graph = onnx.helper.make_graph(nodes, "host", inputs, [])
    for slot, array in program.objects:
        graph.initializer.append(_object_tensor(array, f"slot{slot}"))
    imports = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
    proto.functions.extend(ir.serde.serialize_function(f) for f in model.functions.values())
    path.write_bytes(proto.SerializeToString())


def _object_tensor(array: np.ndarray, name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def describe(program: Program, memory: Plan, source: Source, weights: int, model: ir.Model) -> dict[str, Any]:
    """What the loader needs, as JSON."""
    entry = {str(symbol): number for number, symbol in enumerate(program.symbols)}
    known = {str(symbol) for symbol in program.entry_symbols()}
    return {
        "version": sardonyx.__version__,
        "name": program.name,
        "inputs": [_port(port, entry, known) for port in program.inputs],
        "outputs": [_port(port, entry, known) for port in program.outputs],
        "entry": [[number, axis] for _, number, axis in program.entry],
        "weights": weights,
        "planned": len(memory.planned),
        "arena": memory.arena,
        "bound": memory.bound,
        "steps": source.steps,
        "flops": source.flops,
        "calls": source.calls,
        "messages": {str(number): text for number, text in source.messages.items()},
        "placement": [[p.node, p.operator, p.provider, p.reason] for p in program.placement],
        "slots": program.slots,
        "objects": [slot for slot, _ in program.objects],
        "captured": [[value.name for value in captured] for _, captured in program.host_nodes],
        "kernels": source.kernels,
        "metadata": metadata(model),
    }


def _port(port: Port, entry: dict[str, int], known: set[str]) -> dict[str, Any]:
    dims = [dim if isinstance(dim, int) else f"s{entry[str(dim)]}" if str(dim) in entry else "?" for dim in port.shape]
    atoms = {atom for dim in port.shape for atom in ix.atoms(dim) if atom.kind == "symbol"}
    return {
        "name": port.name,
        "dtype": port.dtype,
        "type": port.type,
        "shape": list(port.names),
        "dims": dims,
        "known": all(str(ix.symbol(atom.key)) in known for atom in atoms),
        "slot": port.slot,
        **({"form": port.form, "labels": list(port.labels)} if port.form else {}),
    }


def metadata(model: ir.Model) -> dict[str, Any]:
    """What the model says of itself."""
    return {
        "producer_name": model.producer_name or "",
        "producer_version": model.producer_version or "",
        "graph_name": model.graph.name or "",
        "domain": model.domain or "",
        "description": model.doc_string or "",
        "graph_description": model.graph.doc_string or "",
        "version": model.model_version or 0,
        "custom_metadata_map": dict(model.metadata_props),
    }


def source_digest() -> str:
    """A digest of every Python file and kernel that decides what is generated: part of each cache key."""
    folder = Path(sardonyx.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.[ch]")]):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
