"""What of the TensorFlow converter needs no TensorFlow."""

from types import SimpleNamespace

import onnx_ir as ir
import pytest

from sardonyx.converters.tensorflow import keep_needed
from sardonyx.converters.tf_points import channels_first


@pytest.mark.parametrize(
    ("tensor", "value", "first"),
    [
        ([None, 7, 11, 3], ["batch", 7, 11, 3], False),
        ([None, 7, 11, 3], ["batch", 3, 7, 11], True),
        ([1, 5, 7, 11, 3], [1, 3, 5, 7, 11], True),
        ([None, None, None, 13], ["batch", 13, "h", "w"], True),  # the more sizes are equal, the likelier
        ([None, 7, 7, 7], ["batch", 7, 7, 7], None),
        ([None, 5, 7], ["batch", 5, 7], False),  # transpositions of matrices are not moved
        ([None, 5, 7], ["batch", 7, 5], None),
        ([None, 5], ["batch", 5, 1], None),
        (None, [3], None),
        ([3], None, None),
    ],
)
def test_whether_a_value_has_its_channels_first_is_told_by_its_sizes(tensor, value, first):
    assert channels_first(tensor, None if value is None else ir.Shape(value)) is first


def test_operations_that_no_wanted_tensor_depends_on_are_dropped():
    class Nodes(list):
        """Of protobuf, as far as it is used."""

    def node(name, *inputs):
        return SimpleNamespace(name=name, input=inputs)

    graph = SimpleNamespace(
        node=Nodes(
            [node("x"), node("labels"), node("switch"), node("y", "x:0", "^switch"), node("loss", "y:1", "labels")]
        )
    )
    keep_needed(graph, ["y:1", "x:0"])
    assert [each.name for each in graph.node] == ["x", "switch", "y"]
