"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from sardonyx import benchmark
from sardonyx.benchmark import versus
from sardonyx.cli import cli
from sardonyx.errors import InputError, ProviderError, VerificationError


@pytest.fixture
def model(tmp_path: Path) -> str:
    """y = Relu(x + 1), indices = Shape(x)."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["s"], name="add"),
            helper.make_node("Relu", ["s"], ["y"], name="relu"),
            helper.make_node("Shape", ["x"], ["size"], name="shape"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1])],
    )
    path = tmp_path / "model.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    return result


def call_json(*arguments: str) -> Any:
    return json.loads(call(*arguments, "--json").output)


def test_run_shows_every_output(model: str) -> None:
    shown = call_json("run", model, "--dim", "batch=5")
    assert [(row["name"], row["type"], row["shape"]) for row in shown["outputs"]] == [
        ("y", "float32", [5, 3]),
        ("size", "int64", [2]),
    ]
    assert "size" in call("run", model).output


def test_run_reads_arrays_and_writes_results(model: str, tmp_path: Path) -> None:
    x = np.array([[-2, 0, 2]], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, other=x * 0)
    np.savez(tmp_path / "one.npz", a=x)
    for text in ("x={0}/x.npy", "{0}/both.npz", "x={0}/both.npz", "x={0}/one.npz"):
        if text == "{0}/both.npz":
            call("run", model, "--input", text.format(tmp_path), code=1)  # `other` is no input
            continue
        out = tmp_path / "out.npz"
        call("run", model, "--input", text.format(tmp_path), "--output", str(out))
        with np.load(out) as results:
            np.testing.assert_array_equal(results["y"], [[0, 1, 3]])
            np.testing.assert_array_equal(results["size"], [1, 3])


def test_random_inputs_repeat(model: str) -> None:
    first = call_json("run", model, "--seed", "7", "--input", "x=random")
    assert first == call_json("run", model, "--seed", "7")
    assert first != call_json("run", model, "--seed", "8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "q=random"], "no input called 'q'"),
        (["--input", "x"], "NAME=FILE.npy"),
        (["--input", "x=missing.npy"], "missing.npy"),
        (["--input", "x=5"], "'random'"),
        (["--dim", "batch"], "NAME=SIZE"),
        (["--dim", "batch=-1"], "NAME=SIZE"),
        (["--dim", "bath=2"], "batch"),
    ],
)
def test_wrong_arguments_are_one_message(model: str, arguments: list[str], words: str) -> None:
    result = call("run", model, *arguments, code=1)
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_pickle_is_never_loaded(model: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([print], object), allow_pickle=True)
    result = call("run", model, "--input", f"x={tmp_path}/x.npy", code=1)
    assert "cannot be read as numpy arrays" in result.stderr


def test_a_malformed_model_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"this is no model")
    for command in ("run", "inspect", "bench"):
        result = call(command, str(path), code=1)
        assert result.stderr.startswith("error: ")


def test_debug_shows_where_an_error_comes_from(model: str) -> None:
    result = CliRunner().invoke(cli, ["--debug", "run", model, "--input", "q=random"])
    assert isinstance(result.exception, InputError)


def test_inspect_shows_where_each_node_runs_and_why(model: str) -> None:
    report = call_json("inspect", model)
    assert report["inputs"] == [{"name": "x", "type": "tensor(float)", "shape": ["batch", 3]}]
    assert [value["name"] for value in report["outputs"]] == ["y", "size"]
    assert {"node", "operator", "provider", "reason"} <= set(report["nodes"][0])
    assert sum(report["providers"].values()) == len(report["nodes"])
    assert report["memory"]["weights"] >= 0
    text = call("inspect", model).output
    assert "batch x 3" in text
    assert "memory:" in text


def test_bench_measures_and_verifies(model: str) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ["--against", "onnxruntime", "--seconds", "0.02", "--rounds", "2", "--batch", "4"]
    result = call_json("bench", model, "--threads", "1", *arguments)
    assert result["inputs"] == {"x": [4, 3]}
    assert [timing["runtime"] for timing in result["timings"]] == ["sardonyx", "onnxruntime"]
    for timing in result["timings"]:
        assert 0 < timing["p10"] <= timing["median"] <= timing["p90"]
    assert result["differences"]["onnxruntime"] == 0
    assert "sardonyx is" in call("bench", model, *arguments).output


def test_bench_refuses_an_unknown_runtime(model: str) -> None:
    assert "onnxruntime" in call("bench", model, "--against", "nope", code=1).stderr


def test_runtimes_that_disagree_are_not_timed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: str, threads: int) -> benchmark.Run:
        return lambda feeds: [np.full((1, 3), 99, np.float32), np.array([1, 3])]

    monkeypatch.setitem(benchmark.RUNTIMES, "wrong", wrong)
    monkeypatch.setattr(versus, "take_turns", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(VerificationError, match="sardonyx and wrong differ"):
        benchmark.compare(model, ["wrong"], threads=1)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(model: str, threads: int) -> benchmark.Run:
        raise ModuleNotFoundError("no such module")

    monkeypatch.setitem(benchmark.RUNTIMES, "openvino", missing)
    with pytest.raises(ProviderError, match=r"openvino is not installed(.|\n)*pip install"):
        benchmark.load_runtime("openvino", "model.onnx", 1)


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ([np.array([1.0, -2.0])], [np.array([1.0, -2.0])], 0.0),
        ([np.array([1.0, -2.0])], [np.array([1.0, -1.5])], 0.25),
        ([np.array([np.nan, np.inf])], [np.array([np.nan, np.inf])], 0.0),
        ([np.array([np.nan])], [np.array([1.0])], np.inf),
        ([np.array([np.inf])], [np.array([-np.inf])], np.inf),
        ([np.zeros((2, 1))], [np.zeros((1, 2))], np.inf),
        ([np.zeros(0)], [np.zeros(0)], 0.0),
        ([np.array(["a"], object)], [np.array(["b"], object)], np.inf),
        ([[{"a": 1.0}]], [[{"a": 1.0}]], 0.0),
        ([[{"a": 1.0}]], [[{"b": 1.0}]], np.inf),
        ([np.zeros(1)], [], np.inf),
    ],
)
def test_difference(expected: list, actual: list, difference: float) -> None:
    assert benchmark.difference(expected, actual) == difference


def test_what_cannot_be_made_up_is_asked_for() -> None:
    info = SimpleNamespace(name="x", type="seq(tensor(float))", dtype=None, shape=None)
    with pytest.raises(InputError, match="only tensors can be made up"):
        benchmark.make_feeds([info])


def test_ops_lists_operators_and_shows_one(model: str) -> None:
    rows = call_json("ops")
    assert {"domain", "name", "since", "native", "defined in", "summary"} <= set(rows[0])
    [relu] = call_json("ops", "relu")
    assert relu["name"] == "Relu"
    assert relu["since"]
    assert "Relu" in call("ops", "Relu").output
    assert "no operator called 'Nope'" in call("ops", "Nope", code=1).stderr


def test_cache_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    info = call_json("cache", "info")
    assert info == {"root": str(tmp_path / "cache"), "bytes": 0, "entries": []}
    assert "0 entries" in call("cache", "info").output
    assert "removed" in call("cache", "clear").output
    assert "removed" in call("cache", "prune", "--max-size", "500M").output
    assert "is not a size" in call("cache", "prune", "--max-size", "many", code=1).stderr


def test_every_command_explains_itself() -> None:
    def visit(command: click.Command, path: tuple[str, ...]) -> None:
        assert command.help, path
        call(*path, "--help")
        for name, child in getattr(command, "commands", {}).items():
            visit(child, (*path, name))

    visit(cli, ())
