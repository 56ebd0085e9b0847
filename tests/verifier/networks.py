"""Three small networks of the usual kinds, with names as exporters give them, and faults to plant in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

CNN = """
<ir_version: 9, opset_import: ["" : 18]>
cnn (float[batch, 3, 32, 32] image) => (float[batch, 5] scores) {
    [conv1] c1 = Conv <pads = [1,1,1,1]> (image, conv1_w, conv1_b)
    [bn1] b1 = BatchNormalization <epsilon = 0.001> (c1, bn1_scale, bn1_shift, bn1_mean, bn1_var)
    [relu1] r1 = Relu (b1)
    [pool1] p1 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r1)
    [conv2] c2 = Conv <pads = [1,1,1,1]> (p1, conv2_w, conv2_b)
    [bn2] b2 = BatchNormalization <epsilon = 0.001> (c2, bn2_scale, bn2_shift, bn2_mean, bn2_var)
    [add2] a2 = Add (b2, p1)
    [leaky2] r2 = LeakyRelu <alpha = 0.1> (a2)
    [pool2] p2 = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (r2)
    [resize] u2 = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (p2, , scales)
    [pool3] g = GlobalAveragePool (u2)
    [shape] s = Shape <start = 0, end = 1> (g)
    [target] t = Concat <axis = 0> (s, minus_one)
    [flatten] f = Reshape (g, t)
    [fc] scores = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""
CNN_WEIGHTS = {
    "conv1_w": (8, 3, 3, 3), "conv1_b": (8,), "conv2_w": (8, 8, 3, 3), "conv2_b": (8,), "fc_w": (5, 8), "fc_b": (5,),
    **{f"bn{i}_{part}": (8,) for i in (1, 2) for part in ("scale", "shift", "mean", "var")},
}  # fmt: skip

TRANSFORMER = """
<ir_version: 9, opset_import: ["" : 20]>
transformer (int64[batch, length] ids) => (float[batch, length, 16] hidden) {
    [embed] e = Gather (table, ids)
    [norm1] n1 = LayerNormalization <axis = -1, epsilon = 0.001> (e, ln1_scale, ln1_shift)
    [query] q = MatMul (n1, wq)
    [key] k = MatMul (n1, wk)
    [value] v = MatMul (n1, wv)
    [key_t] kt = Transpose <perm = [0,2,1]> (k)
    [scores] s = MatMul (q, kt)
    [scale] sc = Mul (s, factor)
    [softmax] p = Softmax <axis = -1> (sc)
    [context] c = MatMul (p, v)
    [project] o = MatMul (c, wo)
    [residual] r = Add (o, e)
    [norm2] n2 = LayerNormalization <axis = -1, epsilon = 0.001> (r, ln2_scale, ln2_shift)
    [up] up = MatMul (n2, w1)
    [gelu] ge = Gelu (up)
    [down] d = MatMul (ge, w2)
    [out] hidden = Add (d, r)
}
"""
TRANSFORMER_WEIGHTS = {
    "table": (50, 16), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16), "w1": (16, 32), "w2": (32, 16),
    "ln1_scale": (16,), "ln1_shift": (16,), "ln2_scale": (16,), "ln2_shift": (16,),
}  # fmt: skip

RECURRENT = """
<ir_version: 9, opset_import: ["" : 18]>
recurrent (float[batch, length, 6] frames) => (float[batch, 4] label) {
    [to_time] x = Transpose <perm = [1,0,2]> (frames)
    [lstm] y, h, c = LSTM <hidden_size = 8> (x, lstm_w, lstm_r, lstm_b)
    [squeeze] z = Squeeze (y, one)
    [mean] m = ReduceMean <keepdims = 0> (z, zero)
    [tanh] t = Tanh (m)
    [length] n = Shape <start = 0, end = 1> (z)
    [as_float] nf = Cast <to = 1> (n)
    [divide] dv = Div (t, nf)
    [label_] label = Gemm (dv, fc_w, fc_b)
}
"""
RECURRENT_WEIGHTS = {"lstm_w": (1, 32, 6), "lstm_r": (1, 32, 8), "lstm_b": (1, 64), "fc_w": (8, 4), "fc_b": (4,)}
CONSTANTS = {
    "scales": np.array([1, 1, 2, 2], np.float32),
    "minus_one": np.array([-1]),
    "factor": np.array(0.25, np.float32),
    "one": np.array([1]),
    "zero": np.array([0]),
}


def network(name: str) -> onnx.ModelProto:
    """One of the three, with random weights."""
    text, shapes = {
        "cnn": (CNN, CNN_WEIGHTS),
        "transformer": (TRANSFORMER, TRANSFORMER_WEIGHTS),
        "recurrent": (RECURRENT, RECURRENT_WEIGHTS),
    }[name]
    rng = np.random.default_rng(3)
    model = parser.parse_model(text)
    for weight, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32) / np.sqrt(max(1, np.prod(shape[1:])))
        if "var" in weight or "scale" in weight:
            array = np.abs(array) + 0.5
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), weight))
    used = {value for node in model.graph.node for value in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in used)
    return model


def node(model, name):
    return next(each for each in model.graph.node if each.name == name)


def attribute(model, name, key, value):
    """Set an attribute of the node `name`; returns the name, which is what should be found."""
    target = node(model, name)
    kept = [each for each in target.attribute if each.name != key]
    del target.attribute[:]
    target.attribute.extend([*kept, onnx.helper.make_attribute(key, value)])
    return name


def weight(model, name, key, change):
    """Change the weight `key`, which the node `name` reads."""
    tensor = next(each for each in model.graph.initializer if each.name == key)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy())), key))
    return name


def insert(model, before, position, operator, **attributes):
    """Put a node in front of input `position` of the node `before`."""
    target = node(model, before)
    made = onnx.helper.make_node(operator, [target.input[position]], ["planted"], name="planted_node", **attributes)
    target.input[position] = "planted"
    model.graph.node.insert(list(model.graph.node).index(target), made)
    return "planted_node"


def freeze(model, name, value):
    """Replace the output of the node `name` by a constant."""
    target = node(model, name)
    output, index = target.output[0], list(model.graph.node).index(target)
    model.graph.node.remove(target)
    tensor = numpy_helper.from_array(np.asarray(value))
    made = onnx.helper.make_node("Constant", [], [output], name=f"frozen_{name}", value=tensor)
    model.graph.node.insert(index, made)
    return made.name


def replace(model, name, operator, **attributes):
    """Another operator in the place of the node `name`."""
    target = node(model, name)
    target.op_type = operator
    del target.attribute[:]
    target.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    return name


def rewire(model, name, position, value):
    """Another input."""
    node(model, name).input[position] = value
    return name


def _one(change, at=(0, 0)):
    def apply(array):
        array[at] += change
        return array

    return apply


# title -> (network, fault); a fault changes the model and returns the name of the first node that differs.
FAULTS = {
    "batch norm epsilon": ("cnn", lambda m: attribute(m, "bn2", "epsilon", 1e-2)),
    "batch norm in training mode": ("cnn", lambda m: attribute(m, "bn1", "training_mode", 1)),
    "weights 1 % off": ("cnn", lambda m: weight(m, "conv2", "conv2_w", lambda w: w * np.float32(1.01))),
    "one weight off": ("cnn", lambda m: weight(m, "conv1", "conv1_w", _one(0.05, (2, 1, 1, 1)))),
    "bias lost": ("cnn", lambda m: weight(m, "conv2", "conv2_b", np.zeros_like)),
    "padding on one side": ("cnn", lambda m: attribute(m, "conv2", "pads", [2, 2, 0, 0])),
    "padding counted": ("cnn", lambda m: attribute(m, "pool2", "count_include_pad", 1)),
    "another slope": ("cnn", lambda m: attribute(m, "leaky2", "alpha", 0.2)),
    "pixel centres": ("cnn", lambda m: attribute(m, "resize", "coordinate_transformation_mode", "asymmetric")),
    "swapped layout": ("cnn", lambda m: insert(m, "conv2", 0, "Transpose", perm=[0, 1, 3, 2])),
    "frozen batch": ("cnn", lambda m: freeze(m, "shape", np.array([7]))),
    "flat weights transposed": ("cnn", lambda m: weight(m, "fc", "fc_w", lambda w: w[::-1])),
    "layer norm epsilon": ("transformer", lambda m: attribute(m, "norm2", "epsilon", 1e-1)),
    "softmax over another axis": ("transformer", lambda m: attribute(m, "softmax", "axis", 1)),
    "tanh form of Gelu": ("transformer", lambda m: attribute(m, "gelu", "approximate", "tanh")),
    "query and key swapped": ("transformer", lambda m: rewire(m, "scores", 0, "k")),
    "scale forgotten": ("transformer", lambda m: weight(m, "scale", "factor", np.ones_like)),
    "residual from elsewhere": ("transformer", lambda m: rewire(m, "residual", 1, "n1")),
    "square weight transposed": ("transformer", lambda m: weight(m, "project", "wo", lambda w: w.T)),
    "frozen length": ("recurrent", lambda m: freeze(m, "length", np.array([9]))),
    "gates in another order": ("recurrent", lambda m: weight(m, "lstm", "lstm_w", lambda w: np.roll(w, 8, axis=1))),
    "axes not exchanged": ("recurrent", lambda m: attribute(m, "to_time", "perm", [0, 1, 2])),
    "activation replaced": ("recurrent", lambda m: replace(m, "tanh", "Sigmoid")),
}
