"""Planted faults are found, each at its own node, and a model is never blamed for what it shares with the truth."""

import networks
import numpy as np
import pytest

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.model.load import load
from sardonyx.verifier.locate import first_difference
from sardonyx.verifier.samples import make_samples


def feeds_for(model):
    inputs = model_inputs(model)
    feeds = make_samples(inputs)[0].feeds
    if "ids" in feeds:
        feeds = {"ids": np.random.default_rng(0).integers(0, 50, (2, 5))}
    return feeds


@pytest.mark.parametrize("title", networks.FAULTS)
def test_a_planted_fault_is_found_at_its_node(title):
    name, plant = networks.FAULTS[title]
    truth, faulty = networks.network(name), networks.network(name)
    expected = plant(faulty)
    truth, faulty = load(truth), load(faulty)
    suspect = first_difference(truth, faulty, feeds_for(truth))
    assert suspect is not None
    assert suspect.node == expected
    assert suspect.causes, "a cause is named"


@pytest.mark.parametrize("name", ["cnn", "transformer", "recurrent"])
def test_a_model_does_not_differ_from_itself(name):
    truth = load(networks.network(name))
    assert first_difference(truth, load(networks.network(name)), feeds_for(truth)) is None


@pytest.mark.parametrize("name", ["cnn", "transformer", "recurrent"])
def test_other_names_are_no_difference(name):
    truth, other = networks.network(name), networks.network(name)
    outputs = {value.name for value in other.graph.output}
    for number, node in enumerate(other.graph.node):
        node.name = f"n{number}"
        node.input[:] = [_renamed(value, other, outputs) for value in node.input]
        node.output[:] = [_renamed(value, other, outputs) for value in node.output]
    truth, other = load(truth), load(other)
    assert first_difference(truth, other, feeds_for(truth)) is None


def _renamed(value, model, outputs):
    kept = outputs | {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    return value if value in kept else f"renamed_{value}"


def test_a_fault_is_found_under_other_names():
    truth, faulty = networks.network("cnn"), networks.network("cnn")
    networks.weight(faulty, "conv2", "conv2_w", lambda w: w * np.float32(1.01))
    outputs = {value.name for value in faulty.graph.output}
    for node in faulty.graph.node:
        node.input[:] = [_renamed(value, faulty, outputs) for value in node.input]
        node.output[:] = [_renamed(value, faulty, outputs) for value in node.output]
    truth, faulty = load(truth), load(faulty)
    assert first_difference(truth, faulty, feeds_for(truth)).node == "conv2"


def test_an_optimised_form_is_no_difference():
    """Batch normalisation folded into the convolution: other nodes and weights, the same values."""
    truth, folded = networks.network("cnn"), networks.network("cnn")
    held = {t.name: np.array(networks.numpy_helper.to_array(t), np.float64) for t in folded.graph.initializer}
    factor = held["bn1_scale"] / np.sqrt(held["bn1_var"] + 1e-3)
    networks.weight(folded, "", "conv1_w", lambda w: (w * factor[:, None, None, None]).astype(np.float32))
    bias = (held["conv1_b"] - held["bn1_mean"]) * factor + held["bn1_shift"]
    networks.weight(folded, "", "conv1_b", lambda b: bias.astype(np.float32))
    networks.node(folded, "conv1").output[0] = "b1"
    folded.graph.node.remove(networks.node(folded, "bn1"))
    truth, folded = load(truth), load(folded)
    assert first_difference(truth, folded, feeds_for(truth)) is None
