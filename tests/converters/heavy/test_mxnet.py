"""MXNet itself: its zoo of vision networks with random weights, and small networks of all operators."""

import os
import subprocess
import sys

import numpy as np
import pytest
from converters.heavy import mxnet_networks
from converters.heavy.common import converted

from sardonyx import Session
from sardonyx.converters.mxnet import open_source
from sardonyx.converters.source import Request
from sardonyx.verifier.compare import compare
from sardonyx.verifier.tolerance import Tolerance

pytestmark = pytest.mark.converters

ZOO = """
mobilenet0_25 squeezenet1_1 resnet18_v1 mobilenet_v2_0_25 densenet121 resnet18_v2 inception_v3 resnet50_v1 mobilenet1_0
mobilenet_v2_1_0 squeezenet1_0 resnet50_v2 alexnet vgg11 vgg11_bn vgg16
""".split()


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_of_vision_networks(name, tmp_path):
    import mxnet
    from mxnet.gluon.model_zoo import vision

    size = 299 if name == "inception_v3" else 224
    mxnet.random.seed(0)
    net = getattr(vision, name)(classes=100)
    net.initialize(mxnet.init.Xavier())
    net.hybridize()
    image = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    with mxnet.autograd.train_mode():  # moves the averages of batch normalisation away from 0 and 1
        net(mxnet.nd.array(image))
    net(mxnet.nd.array(image))
    net.export(str(tmp_path / name))
    options = {"inputs": f"data:float32[batch,3,{size},{size}]"}
    source = tmp_path / f"{name}-symbol.json"
    result = converted(source, "mxnet 1.9.1, random weights", name, kind="mxnet", options=options)
    assert result.report.stages[0] == "mxnet"


def written(name, folder):
    """A network of `mxnet_networks` with inputs and outputs, written by another process.

    MKLDNN refuses some deconvolutions; without it MXNet cannot run its fused recurrent operator.
    """
    environment = {**os.environ, "MXNET_MKLDNN_ENABLED": "0" if name == "layers" else "1"}
    command = [sys.executable, mxnet_networks.__file__, str(folder), name]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    with np.load(folder / f"{name}.npz") as content:
        feeds = {key.removeprefix("in:"): content[key] for key in content.files if key.startswith("in:")}
        outputs = [content[f"out{number}"] for number in range(len(content.files) - len(feeds))]
    return folder / f"{name}-symbol.json", feeds, outputs


@pytest.mark.parametrize("name", ["ssd", "text", "rnn_lstm_2", "rnn_gru", "rnn_tanh"])
def test_detection_text_and_recurrent_networks(name, tmp_path):
    path, feeds, _ = written(name, tmp_path)
    converted(path, "mxnet 1.9.1, random weights", name, kind="mxnet", samples=[feeds])


@pytest.mark.parametrize("name", mxnet_networks.NETWORKS)
def test_networks_of_all_operators(name, tmp_path):
    path, feeds, expected = written(name, tmp_path)
    source = open_source(Request(str(path), "mxnet", samples=[feeds]), lambda text: None)
    source.export(tmp_path / "model.onnx")
    session = Session(str(tmp_path / "model.onnx"))
    found = session.run({port.name: feeds[port.name] for port in session.inputs})
    for number, (want, got) in enumerate(zip(expected, found, strict=True)):
        assert not compare(want, np.asarray(got), Tolerance(2.0**-24, 400.0)).failed, number
