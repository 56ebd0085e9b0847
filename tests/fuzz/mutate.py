"""Mutations of models: each takes a sound one and breaks or bends it in a way that its number alone decides."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from fuzz.seeds import SEEDS

NUMBERS = [0, 1, -1, 2, 3, 5, 7, -2, 15, 16, 17, 63, 64, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 60]
NUMBERS += [(1 << 63) - 1, -(1 << 63), -(1 << 31), -7]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "x",
    "NONE",
    "SUM",
    "bidirectional",
    "reverse",
    "SAME_UPPER",
    "constant",
    "ij,jk->ik",
    "wrap",
    "\u00fc" * 40,
]
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain in ("", "ai.onnx.ml")})
Mutation = Callable[[onnx.ModelProto, random.Random], None]


def mutant(number: int) -> tuple[str, bytes]:
    """What was done to which seed, and the bytes of mutant `number`."""
    rng = random.Random(number)
    name = rng.choice(list(SEEDS))
    proto = SEEDS[name]()
    if rng.random() < 0.15:
        return f"{name}: bytes", _bytes(proto.SerializeToString(), rng)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        try:
            mutation(proto, rng)
        except Exception:  # nothing of the kind is left to break
            continue
        done.append(mutation.__name__.strip("_"))
    return f"{name}: {', '.join(done)}", proto.SerializeToString()


def _bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(4), rng.randrange(len(changed))
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del changed[at : at + rng.randint(1, 9)]
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 30)]
        if not changed:
            break
    return bytes(changed[: rng.randint(1, max(len(changed), 1))] if rng.random() < 0.2 else changed)


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    found, pending = [], list(proto.graph.node)
    while pending:
        node = pending.pop(0)
        found.append(node)
        for attribute in node.attribute:
            pending += attribute.g.node
    return found


def _names(proto: onnx.ModelProto) -> list[str]:
    names = [name for node in _nodes(proto) for name in (*node.input, *node.output)]
    return [*names, *(t.name for t in proto.graph.initializer), "", "nothing"]


def _ports(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.output]


def _input_dim(proto: onnx.ModelProto, rng: random.Random) -> None:
    dims = rng.choice(_ports(proto)).type.tensor_type.shape.dim
    dim = rng.choice(dims)
    if rng.random() < 0.3:
        dim.dim_param = rng.choice(["n", "m", "k", "b"])
    else:
        dim.dim_value = rng.choice(NUMBERS)


def _rank(proto: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.choice(_ports(proto)).type.tensor_type
    if rng.random() < 0.3:
        kind.ClearField("shape")
    elif rng.random() < 0.5 and kind.shape.dim:
        del kind.shape.dim[rng.randrange(len(kind.shape.dim))]
    else:
        for _ in range(rng.choice([1, 1, 2, 20])):
            kind.shape.dim.add().dim_value = rng.choice([1, 2, 3])


def _dtype(proto: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(_ports(proto)).type.tensor_type.elem_type = rng.randint(0, 25)


def _kind(proto: onnx.ModelProto, rng: random.Random) -> None:
    port = rng.choice(_ports(proto))
    inner = onnx.TypeProto()
    inner.CopyFrom(port.type)
    port.type.Clear()
    choice = rng.randrange(4)
    if choice == 0:
        port.type.sequence_type.elem_type.CopyFrom(inner)
    elif choice == 1:
        port.type.optional_type.elem_type.CopyFrom(inner)
    elif choice == 2:
        port.type.map_type.key_type = 7


def _attribute(proto: onnx.ModelProto, rng: random.Random) -> None:
    attribute = rng.choice([a for node in _nodes(proto) for a in node.attribute])
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice(TEXTS).encode()
    elif attribute.type == onnx.AttributeProto.INTS:
        _list(attribute.ints, NUMBERS, rng)
    elif attribute.type == onnx.AttributeProto.FLOATS:
        _list(attribute.floats, FLOATS, rng)
    elif attribute.type == onnx.AttributeProto.STRINGS:
        _list(attribute.strings, [text.encode() for text in TEXTS], rng)


def _list(values: list, choices: list, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0 and len(values):
        values[rng.randrange(len(values))] = rng.choice(choices)
    elif kind == 1 and len(values):
        del values[rng.randrange(len(values))]
    else:
        values.append(rng.choice(choices))


def _drop_attribute(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.attribute])
    del node.attribute[rng.randrange(len(node.attribute))]


def _attribute_type(proto: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice([a for node in _nodes(proto) for a in node.attribute]).type = rng.randint(0, 15)


def _steal_attribute(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Another attribute that the operator has, with an arbitrary value."""
    node = rng.choice(_nodes(proto))
    schema = onnx.defs.get_schema(node.op_type, 17 if not node.domain else 3, node.domain)
    name = rng.choice(list(schema.attributes))
    kind = int(schema.attributes[name].type.value)
    if any(attribute.name == name for attribute in node.attribute):
        return
    attribute = node.attribute.add(name=name, type=kind)
    attribute.i, attribute.f, attribute.s = rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS).encode()
    for _ in range(rng.randint(0, 5)):
        attribute.ints.append(rng.choice(NUMBERS))
        attribute.floats.append(rng.choice(FLOATS))
        attribute.strings.append(rng.choice(TEXTS).encode())


def _operator(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(_nodes(proto))
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.8:
        del node.attribute[:]


def _domain(proto: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(_nodes(proto)).domain = rng.choice(["", "ai.onnx.ml", "com.microsoft", "nowhere"])


def _rewire(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in _nodes(proto) if node.input])
    node.input[rng.randrange(len(node.input))] = rng.choice(_names(proto))


def _swap_inputs(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in _nodes(proto) if len(node.input) > 1])
    i, j = rng.randrange(len(node.input)), rng.randrange(len(node.input))
    node.input[i], node.input[j] = node.input[j], node.input[i]


def _arity(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(_nodes(proto))
    names = rng.choice([node.input, node.output])
    if rng.random() < 0.5 and len(names):
        del names[rng.randrange(len(names))]
    else:
        names.append(rng.choice(_names(proto)))


def _rename_output(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(_nodes(proto))
    node.output[rng.randrange(len(node.output))] = rng.choice(_names(proto))


def _graph_output(proto: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(proto.graph.output).name = rng.choice(_names(proto))


def _drop_node(proto: onnx.ModelProto, rng: random.Random) -> None:
    del proto.graph.node[rng.randrange(len(proto.graph.node))]


def _repeat_node(proto: onnx.ModelProto, rng: random.Random) -> None:
    proto.graph.node.add().CopyFrom(rng.choice(proto.graph.node))


def _shuffle(proto: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(proto.graph.node)
    rng.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _opset(proto: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(proto.opset_import).version = rng.choice([0, -1, 1, 5, 6, 7, 9, 10, 11, 12, 13, 16, 18, 21, 23, 26, 99])


def _weight_data(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Other values, of the same type and size: index tensors among them."""
    tensor = rng.choice(proto.graph.initializer)
    array = onnx.numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(flat.size)
        if array.dtype.kind == "f":
            flat[at] = rng.choice(FLOATS)
        elif array.dtype.kind == "b":
            flat[at] = not flat[at]
        else:
            flat[at] = rng.choice(NUMBERS) & 127 if array.dtype.itemsize == 1 else rng.choice(NUMBERS)
    tensor.raw_data = array.tobytes()


def _weight_dims(proto: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(proto.graph.initializer)
    kind = rng.randrange(4)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif kind == 1:
        tensor.dims.append(1)
    elif kind == 2 and len(tensor.dims) > 1:
        tensor.dims[:] = reversed(tensor.dims)
    else:
        array = onnx.numpy_helper.to_array(tensor).reshape(-1)[: rng.randint(0, 4)]
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _weight_type(proto: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(proto.graph.initializer)
    if rng.random() < 0.5:
        tensor.data_type = rng.randint(0, 25)
        return
    array = onnx.numpy_helper.to_array(tensor)
    kind = rng.choice("float32 float64 float16 int64 int32 int8 uint8 bool uint64".split())
    tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind), tensor.name))


def _weight_lost(proto: onnx.ModelProto, rng: random.Random) -> None:
    del proto.graph.initializer[rng.randrange(len(proto.graph.initializer))]


def _weight_outside(proto: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(proto.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = ["../weights", "/etc/passwd", "weights", "", "a/../../b", "C:\\x"]
    tensor.external_data.add(key="location", value=rng.choice(places))


def _weight_to_input(proto: onnx.ModelProto, rng: random.Random) -> None:
    at = rng.randrange(len(proto.graph.initializer))
    tensor = proto.graph.initializer[at]
    shape: list = list(tensor.dims) if rng.random() < 0.5 else ["d"] * len(tensor.dims)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    if rng.random() < 0.8:
        del proto.graph.initializer[at]


def _value_info(proto: onnx.ModelProto, rng: random.Random) -> None:
    shape = [rng.choice([*NUMBERS[:8], "q"]) for _ in range(rng.randint(0, 4))]
    name = rng.choice(_names(proto))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, rng.randint(1, 16), shape))


MUTATIONS: list[Mutation] = [
    _input_dim, _rank, _dtype, _kind, _attribute, _attribute, _drop_attribute, _attribute_type, _steal_attribute,
    _steal_attribute, _operator, _operator, _domain, _rewire, _rewire, _swap_inputs, _arity, _rename_output,
    _graph_output,
    _drop_node, _repeat_node, _shuffle, _opset, _weight_data, _weight_data, _weight_data, _weight_dims, _weight_type,
    _weight_lost, _weight_outside, _weight_to_input, _value_info,
]  # fmt: skip
