"""Training what pruning left: it helps, it refuses what it cannot train through, and says what is missing."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from fake_bench import perceptron, rows, task

import sardonyx
from sardonyx.errors import OptimizationError, ProviderError
from sardonyx.model.load import load
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.search.bench import apply_steps
from sardonyx.optimizer.step import Context

NET = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,3,11,7] x) => (float[n,5] y)
    <float[8,3,3,3] w, float[8] b, float[8,1,3,3] d, float[5,8] v, float[5] c, int64[2] axes = {2, 3}> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = HardSwish(a)
    e = Conv <pads = [1, 0, 1, 0], strides = [2, 1], group = 8> (r, d) p = MaxPool <kernel_shape = [2, 2]> (e)
    m = ReduceMean <keepdims = 0> (p, axes) y = Gemm <transB = 1> (m, v, c)
}"""


def net():
    rng, proto = np.random.default_rng(0), onnx.parser.parse_model(NET)
    for name, shape in {"w": (8, 3, 3, 3), "b": (8,), "d": (8, 1, 3, 3), "v": (5, 8), "c": (5,)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


def data(count=23):
    rng = np.random.default_rng(1)
    return Data([{"x": rng.standard_normal((1, 3, 11, 7)).astype(np.float32)} for _ in range(count)])


def errors(model, other, samples):
    sessions = sardonyx.Session(model), sardonyx.Session(other)
    pairs = [[session.run(dict(feeds))[0] for session in sessions] for feeds in samples]
    return float(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(a**2) for a, _ in pairs))


def test_what_is_missing_is_said_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProviderError, match="needs PyTorch") as raised:
        apply_steps(load(net()), [{"fine-tune": {}}], Context(data()))
    assert "pip install 'sardonyx[torch]'" in raised.value.hint
    model = perceptron(tmp_path / "model.onnx")
    from dataclasses import replace

    with pytest.raises(ProviderError, match="needs PyTorch"):
        replace(task(model, tmp_path / "out.onnx", rows(model)), finetune=True).run()
    assert not (tmp_path / "out.onnx").exists()


def test_the_graph_in_pytorch_gives_what_the_model_gives():
    torch = pytest.importorskip("torch")
    from sardonyx.optimizer.finetune.torch_graph import TorchGraph
    from sardonyx.optimizer.tidy import tidied

    x = data(1).feeds[0]["x"]
    [have] = TorchGraph(tidied(load(net()))).run({"x": torch.from_numpy(x)})
    [want] = sardonyx.Session(net()).run({"x": x})
    np.testing.assert_allclose(have.detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_training_brings_a_pruned_model_nearer_to_the_original_and_repeats():
    pytest.importorskip("torch")
    prune = {"prune-channels": {"flops": 0.4, "reconstruct": False}}
    pruned, _, _ = apply_steps(load(net()), [prune], Context(data(97)))
    found = [apply_steps(load(net()), [prune, {"fine-tune": {"rate": 0.01}}], Context(data(97))) for _ in range(2)]
    fresh = Data(data(131).feeds[97:])
    assert errors(net(), found[0][0], fresh) < 0.8 * errors(net(), pruned, fresh)
    assert "trained: error" in found[0][1][-1]
    first, second = (each.graph.initializers["w"].const_value.numpy() for each, _, _ in found)
    np.testing.assert_array_equal(first, second)


def test_what_cannot_be_trained_through_is_named():
    pytest.importorskip("torch")
    with pytest.raises(OptimizationError, match="nothing can be trained through QuantizeLinear"):
        apply_steps(load(net()), [{"static-int8": {}}, {"fine-tune": {}}], Context(data()))


def test_an_original_cannot_be_brought_nearer_to_itself():
    pytest.importorskip("torch")
    _, notes, modified = apply_steps(load(net()), [{"fine-tune": {"steps": 20}}], Context(data()))
    assert not modified
    assert "did not help" in notes[0]
