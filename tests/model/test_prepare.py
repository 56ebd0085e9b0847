"""`prepare` changes the form of a model, never its results."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_cases
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from sardonyx.model import load, prepare, version_of
from sardonyx.runtime.reference import evaluate


def text(body: str, ir_version: int = 9, opset: int = 17, domains: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}{domains}]> {body}')


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def same_results(proto: onnx.ModelProto, **options) -> ir.Model:
    """Prepare `proto`, check that results stay and that it can be saved; returns it."""
    rng = np.random.default_rng(0)
    feeds = {value.name: rng.standard_normal((2, 3)).astype(np.float32) for value in proto.graph.input}
    expected = evaluate(load(proto), feeds)
    prepared = prepare(load(proto), **options)
    for a, b in zip(expected, evaluate(prepared, feeds), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
    assert [v.name for v in prepared.graph.inputs] == [v.name for v in proto.graph.input]
    assert [v.name for v in prepared.graph.outputs] == [v.name for v in proto.graph.output]
    return prepared


def test_model_functions_are_inlined_with_attributes_and_omitted_outputs() -> None:
    proto = text(
        """g (float[2,3] x) => (float[2,3] y, float[2,3] z) {
            y = my.F <k = 3.0> (x)
            z, x2 = my.F (x)
        }
        <domain: "my", opset_import: ["" : 17]>
        F <k: float = 2.0> (a) => (b, same) {
            c = Constant <value_float: float = @k> ()
            b = Mul (a, c)
            same = Identity (a)
        }""",
        domains=', "my" : 1',
    )
    prepared = same_results(proto)
    assert operators(prepared) == ["Mul", "Mul"]
    assert not prepared.functions


def test_a_function_that_returns_its_input_does_not_rename_it() -> None:
    proto = text(
        """g (float[2,3] x) => (float[2,3] y, float[2,3] z) { y, z = my.F (x) }
        <domain: "my", opset_import: ["" : 17]> F (a) => (a, a) { b = Neg (a) }""",
        domains=', "my" : 1',
    )
    same_results(proto)


def test_nodes_of_a_function_keep_the_opset_they_were_written_for() -> None:
    proto = text(
        """g (float[2,3] x) => (float[2,3] y) { y = my.F (x) }
        <domain: "my", opset_import: ["" : 11]> F (a) => (b) { c = Relu (a) b = Softmax <axis = 0> (c) }""",
        domains=', "my" : 1',
    )
    prepared = same_results(proto)
    assert [version_of(node, prepared.opset_imports) for node in prepared.graph] == [11, 11]
    assert prepared.opset_imports[""] == 17
    again = ir.from_proto(ir.to_proto(prepared))  # as the nodes that run on the host are written and read
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(again, {"x": x})[0], evaluate(prepared, {"x": x})[0])


def test_schema_bodies_replace_what_is_not_native() -> None:
    proto = text("g (float[2,3] x) => (float[2,3] y) { a = HardSwish (x) y = Celu <alpha = 0.5> (a) }")
    prepared = same_results(proto, is_native=lambda domain, name, version: name not in ("HardSwish", "Celu"))
    assert not {"HardSwish", "Celu"} & set(operators(prepared))
    assert operators(same_results(proto)) == ["HardSwish", "Celu"]


@pytest.mark.parametrize(
    "name",
    [
        "test_layer_normalization_default_axis",
        "test_softmax_axis_1",
        "test_sce_mean_weight_ii_3d_log_prob",
        "test_attention_4d_causal",
        "test_clip",
        "test_sequence_map_add_2_sequences",
        "test_group_normalization_example",
        "test_loop11",
        "test_if_seq",
        "test_scan9_sum",
    ],
)
def test_expanding_everything_keeps_official_results(name: str) -> None:
    case = onnx_cases.load(name)
    model = prepare(load(case.model), is_native=lambda *_: False)
    onnx_cases.run_and_compare(case, lambda feeds: evaluate(model, feeds))


def test_constants_become_initializers_and_equal_ones_are_shared() -> None:
    proto = text(
        """g (float[2,3] x) => (float[2,3] y) {
            a = Constant <value_float = 2.0> ()
            b = Constant <value = float {2.0}> ()
            s = Constant <value_strings = ["ä", "b"]> ()
            n = Size (s)
            m = Cast <to = 1> (n)
            c = Mul (x, a)
            d = Mul (c, b)
            y = Mul (d, m)
        }"""
    )
    prepared = same_results(proto)
    assert "Constant" not in operators(prepared)
    assert len(prepared.graph.initializers) == 2


def test_identities_and_dead_code_disappear_but_names_stay() -> None:
    proto = text(
        """g (float[2,3] x) => (float[2,3] y, float[2,3] z) {
            a = Identity (x)
            b = Dropout (a)
            c = Relu (b)
            y = Identity (c)
            unused = Exp (c)
            z = Identity (x)
        }"""
    )
    assert operators(same_results(proto)) == ["Relu", "Identity"]


def test_dropout_that_may_train_stays() -> None:
    proto = text(
        """g (float[2,3] x, bool t) => (float[2,3] y) {
            r = Constant <value_float = 0.5> ()
            y = Dropout (x, r, t)
        }"""
    )
    assert operators(prepare(load(proto))) == ["Dropout"]


def test_values_of_subgraphs_get_names_of_their_own() -> None:
    """An inner value may hide an outer one; afterwards no two values share a name."""
    result = helper.make_empty_tensor_value_info("a")
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["a"])], "b", [], [result])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["a", "r"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [helper.make_tensor("c", TensorProto.BOOL, [], [1])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    names = [output.name for node in same_results(proto).graph.all_nodes() for output in node.outputs]
    assert len(set(names)) == len(names) == 5


def test_initializers_of_ir_version_3_are_constants() -> None:
    proto = text("g (float[2,3] x, float[3] w) => (float[2,3] y) { y = Add (x, w) }", ir_version=3, opset=8)
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3]))
    assert [value.name for value in prepare(load(proto)).graph.inputs] == ["x"]


def test_unused_optional_outputs_are_dropped_except_where_they_mean_training() -> None:
    pool = text("g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y, i = MaxPool <kernel_shape = [3, 3]> (x) }")
    assert len(prepare(load(pool)).graph.node(0).outputs) == 1
    norm = text(
        """g (float[2,3] x, float[3] s) => (float[2,3] y) {
            y, m, v = BatchNormalization <training_mode = 1> (x, s, s, s, s)
        }"""
    )
    assert len(prepare(load(norm)).graph.node(0).outputs) == 3
