"""What is decided about PyTorch's sources before PyTorch is imported, and without it."""

import importlib.util
import json
import pickle
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

from sardonyx.converters import pytorch, torch_guess, torch_load, torch_script
from sardonyx.converters.convert import convert
from sardonyx.converters.recognise import recognise, whole
from sardonyx.converters.source import Request
from sardonyx.errors import ProviderError, SardonyxError, SourceError

WEIGHTS = b"\x80\x02ccollections\nOrderedDict\n)Rctorch._utils\n_rebuild_tensor_v2\n0."


class Bomb:
    """Its pickle would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class Tensor:
    """As much of a tensor as is asked for."""

    def detach(self):
        return self


def checkpoint(path, data=WEIGHTS):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/data/0", bytes(400))
        file.writestr("archive/version", "3")
    return path


def safetensors(path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return path


@pytest.fixture
def installed(monkeypatch):
    """As if PyTorch were there: it must not be needed to refuse these."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def nothing_is_written(folder):
    return not [path for path in folder.iterdir() if path.suffix == ".onnx" or path.name.startswith(".convert")]


@pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.jit", "net.bin", "net.safetensors"])
def test_an_empty_file_is_refused_under_any_name(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match="empty"):
        convert(tmp_path / name, tmp_path / "out.onnx")
    assert nothing_is_written(tmp_path)


def test_a_wrong_extension_does_not_matter(tmp_path):
    assert recognise(str(checkpoint(tmp_path / "net.onnx"))) == "torch-weights"
    assert recognise(str(safetensors(tmp_path / "net.pt"))) == "safetensors"


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_half_a_checkpoint_is_refused(tmp_path, part):
    path = checkpoint(tmp_path / "net.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SourceError, match="damaged") as caught:
        convert(path, tmp_path / "out.onnx")
    assert caught.value.hint
    assert nothing_is_written(tmp_path)


def test_half_of_safetensors_is_refused(tmp_path):
    path = safetensors(tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(SourceError):
        convert(path, tmp_path / "out.onnx")
    assert nothing_is_written(tmp_path)


def test_a_pickled_module_is_refused_and_its_code_does_not_run(tmp_path):
    trap = tmp_path / "trap"
    path = checkpoint(tmp_path / "net.pt", pickle.dumps({"net": Bomb(str(trap))}, protocol=2))
    with pytest.raises(SourceError, match="pickle") as caught:
        convert(path, tmp_path / "out.onnx")
    assert "--trust" in caught.value.hint
    assert not trap.exists()
    assert nothing_is_written(tmp_path)


@pytest.mark.parametrize("make", [checkpoint, safetensors])
def test_weights_need_a_function_that_makes_their_module(tmp_path, make, installed):
    path = make(tmp_path / "net")
    with pytest.raises(SourceError, match="weights alone") as caught:
        torch_load.load(Request(str(path), recognise(str(path))))
    assert "factory=" in caught.value.hint


@pytest.mark.parametrize("make", [checkpoint, safetensors])
def test_a_missing_pytorch_is_named_with_the_command_that_installs_it(tmp_path, make, monkeypatch):
    path = make(tmp_path / "net")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProviderError, match="torch") as caught:
        convert(path, tmp_path / "out.onnx")
    assert "sardonyx[torch]" in caught.value.hint


def test_weights_in_a_hugging_face_folder_are_the_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    path = str(safetensors(tmp_path / "model.safetensors"))
    assert whole(path, "safetensors", {}) == (str(tmp_path), "huggingface")
    assert whole(path, "safetensors", {"factory": "a:b"}) == (path, "safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"width": 3}))
    assert whole(path, "safetensors", {}) == (path, "safetensors")


def test_the_weights_in_a_training_checkpoint_are_found():
    weights = OrderedDict(a=Tensor(), b=Tensor())
    assert torch_load.tensors_of(weights) is weights
    assert torch_load.tensors_of({"step": 3, "encoder_weights": weights, "optimizer": {"lr": 0.1}}) is weights
    assert torch_load.tensors_of({"state_dict": weights, "ema": dict(weights)}) is weights


@pytest.mark.parametrize("content", [{"step": 3}, {"one": {"a": Tensor()}, "two": {"a": Tensor()}}, [1, 2], {}])
def test_a_checkpoint_without_clear_weights_is_refused(content):
    with pytest.raises(SardonyxError):
        torch_load.tensors_of(content)


def layer(kind, module="torch.nn.modules.conv", **sizes):
    """A stand-in for a layer of PyTorch, or for what is derived from one."""
    base = type(kind, (), {"__module__": module})
    return type("Mine", (base,), {"__module__": "mine"})(), sizes


def net(*layers):
    parts = []
    for part, sizes in layers:
        part.__dict__.update(sizes)
        parts.append(part)
    return SimpleNamespace(modules=lambda: iter(parts))


def guessed(module):
    return [candidate[0].shape for candidate in torch_guess._candidates(module, ["x"])]


def test_inputs_are_guessed_from_the_first_layer_or_what_is_derived_from_one():
    assert guessed(net(layer("ReLU"), layer("Conv2d", in_channels=4)))[0] == ("batch", 4, 224, 224)
    assert ("batch", 4, 24, 24) in guessed(net(layer("Conv2d", in_channels=4)))
    assert ("batch", 1024) in guessed(net(layer("Conv2d", in_channels=1)))  # a signal
    assert guessed(net(layer("LSTM", "torch.nn.modules.rnn", input_size=7))) == [("batch", "length", 7)]
    assert guessed(net(layer("Conv2d", "elsewhere", in_channels=4))) == []


def test_what_a_script_remembers_is_dynamic_where_it_follows_the_batch():
    runs = [{"x": np.zeros((size, 5))} for size in (2, 3)]
    assert torch_script._dims([(2, 2, 8), (2, 3, 8)], runs) == (2, "batch", 8)
    assert torch_script.input_name("decoder._state") == "decoder__state"
    assert torch_script.input_name("_state") == "state"


def test_of_a_long_message_the_first_cause_is_told():
    problem = RuntimeError("\x1b[96mStep 1 of 3\x1b[0m\nNext steps: ...")
    problem.__cause__ = ValueError("the \x1b[1mreal\x1b[0m reason\nand where")
    assert torch_load.brief(problem) == "ValueError: the real reason"
    assert torch_load.brief(KeyError()) == "KeyError: no message"


def test_a_dynamic_size_of_one_is_not_traced():
    sample = np.arange(3.0).reshape(1, 3, 1)
    assert pytorch._no_ones(sample, ("batch", 3, 1)).shape == (2, 3, 1)
    assert pytorch._no_ones(sample, ("batch", "width", "n")).shape == (2, 3, 2)
    assert pytorch._no_ones(sample, (1, 3, 1)) is sample
