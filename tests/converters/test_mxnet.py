"""MXNet's files converted without MXNet; what it computes was stored beside them (by heavy/mxnet_networks.py)."""

import contextlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from sardonyx import Session
from sardonyx.converters.convert import convert
from sardonyx.converters.mxnet import open_source
from sardonyx.converters.mxnet_files import find_files, read_params, read_symbol
from sardonyx.converters.source import Request
from sardonyx.errors import ConversionError, InputError, SourceError
from sardonyx.runtime.options import SessionOptions
from sardonyx.verifier.compare import compare
from sardonyx.verifier.tolerance import Tolerance

FIXTURES = Path(__file__).with_name("fixtures") / "mxnet"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.npz"))


def stored(name):
    """Inputs, and the outputs that MXNet computed."""
    with np.load(FIXTURES / f"{name}.npz") as content:
        feeds = {key.removeprefix("in:"): content[key] for key in content.files if key.startswith("in:")}
        return feeds, [content[f"out{number}"] for number in range(len(content.files) - len(feeds))]


def exported(source, path, feeds):
    opened = open_source(Request(str(source), "mxnet", samples=[feeds]), lambda text: None)
    opened.export(path)
    return opened


@pytest.mark.parametrize("name", NAMES)
def test_operators_compute_what_mxnet_does(name, tmp_path):
    feeds, expected = stored(name)
    exported(FIXTURES / f"{name}-symbol.json", tmp_path / "model.onnx", feeds)
    session = Session(str(tmp_path / "model.onnx"), SessionOptions(providers=("reference",)))
    found = session.run({port.name: feeds[port.name] for port in session.inputs})
    assert len(found) == len(expected)
    for number, (want, got) in enumerate(zip(expected, found, strict=True)):
        difference = compare(want, np.asarray(got), Tolerance(2.0**-24, 400.0))
        assert not difference.failed, (number, difference, want.shape, np.shape(got))


@pytest.mark.parametrize("name", ["small_cnn", "text"])
def test_a_network_of_gluon_is_converted_and_compared_under_two_runtimes(name, tmp_path):
    feeds, expected = stored(name)
    result = convert(FIXTURES / f"{name}-symbol.json", tmp_path / "model.onnx", samples=[feeds])
    assert result.report.passed
    np.testing.assert_allclose(Session(str(result.path)).run(feeds)[0], expected[0], rtol=1e-4, atol=1e-5)


def test_without_mxnet_a_note_says_what_was_not_compared(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mxnet" else find(name, *rest))
    feeds, _ = stored("small_cnn")
    result = convert(FIXTURES / "small_cnn-symbol.json", tmp_path / "model.onnx", samples=[feeds])
    assert any("mxnet is not installed" in note for note in result.report.notes)
    assert result.report.stages == ["reference", "sardonyx"]


def test_shapes_are_given_as_text_and_the_batch_is_open(tmp_path):
    options = {"inputs": "data:float32[batch,3,9,11]"}
    source = open_source(Request(str(FIXTURES / "small_cnn-symbol.json"), "mxnet", options=options), lambda text: None)
    source.export(tmp_path / "model.onnx")
    session = Session(str(tmp_path / "model.onnx"))
    assert session.inputs[0].shape == ("batch", 3, 9, 11)
    assert session.run({"data": np.zeros((7, 3, 9, 11), np.float32)})[0].shape == (7, 5)


def test_indices_of_an_embedding_have_a_range():
    feeds, _ = stored("text")
    source = open_source(Request(str(FIXTURES / "text-symbol.json"), "mxnet", samples=[feeds]), lambda text: None)
    assert (source.inputs()[0].low, source.inputs()[0].high) == (0, 10)


def test_a_shape_that_nobody_knows_is_asked_for():
    with pytest.raises(InputError, match="'data'") as caught:
        open_source(Request(str(FIXTURES / "small_cnn-symbol.json"), "mxnet"), lambda text: None)
    assert "--option" in caught.value.hint


# --- files


def copied(tmp_path, *endings):
    for ending in endings:
        shutil.copy(FIXTURES / f"small_cnn{ending}", tmp_path)
    return tmp_path


def test_either_file_or_the_folder_finds_both(tmp_path):
    folder = copied(tmp_path, "-symbol.json", "-0000.params")
    pair = folder / "small_cnn-symbol.json", folder / "small_cnn-0000.params"
    assert find_files(str(pair[0])) == find_files(str(pair[1])) == find_files(str(folder)) == pair


def test_parameters_without_a_symbol_are_refused(tmp_path):
    copied(tmp_path, "-0000.params")
    with pytest.raises(SourceError, match="parameters alone"):
        convert(tmp_path / "small_cnn-0000.params", tmp_path / "out.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_symbol_without_parameters_is_refused_with_the_names_of_the_missing(tmp_path):
    copied(tmp_path, "-symbol.json")
    with pytest.raises(SourceError, match="weight"):
        convert(tmp_path / "small_cnn-symbol.json", tmp_path / "out.onnx", options={"inputs": "data[batch,3,9,11]"})
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.97])
def test_half_a_file_of_parameters_is_refused(part, tmp_path):
    data = (FIXTURES / "small_cnn-0000.params").read_bytes()
    (tmp_path / "half.params").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SourceError, match=r"cut off|damaged"):
        read_params(tmp_path / "half.params")


def test_damaged_parameters_never_crash(tmp_path):
    data = bytearray((FIXTURES / "small_cnn-0000.params").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 3):
            broken[place] = rng.integers(0, 256)
        (tmp_path / "broken.params").write_bytes(broken)
        with contextlib.suppress(SourceError):
            read_params(tmp_path / "broken.params")


def array_bytes(magic, shape, kind=0, fill=1.5):
    """An array as older versions of MXNet wrote it."""
    dims = struct.pack("<I", len(shape)) + b"".join(struct.pack("<I" if magic is None else "<q", n) for n in shape)
    head = b"" if magic is None else struct.pack("<I", magic)
    storage = struct.pack("<i", 0) if magic in (0xF993FAC9, 0xF993FACA) else b""
    return head + storage + dims + struct.pack("<iii", 1, 0, kind) + np.full(shape, fill, "<f4").tobytes()


@pytest.mark.parametrize("magic", [None, 0xF993FAC8, 0xF993FAC9, 0xF993FACA])
def test_arrays_of_all_ages_are_read(magic, tmp_path):
    name = b"arg:w"
    content = struct.pack("<QQQ", 0x112, 0, 1) + array_bytes(magic, (2, 3)) + struct.pack("<QQ", 1, len(name)) + name
    (tmp_path / "a.params").write_bytes(content)
    found = read_params(tmp_path / "a.params")
    np.testing.assert_array_equal(found["w"], np.full((2, 3), 1.5, np.float32))


def symbol(tmp_path, *nodes, heads=((0, 0, 0),)):
    entries = [{"op": op, "name": name, "attrs": attrs, "inputs": inputs} for op, name, attrs, inputs in nodes]
    path = tmp_path / "net-symbol.json"
    path.write_text(json.dumps({"nodes": entries, "arg_nodes": [], "heads": heads}))
    return path


def test_an_unknown_operator_is_named(tmp_path):
    path = symbol(tmp_path, ("null", "x", {}, []), ("Frobnicate", "frob1", {}, [[0, 0, 0]]), heads=[[1, 0, 0]])
    with pytest.raises(ConversionError) as caught:
        convert(path, tmp_path / "out.onnx", options={"inputs": "x[2]"})
    assert (caught.value.node, caught.value.operator) == ("frob1", "Frobnicate")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    "content",
    ["[1]", "{}", '{"nodes": [], "arg_nodes": [], "heads": []}', '{"nodes": [{"op": 3}], "heads": [[0,0,0]]}', "{"],
)
def test_json_that_is_no_symbol_is_refused(content, tmp_path):
    (tmp_path / "net-symbol.json").write_text(content)
    with pytest.raises(SourceError):
        read_symbol(tmp_path / "net-symbol.json")


def test_a_node_that_takes_its_own_output_is_refused(tmp_path):
    with pytest.raises(SourceError, match="damaged"):
        read_symbol(symbol(tmp_path, ("relu", "a", {}, [[0, 0, 0]])))


def test_an_attribute_that_is_no_number_is_named(tmp_path):
    path = symbol(
        tmp_path,
        ("null", "x", {}, []),
        ("expand_dims", "e", {"axis": "__import__('os')"}, [[0, 0, 0]]),
        heads=[[1, 0, 0]],
    )
    with pytest.raises(ConversionError, match="axis"):
        exported(path, tmp_path / "model.onnx", {"x": np.zeros((2, 3), np.float32)})
