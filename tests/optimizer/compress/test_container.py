"""A container gives the same bytes back; what is damaged or lies is refused before it costs memory."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import zstandard
from onnx import TensorProto, helper, numpy_helper

from sardonyx import Session, SessionOptions
from sardonyx.errors import ModelError, SardonyxError, UnsupportedError
from sardonyx.model import load
from sardonyx.optimizer.compress.container import _HEAD, MAGIC, VERSION, pack, unpack


def model_of(**weights: np.ndarray) -> bytes:
    """A model that adds to x the sum of each weight."""
    nodes, total = [], "x"
    for name in weights:
        nodes.append(helper.make_node("Cast", [name], [f"{name}f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"{name}f"], [f"{name}s"], keepdims=0))
        nodes.append(helper.make_node("Add", [total, f"{name}s"], [total := f"{name}t"]))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("x", total))
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


RNG = np.random.default_rng(7)
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-42], np.float32)
WEIGHTS = {
    "noise": RNG.normal(size=(61, 97)).astype(np.float32),
    "two": RNG.choice(SPECIAL[:2], 5003),
    "six": RNG.choice(SPECIAL, (71, 73)),
    "hundred": RNG.choice(RNG.normal(size=100), 9973),
    "half": RNG.normal(size=4099).astype(np.float16),
    "bytes": RNG.integers(-8, 8, 5009).astype(np.int8),
    "small": RNG.normal(size=3).astype(np.float32),
    "empty": np.zeros((0, 7), np.float32),
}


@pytest.fixture
def packed(tmp_path: Path) -> tuple[bytes, Path]:
    data = model_of(**WEIGHTS)
    pack(data, tmp_path / "m.sdx", level=3)
    return data, tmp_path / "m.sdx"


def test_the_same_bytes_come_back(packed: tuple[bytes, Path]) -> None:
    data, path = packed
    assert unpack(path) == data
    assert unpack(path.read_bytes()) == data


def test_values_that_repeat_become_palettes_and_the_file_small(tmp_path: Path) -> None:
    result = pack(model_of(**WEIGHTS), tmp_path / "m.sdx")
    assert result.forms == {"planes": 1, "plain": 1, "palette": 4}
    assert result.packed < 0.5 * result.original
    assert result.packed == (tmp_path / "m.sdx").stat().st_size
    assert result.seconds_to_load > 0


def test_sessions_and_load_take_containers(packed: tuple[bytes, Path]) -> None:
    data, path = packed
    feeds = {"x": np.array([1, 2, 3], np.float32)}
    options = SessionOptions(cache=False)
    expected = Session(data, options).run(feeds)
    for source in (str(path), path, path.read_bytes()):
        np.testing.assert_array_equal(Session(source, options).run(feeds), expected)
    assert len(load(path).graph) == len(load(data).graph)


def test_a_model_in_memory_is_packed(tmp_path: Path) -> None:
    model = load(model_of(**WEIGHTS))
    pack(model, tmp_path / "m.sdx", level=1)
    again = onnx.load_from_string(unpack(tmp_path / "m.sdx"))
    np.testing.assert_array_equal(numpy_helper.to_array(again.graph.initializer[0]), WEIGHTS["noise"])


@pytest.mark.parametrize("keep", [0, 7, 20, 45, 46, 60, 200, -1])
def test_a_file_that_is_cut_off_is_refused(packed: tuple[bytes, Path], keep: int) -> None:
    with pytest.raises(ModelError, match=r"cut off|damaged"):
        unpack(packed[1].read_bytes()[:keep])


def test_a_changed_bit_is_noticed(packed: tuple[bytes, Path]) -> None:
    whole = packed[1].read_bytes()
    for place in range(_HEAD.size - 32, len(whole), len(whole) // 41):
        broken = bytearray(whole)
        broken[place] ^= 16
        with pytest.raises(ModelError, match="damaged"):
            unpack(bytes(broken))


def forged(index: object, *parts: bytes, version: int = VERSION) -> bytes:
    """A container whose checksum is right."""
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    body = text + b"".join(parts)
    return _HEAD.pack(MAGIC, version, len(text), hashlib.sha256(body).digest()) + body


def frame(data: bytes) -> bytes:
    return zstandard.compress(data)


ZEROS = frame(bytes(10**6))
WEIGHT = {"at": 0, "size": 8, "form": "plain", "stored": 17}
LIES = {
    "no JSON": (b"{", "index"),
    "a list": ([], "index"),
    "deep": (b"[" * 100_000, "index"),
    "negative": ({"size": -1, "model": {"size": 0, "stored": 0}, "weights": []}, "no sense"),
    "fraction": ({"size": 1.5, "model": {"size": 0, "stored": 0}, "weights": []}, "no sense"),
    "huge": ({"size": 2**60, "model": {"size": 2**60, "stored": len(ZEROS)}, "weights": []}, "limit"),
    "bomb": ({"size": 10**9, "model": {"size": 10**9, "stored": len(ZEROS)}, "weights": []}, "that empty"),
    "too little": ({"size": 10**7, "model": {"size": 10**7, "stored": len(ZEROS)}, "weights": []}, "not the size"),
    "too much": ({"size": 10, "model": {"size": 10, "stored": len(ZEROS)}, "weights": []}, "not the size"),
    "sum": ({"size": 11, "model": {"size": 10, "stored": len(ZEROS)}, "weights": []}, "add up"),
    "overlap": ({"size": 16, "model": {"size": 0, "stored": 0}, "weights": [WEIGHT, WEIGHT]}, "overlap"),
    "form": ({"size": 8, "model": {"size": 0, "stored": 0}, "weights": [WEIGHT | {"form": "x"}]}, "no sense"),
    "bits": ({"size": 8, "model": {"size": 0, "stored": 0},
              "weights": [WEIGHT | {"form": "palette", "bits": 3, "colours": 2}]}, "no sense"),
}  # fmt: skip


@pytest.mark.parametrize(("index", "match"), LIES.values(), ids=LIES)
def test_a_file_that_lies_is_refused_without_taking_memory_for_it(index: object, match: str) -> None:
    data = forged(index, ZEROS)
    tracemalloc.start()
    with pytest.raises(ModelError, match=match):
        unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_an_index_beyond_the_palette_is_refused() -> None:
    part = frame(bytes(4) + b"\xff")
    weight = {"at": 0, "size": 16, "form": "palette", "width": 4, "bits": 2, "colours": 1, "stored": len(part)}
    empty = frame(b"")
    index = {"size": 16, "model": {"size": 0, "stored": len(empty)}, "weights": [weight]}
    with pytest.raises(ModelError, match="malformed"):
        unpack(forged(index, empty, part))


def test_a_later_version_is_unsupported_and_a_lower_limit_holds(packed: tuple[bytes, Path]) -> None:
    with pytest.raises(UnsupportedError, match="version 2"):
        unpack(forged({}, version=2))
    with pytest.raises(ModelError, match="limit of 1000"):
        unpack(packed[1], limit=1000)


def test_random_damage_gives_typed_errors_only(packed: tuple[bytes, Path]) -> None:
    whole, rng = packed[1].read_bytes(), np.random.default_rng(1)
    length = _HEAD.unpack(whole[: _HEAD.size])[2]
    for _ in range(150):
        body = bytearray(whole[_HEAD.size :])
        for place in rng.integers(0, length, 3):  # in the index, with a right checksum
            body[place] = rng.integers(32, 127)
        data = _HEAD.pack(MAGIC, VERSION, length, hashlib.sha256(body).digest()) + bytes(body)
        try:
            unpack(data)
        except SardonyxError:
            continue


def test_a_missing_file_and_a_full_folder_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        pack(tmp_path / "none.onnx", tmp_path / "m.sdx")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        pack(model_of(), tmp_path / "m.sdx")
    assert list(tmp_path.iterdir()) == []
