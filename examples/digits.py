"""From scikit-learn to compiled code: train a recogniser of handwritten digits, run it with Sardonyx, check it.

    make demo                     # or: python examples/digits.py [OUT_DIR]

Two models of the same 1797 images of 8 x 8 pixels: a neural network (Gemm, Relu, Softmax, ArgMax) and a random
forest (TreeEnsembleClassifier). Both are written as standard ONNX files, with the batch left open.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import sardonyx

TOLERANCE = 1e-5
SHADES = " .:-=+*#%@"
_PLACES = ("treeids", "nodeids", "truenodeids", "falsenodeids")
_DECISIONS = ("featureids", "modes", "values", "missing_value_tracks_true")


def network_to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """A trained network as Gemm and Relu, layer by layer, then Softmax and ArgMax."""
    nodes, weights, value = [], [], "pixels"
    layers = list(zip(network.coefs_, network.intercepts_))
    for index, (weight, bias) in enumerate(layers, start=1):
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"weight{index}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"bias{index}"))
        inputs = [value, f"weight{index}", f"bias{index}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"dense{index}"], name=f"dense{index}"))
        value = f"dense{index}"
        if index < len(layers):
            nodes.append(helper.make_node("Relu", [value], [f"relu{index}"], name=f"relu{index}"))
            value = f"relu{index}"
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], name="softmax", axis=-1))
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["digit"], name="argmax", axis=-1, keepdims=0))
    return _model("digits_network", nodes, weights)


def forest_to_onnx(forest: RandomForestClassifier) -> onnx.ModelProto:
    """A trained forest as one TreeEnsembleClassifier, whose votes are the mean over its trees."""
    attributes: dict[str, list] = {f"nodes_{key}": [] for key in (*_PLACES, *_DECISIONS)}
    votes: dict[str, list] = {f"class_{key}": [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree_id, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] == -1
            row = {
                "treeids": tree_id,
                "nodeids": node,
                "featureids": 0 if leaf else int(tree.feature[node]),
                "modes": "LEAF" if leaf else "BRANCH_LEQ",
                "values": 0.0 if leaf else float(tree.threshold[node]),
                "truenodeids": 0 if leaf else int(tree.children_left[node]),
                "falsenodeids": 0 if leaf else int(tree.children_right[node]),
                "missing_value_tracks_true": 0,
            }
            for key, value in row.items():
                attributes[f"nodes_{key}"].append(value)
            if not leaf:
                continue
            shares = tree.value[node][0] / tree.value[node][0].sum() / len(forest.estimators_)
            for digit in np.flatnonzero(shares):
                votes["class_treeids"].append(tree_id)
                votes["class_nodeids"].append(node)
                votes["class_ids"].append(int(digit))
                votes["class_weights"].append(float(shares[digit]))
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["pixels"],
        ["digit", "probabilities"],
        name="forest",
        domain="ai.onnx.ml",
        classlabels_int64s=list(range(10)),
        post_transform="NONE",
        **attributes,
        **votes,
    )
    return _model("digits_forest", [node], [])


def _model(name: str, nodes: list, weights: list) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="sardonyx")
    onnx.checker.check_model(model, full_check=True)
    return model


def microseconds(call: Callable[[], object], seconds: float = 0.3) -> float:
    """The median time of a call."""
    call()
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return float(np.median(taken))


def picture(pixels: np.ndarray) -> str:
    """One image of 8 x 8 pixels in letters."""
    rows = pixels.reshape(8, 8)
    return "\n".join("".join(SHADES[int(p * 9.99)] * 2 for p in row) for row in rows)


def main(out: Path = Path("out")) -> int:
    """Train, write, run, check; returns the exit code."""
    console = Console()
    digits = load_digits()
    pixels = (digits.data / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    network = MLPClassifier((64, 32), max_iter=60, early_stopping=True, random_state=0)
    forest = RandomForestClassifier(50, max_depth=12, random_state=0)
    out.mkdir(parents=True, exist_ok=True)

    table = Table(title="Handwritten digits", title_justify="left")
    for column in ("model", "accuracy", "difference", "load", "sklearn", "sardonyx"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    table.caption = "difference from scikit-learn, time to load, time for one image"
    agreed = True
    for classifier, convert in ((network, network_to_onnx), (forest, forest_to_onnx)):
        classifier.fit(train_x, train_y)
        model = convert(classifier)
        path = out / f"{model.graph.name}.onnx"
        onnx.save(model, path)

        start = time.perf_counter()
        session = sardonyx.Session(path)
        load = time.perf_counter() - start
        digit, probabilities = session.run({"pixels": test_x}, ["digit", "probabilities"])

        difference = float(np.abs(probabilities - classifier.predict_proba(test_x)).max())
        agreed &= difference < TOLERANCE
        one = test_x[:1]
        table.add_row(
            path.name,
            f"{(digit == test_y).mean():.1%}",
            f"{difference:.1e}",
            f"{load * 1e3:.0f} ms",
            f"{microseconds(lambda c=classifier, x=one: c.predict_proba(x)):.0f} us",
            f"{microseconds(lambda s=session, x=one: s.run({'pixels': x})):.1f} us",
        )
    console.print(f"\nA digit of the test set, recognised as {digit[0]} (it is {test_y[0]}):\n")
    console.print(picture(test_x[0]), highlight=False)
    console.print(table)
    if not agreed:
        console.print(f"[bold red]Probabilities differ from scikit-learn by more than {TOLERANCE}.")
        return 1
    console.print(f"Probabilities agree with scikit-learn to {TOLERANCE}. To play on:\n")
    for command in ("inspect {0}", "run {0} --dim batch=3", "bench {0} --dim batch=32"):
        console.print(f"    .venv/bin/sardonyx {command.format(out / 'digits_network.onnx')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*(Path(argument) for argument in sys.argv[1:])))
