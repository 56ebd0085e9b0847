"""Bad input of every kind, without the frameworks: a typed error that helps, and nothing written, nothing run."""

import contextlib
import importlib.util
import io
import json
import pickle
import struct
import sys
import zipfile

import pytest

from sardonyx.converters.convert import convert
from sardonyx.converters.recognise import recognise
from sardonyx.converters.table import KINDS
from sardonyx.errors import ProviderError, SardonyxError, SourceError


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Bomb:
    """Its pickle would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


TENSORS = b'{"w":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}'
WHOLE = {
    "onnx": b"\x08\x09\x12\x04test" + bytes(200),
    "ort": b"\x1c\0\0\0ORTM" + bytes(200),
    "tflite": b"\x1c\0\0\0TFL3" + bytes(200),
    "keras-h5": b"\x89HDF\r\n\x1a\n" + bytes(200),
    "keras": zipped(**{"model.weights.h5": bytes(500), "config.json": "{}"}),
    "torch-export": zipped(archive_format="pt2", data=bytes(500)),
    "torchscript": zipped(**{"m/code/c.py": "", "m/constants.pkl": "", "m/data.pkl": bytes(500)}),
    "torch-weights": zipped(**{"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(500)}),
    "skops": zipped(**{"schema.json": "{}", "1.npy": bytes(500)}),
    "safetensors": len(TENSORS).to_bytes(8, "little") + TENSORS + bytes(400),
    "mxnet": struct.pack("<QQQ", 0x112, 0, 1) + bytes(200),
    "mxnet.json": json.dumps({"nodes": [], "arg_nodes": [], "heads": []}).encode(),
    "graphdef": b"\x0a\x10\x0a\x01x\x12\x0bPlaceholder" + bytes(100),
    "paddle": b"\x0a\x10\x08\0\x10\xff\xff" + bytes(100),
    "paddle.json": json.dumps({"base_code": {}, "program": {"regions": []}}).encode(),
    "pdiparams": bytes(16) + b"\x0a\0\0\0\x08\x05" + bytes(100),
    "xgboost.json": json.dumps({"learner": {}, "version": [3]}).encode(),
    "lightgbm": b"tree\nversion=v4\nnum_class=1\n" + b"leaf_value=1\n" * 20,
    "catboost": b"CBM1" + bytes(200),
    "pickle": pickle.dumps({"weights": list(range(200))}),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_half_a_file_of_every_kind(tmp_path, kind):
    source, out = tmp_path / "model.bin", tmp_path / "out"
    source.write_bytes(WHOLE[kind][: len(WHOLE[kind]) // 2])
    with pytest.raises(SardonyxError) as caught:
        convert(source, out / "net.onnx")
    assert caught.value.message
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "keras", "h5", "tflite", "pb", "pdmodel", "json", "joblib", "ubj"])
@pytest.mark.parametrize("content", [b"", b"not a model at all\n", bytes(64)], ids=["empty", "text", "zeros"])
def test_an_empty_file_and_a_wrong_extension(tmp_path, suffix, content):
    source, out = tmp_path / f"model.{suffix}", tmp_path / "out"
    source.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        convert(source, out / "net.onnx")
    assert str(source) in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("wrap", ["plain", "torch"])
def test_code_in_a_pickle_does_not_run(tmp_path, wrap):
    trap = tmp_path / "trap"
    data = pickle.dumps({"net": Bomb(str(trap))}, protocol=2)
    source = tmp_path / "model.pt"
    source.write_bytes(data if wrap == "plain" else zipped(**{"archive/data.pkl": data, "archive/version": "3"}))
    with pytest.raises(SourceError, match="pickle") as caught:
        convert(source, tmp_path / "net.onnx")
    assert "--trust" in caught.value.hint
    assert not trap.exists()
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.needs], ids=lambda kind: kind.name)
def test_a_missing_framework_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, kind):
    source = tmp_path / "model"
    source.write_bytes(b"anything")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if not kind.converter:
        pytest.skip("not converted yet")
    with pytest.raises(ProviderError) as caught:
        convert(source, tmp_path / "out" / "net.onnx", kind=kind.name, trust=True)
    assert caught.value.hint == f"pip install 'sardonyx[{kind.extra}]'"
    assert kind.needs[0] in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_kind_that_does_not_exist(tmp_path):
    (tmp_path / "model").write_bytes(b"anything")
    with pytest.raises(SourceError, match="kind of source"):
        convert(tmp_path / "model", tmp_path / "net.onnx", kind="sorcery")


def test_a_function_that_cannot_be_imported(tmp_path):
    with pytest.raises(SourceError, match="no_such_module"):
        convert("no_such_module:make", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_factory_that_fails_is_an_error_with_its_words(tmp_path, monkeypatch):
    (tmp_path / "broken_factory.py").write_text("def make():\n    raise KeyError('weights')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SardonyxError, match="weights"):
        convert("broken_factory:make", tmp_path / "out" / "net.onnx")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="no kind"):
        convert(tmp_path, tmp_path / "net.onnx")


def test_weights_of_paddle_without_their_program(tmp_path):
    from sardonyx.converters.paddle import files

    (tmp_path / "net.pdiparams").write_bytes(WHOLE["pdiparams"])
    with pytest.raises(SourceError, match="weights alone"):
        files(tmp_path / "net.pdiparams")
    (tmp_path / "net.json").write_bytes(WHOLE["paddle.json"])
    assert files(tmp_path) == files(tmp_path / "net.json") == (tmp_path / "net.json", tmp_path / "net.pdiparams")
    (tmp_path / "net.pdiparams").unlink()
    assert files(tmp_path / "net.json")[0] == tmp_path / "net.json"  # it has none
    block = {"ops": [{"#": "1.data"}, {"#": "p"}]}
    (tmp_path / "net.json").write_text(json.dumps({"base_code": {}, "program": {"regions": [{"blocks": [block]}]}}))
    with pytest.raises(SourceError, match="missing"):
        files(tmp_path / "net.json")


def test_operations_of_paddle_are_found_in_inner_blocks():
    from sardonyx.converters.paddle import operations

    inner = {"ops": [{"#": "1.relu"}, {"#": "0.yield"}]}
    block = {"ops": [{"#": "1.data"}, {"#": "p"}, {"#": "1.if", "regions": [{"blocks": [inner]}]}, {"#": "1.fetch"}]}
    assert operations({"program": {"regions": [{"blocks": [block]}]}}) == {"if", "relu", "yield"}


def test_doubles_in_lists_become_what_paddle2onnx_reads():
    from sardonyx.converters.paddle import narrow

    scale = {"#": "0.a_array", "D": [{"#": "0.a_f64", "D": 2.0}, {"#": "0.a_i32", "D": 1}]}
    found = narrow({"A": [{"AT": scale}], "x": {"#": "0.a_f64", "D": 0.5}})
    assert [each["#"] for each in found["A"][0]["AT"]["D"]] == ["0.a_f32", "0.a_i32"]
    assert found["x"]["#"] == "0.a_f64"


def test_nothing_of_a_framework_is_imported_to_recognise(tmp_path):
    before = {name for name in ("torch", "tensorflow", "jax", "paddle", "keras") if name in sys.modules}
    for kind, content in WHOLE.items():
        source = tmp_path / kind
        source.write_bytes(content[: len(content) // 2])
        with contextlib.suppress(SourceError):
            recognise(str(source))
    assert {name for name in ("torch", "tensorflow", "jax", "paddle", "keras") if name in sys.modules} == before
