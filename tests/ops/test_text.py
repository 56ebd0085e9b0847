"""com.microsoft's Tokenizer, and what follows text in a model."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sardonyx import Session, SessionOptions
from sardonyx.errors import SardonyxError


def session(nodes, outputs, shape=("n",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return Session(helper.make_model(graph, opset_imports=imports, ir_version=9), SessionOptions(progress=False))


def tokens(texts, **attributes):
    node = helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", **attributes)
    shape = [f"d{axis}" for axis in range(np.ndim(texts))]
    [found] = session([node], {"y": TensorProto.STRING}, shape).run({"x": np.array(texts, object)})
    return found.tolist()


WORDS = {"tokenexp": r"[\p{L}\p{N}_]{2,}", "pad_value": "#"}
SEPARATED = {"separators": [" ", "[.,]"], "pad_value": "#"}


@pytest.mark.parametrize(
    ("texts", "attributes", "expected"),
    [
        (["naïve Ωmega a b2", "日本語 x"], WORDS, [["naïve", "Ωmega", "b2"], ["日本語", "#", "#"]]),
        (["a b,c", "d"], SEPARATED, [["a", "b", "c"], ["d", "#", "#"]]),
        (["a (b)", ""], {"separators": [r"\s|\(|\)"]}, [["a", "b"], ["", ""]]),
        (["né"], {"separators": [""], "mark": 1}, [["\x02", "n", "é", "\x03"]]),
        (["a bcd ef"], {"separators": [" "], "mincharnum": 2}, [["bcd", "ef"]]),
        ([["a b"], ["c"]], SEPARATED, [[["a", "b"]], [["c", "#"]]]),
        (["", "!"], WORDS, [[], []]),
    ],
)
def test_tokens(texts, attributes, expected):
    assert tokens(texts, **attributes) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"case_change_action": "LOWER"}, ["naïve", "", "the", "the end"]),
        ({"case_change_action": "UPPER", "stopwords": ["the"]}, ["NAÏVE", "", "THE END"]),
        ({"stopwords": ["the"], "is_case_sensitive": 1}, ["Naïve", "", "The", "the end"]),
        ({"stopwords": ["naïve", "", "the", "the end"]}, [""]),
    ],
)
def test_normalised_texts_keep_accents_and_empty_ones(attributes, expected):
    node = helper.make_node("StringNormalizer", ["x"], ["y"], **attributes)
    texts = np.array(["Naïve", "", "The", "the end"], object)
    assert session([node], {"y": TensorProto.STRING}).run({"x": texts})[0].tolist() == expected


def test_an_expression_that_is_none_is_refused():
    with pytest.raises(SardonyxError, match="Tokenizer"):
        tokens(["a"], tokenexp="(")


def test_what_follows_words_in_a_model_is_native():
    nodes = [
        helper.make_node("Tokenizer", ["x"], ["t"], domain="com.microsoft", **WORDS),
        helper.make_node(
            "TfIdfVectorizer",
            ["t"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=[0, 1],
            pool_strings=["good", "bad"],
        ),
        helper.make_node("ReduceSum", ["counts", "axis"], ["y"]),
    ]
    nodes.insert(0, helper.make_node("Constant", [], ["axis"], value_ints=[1]))
    run = session(nodes, {"y": TensorProto.FLOAT})
    np.testing.assert_array_equal(run.run({"x": np.array(["bad good bad", "ugly", ""], object)})[0], [[3], [0], [0]])
    places = {place.operator: place.provider for place in run.placement()}
    assert places["ReduceSum"] == "native"
    assert places["Tokenizer"] == "reference"


def test_it_means_the_same_to_onnx_runtime():
    runtime = pytest.importorskip("onnxruntime")
    node = helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", mark=0, mincharnum=1, **WORDS)
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.STRING, ["n"])], [value("y", TensorProto.STRING, None)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", *ends), opset_imports=imports, ir_version=9)
    texts = ["naïve Ωmega a b2", "x-ray, don't", "123 4 __init__"]
    theirs = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": np.array(texts, object)})[0]
    assert tokens(texts, **WORDS) == theirs.tolist()
