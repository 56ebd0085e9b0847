"""Sources are told apart by what is in them; nothing in them runs."""

import io
import json
import pickle
import struct
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from sardonyx.converters.convert import convert
from sardonyx.converters.factory import kind_of
from sardonyx.converters.recognise import recognise
from sardonyx.converters.table import KINDS
from sardonyx.errors import ProviderError, SourceError


def archive(path, **files):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return str(path)


def torch_zip(path, data):
    return archive(path, archive__data_dot_pkl=data, archive__version="3")


class Bomb:
    """Its pickle would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


SAMPLES = {
    "tflite": b"\x1c\0\0\0TFL3" + bytes(40),
    "ort": b"\x1c\0\0\0ORTM" + bytes(40),
    "keras-h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "mxnet": struct.pack("<QQQ", 0x112, 0, 1) + bytes(40),
    "catboost": b"CBM1" + bytes(40),
    "lightgbm": b"tree\nversion=v4\n",
    "onnx": b"\x08\x09\x12\x04test",
    "graphdef": b"\x0a\x10\x0a\x01x\x12\x0bPlaceholder",
    "paddle": b"\x0a\x10\x08\0\x10\xff\xff",
}


def test_weights_of_paddle(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(16) + b"\x0a\0\0\0\x08\x05" + bytes(40))
    assert recognise(str(path)) == "paddle"


@pytest.mark.parametrize("kind", SAMPLES)
def test_by_the_first_bytes(tmp_path, kind):
    path = tmp_path / "model.bin"  # the name says nothing
    path.write_bytes(SAMPLES[kind])
    assert recognise(str(path)) == kind


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("mxnet", {"nodes": [], "arg_nodes": [], "heads": []}),
        ("xgboost", {"learner": {}, "version": [3]}),
        ("catboost", {"oblivious_trees": []}),
        ("paddle", {"base_code": {}, "program": {}}),
    ],
)
def test_by_the_keys_of_json(tmp_path, kind, content):
    path = tmp_path / "model.txt"
    path.write_text(json.dumps(content))
    assert recognise(str(path)) == kind


def test_archives(tmp_path):
    keras = archive(tmp_path / "a", config_dot_json="{}", model_dot_weights_dot_h5="")
    script = archive(tmp_path / "b", m__code__c_dot_py="", m__constants_dot_pkl="", m__data_dot_pkl="")
    exported = archive(tmp_path / "c", archive_format="pt2")
    skops = archive(tmp_path / "d", schema_dot_json="{}")
    assert [recognise(path) for path in (keras, script, exported, skops)] == [
        "keras", "torchscript", "torch-export", "skops",
    ]  # fmt: skip


def test_weights_and_modules_of_pytorch_are_told_apart_without_unpickling(tmp_path):
    weights = b"\x80\x02ccollections\nOrderedDict\n)Rctorch._utils\n_rebuild_tensor_v2\n0."
    module = b"\x80\x02cmypackage.net\nNet\n)\x81."
    assert recognise(torch_zip(tmp_path / "w", weights)) == "torch-weights"
    assert recognise(torch_zip(tmp_path / "m", module)) == "torch-pickle"


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3)])
def test_joblib_files_of_scikit_learn(tmp_path, compress):
    path = tmp_path / "model"
    joblib.dump(LinearRegression().fit(np.eye(3), np.arange(3)), path, compress=compress)
    assert recognise(str(path)) == "sklearn"


def test_safetensors(tmp_path):
    path = tmp_path / "weights"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert recognise(str(path)) == "safetensors"


def test_folders(tmp_path):
    for name, file, content in (
        ("saved-model", "saved_model.pb", b""),
        ("huggingface", "config.json", b'{"model_type": "bert"}'),
        ("tf-checkpoint", "model.index", b""),
        ("mxnet", "net-symbol.json", b""),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / file).write_bytes(content)
        assert recognise(str(folder)) == name


def test_a_checkpoint_of_tensorflow_by_its_prefix_and_by_its_index(tmp_path):
    index = tmp_path / "model.index"
    index.write_bytes(bytes(48) + (0xDB4775248B80FB57).to_bytes(8, "little"))
    assert recognise(str(tmp_path / "model")) == "tf-checkpoint"
    assert recognise(str(index)) == "tf-checkpoint"


def test_a_function_with_example_arguments_is_jax():
    assert kind_of((lambda x: x, (np.ones(3),))) == "jax"
    with pytest.raises(SourceError):
        kind_of((1, 2))


def test_a_function_is_named_by_its_module():
    assert recognise("package.module:make") == "module"


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"PK\x03\x04 cut off", b"\x80\x04"])
def test_anything_else_is_refused_with_a_reason(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError):
        recognise(str(path))


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        recognise(str(tmp_path / "nothing.pt"))
    with pytest.raises(SourceError, match="empty"):
        recognise(str(tmp_path))


def test_a_pickle_is_refused_and_its_code_does_not_run(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "model.pkl"
    buffer = io.BytesIO()
    pickle.dump({"model": LinearRegression(), "bomb": Bomb(str(trap))}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(SourceError, match="pickle") as caught:
        convert(path, tmp_path / "out.onnx")
    assert "--trust" in caught.value.hint
    assert not trap.exists()
    assert not list(tmp_path.glob("*.onnx"))


def test_each_kind_names_an_extra_that_exists():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for kind in KINDS.values():
        assert not kind.needs or kind.extra in project["optional-dependencies"], kind.name


def test_each_converter_is_there():
    import importlib.util

    for kind in KINDS.values():
        assert importlib.util.find_spec(f"sardonyx.converters.{kind.converter}"), kind.name


def test_a_missing_framework_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    import importlib.util

    path = tmp_path / "model.pb"
    path.write_bytes(SAMPLES["graphdef"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProviderError) as caught:
        convert(path, tmp_path / "out.onnx")
    assert f"sardonyx[{KINDS['graphdef'].extra}]" in caught.value.hint
    assert not list(tmp_path.glob("*.onnx"))
