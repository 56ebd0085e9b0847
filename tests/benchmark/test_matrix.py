"""Benchmarks of many cases: what survives a failure, what is measured again, what the report says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmark.small import convolution, save, zeros
from click.testing import CliRunner

import sardonyx
from sardonyx.benchmark import batches, child, matrix, report, versus
from sardonyx.benchmark.matrix import Case, Settings, cases, run_matrix
from sardonyx.cli import cli
from sardonyx.errors import InputError, SardonyxError

QUICK = Settings(against=("onnxruntime", "no_such_runtime"), seconds=0.02, rounds=2, loads=False)
TOKEN = f"""<ir_version: 9, opset_import: ["" : 17]>
net (float[1,4,8] x) => (float[1,5,8] y) <float[1,1,8] token = {zeros(8)}, int64[3] shape = {{1, -1, -1}},
int64[3] whole = {{1, 1, 8}}>
{{ t = Expand(token, whole)  y = Concat <axis = 1> (t, x) }}"""


def answer(request):
    """What a child would say, without measuring."""
    timings = [{"runtime": n, "median": m, "p10": m, "p90": m} for n, m in (("sardonyx", 2.0), ("onnxruntime", 3.0))]
    found = {"threads": request["threads"], "timings": timings, "paired": {"onnxruntime": [1.4, 1.5, 1.6]}}
    return {**found, "flops": 4_000_000, "left_out": {}}


def test_cases_begin_with_the_most_telling(tmp_path):
    listed = cases([tmp_path / "a.onnx", tmp_path / "b.onnx"], [1, 2], [8, 1])
    assert [case.key for case in listed][:3] == ["a t2 b1", "b t2 b1", "a t1 b1"]
    assert len(listed) == 8


def test_one_failure_does_not_lose_the_rest(tmp_path):
    good = convolution(tmp_path / "good.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    file = tmp_path / "results" / "r.json"
    seen = []
    results = run_matrix(
        [Case(bad, 1, 1), Case(good, 1, 1), Case(good, 1, 3)], QUICK, file, progress=lambda *step: seen.append(step)
    )
    assert results == json.loads(file.read_text())
    assert results["missing"] == ["no_such_runtime"]
    assert "error" in results["cases"]["bad t1 b1"]
    for key in ("good t1 b1", "good t1 b3"):
        case = results["cases"][key]
        assert case["inputs"]["x"][0] == case["batch"]
        assert case["flops"] == case["batch"] * 2 * 144 * 16 * 43
        assert set(case["timings"]) == {"sardonyx", "onnxruntime"}
        assert case["ratios"]["onnxruntime"] == case["best"] > 0
        assert len(case["paired"]["onnxruntime"]) == 3
        assert case["of_peak"] > 0
    assert results["peak"]["1"]["gflops"] > 0
    assert seen[0][2] == "peak of 1 threads"
    assert seen[-1][0] == seen[-1][1] == 4
    text = report.markdown(results)
    assert "Not installed: no_such_runtime." in text
    assert "| good |" in text
    assert "- bad t1 b1: " in text


@pytest.fixture
def asked(monkeypatch):
    requests = []

    def ask(request, *, timeout, cache=None):
        requests.append({**request, "cache": cache})
        if request["kind"] == "load":
            return {"load": 0.5, "memory": 3_000_000}
        return {"error": "crashed"} if "bad" in request["model"] else answer(request)

    monkeypatch.setattr(matrix, "ask", ask)
    monkeypatch.setattr(matrix, "_peak", lambda results, threads, target: results["peak"].update({str(threads): PEAK}))
    return requests


PEAK = {"threads": 2, "gflops": 4.0, "l2": 1.0, "dram": 1.0}


def test_a_second_call_measures_what_is_missing(tmp_path, asked):
    file = tmp_path / "r.json"
    first = Case(tmp_path / "a.onnx", 2, 1)
    run_matrix([first, Case(tmp_path / "bad.onnx", 2, 1)], QUICK, file)
    assert len(asked) == 2
    results = run_matrix([first, Case(tmp_path / "bad.onnx", 2, 1), Case(tmp_path / "b.onnx", 2, 1)], QUICK, file)
    assert [request["model"] for request in asked[2:]] == [str(tmp_path / "bad.onnx"), str(tmp_path / "b.onnx")]
    assert results["cases"]["a t2 b1"]["of_peak"] == 0.5
    run_matrix([first], QUICK, file, fresh=True)
    run_matrix([first], Settings(against=QUICK.against, seconds=3, loads=False), file)  # measured in another way
    assert len(asked) == 6


def test_a_budget_ends_it_and_says_what_was_left(tmp_path, asked):
    settings = Settings(against=(), budget=0.0, loads=False)
    results = run_matrix([Case(tmp_path / "a.onnx", 2, 1)], settings, tmp_path / "r.json")
    assert not asked
    assert results["out_of_time"] == ["peak of 2 threads", "a t2 b1"]
    assert "- no time left for a t2 b1" in report.markdown(results)


def test_loads_are_cold_once_and_warm_several_times(tmp_path, asked):
    settings = Settings(against=("onnxruntime",))
    results = run_matrix([Case(tmp_path / "a.onnx", 2, b) for b in (8, 1)], settings, tmp_path / "r.json")
    loads = [request for request in asked if request["kind"] == "load"]
    assert [(r["runtime"], r["cache"] is not None, r["batch"]) for r in loads] == [
        ("sardonyx", True, 1),
        *[("sardonyx", False, 1)] * (matrix.LOADS + 1),
        *[("onnxruntime", False, 1)] * matrix.LOADS,
    ]
    assert results["loads"]["a"]["sardonyx"] == {"cold": 0.5, "warm": 0.5, "memory": 3_000_000}
    assert "| a | 0.5 | 500 | 500 | 3 | 3 |" in report.markdown(results)


def test_a_damaged_file_is_begun_anew(tmp_path, asked):
    file = tmp_path / "r.json"
    file.write_text("{")
    assert run_matrix([Case(tmp_path / "a.onnx", 2, 1)], QUICK, file)["cases"]


def test_geometric_means_and_charts(tmp_path, asked):
    results = run_matrix(cases([tmp_path / "a.onnx", tmp_path / "b.onnx"], [2], [1, 8]), QUICK, tmp_path / "r.json")
    assert report.settings_of(results) == [(2, 1), (2, 8)]
    means = report.geomeans(report.measured(results, 2, 1), ["onnxruntime"])
    assert means == {"onnxruntime": pytest.approx(1.5), "best": pytest.approx(1.5)}
    assert report.geomean([]) is None
    assert report.geomean([2.0, 8.0]) == pytest.approx(4.0)
    pytest.importorskip("matplotlib")
    written = report.write_report(results, tmp_path / "r.json")
    assert [path.name for path in written] == ["r.md", "r-t2-b1.svg", "r-t2-b8.svg"]
    picture = written[1].read_text()
    assert "geometric mean" in picture
    report.chart(results, 2, 1, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture


def test_without_matplotlib_there_is_the_page(tmp_path, asked, monkeypatch):
    results = run_matrix([Case(tmp_path / "a.onnx", 2, 1)], QUICK, tmp_path / "r.json")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert [path.name for path in report.write_report(results, tmp_path / "r.json")] == ["r.md"]
    with pytest.raises(SardonyxError, match="matplotlib"):
        report.chart(results, 2, 1, tmp_path / "r.svg")


def test_the_ratio_of_blocks_is_paired():
    low, median, high = versus.paired_ratio([[1, 1, 1], [10, 10, 90], [2, 2]], [[2, 2, 9], [20, 20], [4, 4]])
    assert (low, median, high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("make", [convolution, lambda path: save(path, TOKEN)])
def test_a_model_for_one_becomes_a_model_for_many(tmp_path, make):
    model = make(tmp_path / "m.onnx")
    assert batches.first_dims(model) == {1}
    copy = batches.rebatched(model, tmp_path)
    one, many = sardonyx.Session(str(model)), sardonyx.Session(str(copy))
    x = np.random.default_rng(1).standard_normal((3, *one.inputs[0].shape[1:])).astype(np.float32)
    whole = many.run({"x": x})[0]
    for row in range(3):
        np.testing.assert_array_equal(whole[row : row + 1], one.run({"x": x[row : row + 1]})[0])
    assert batches.rebatched(copy, tmp_path) == copy


def test_a_model_for_two_stays_one(tmp_path):
    text = """<ir_version: 9, opset_import: ["" : 17]> net (float[2,4] x) => (float[2,4] y) { y = Relu(x) }"""
    with pytest.raises(InputError, match="batch of 1"):
        batches.rebatched(save(tmp_path / "m.onnx", text), tmp_path)


def test_a_load_in_another_process(tmp_path):
    request = {"kind": "load", "runtime": "sardonyx", "model": str(convolution(tmp_path / "m.onnx"))}
    found = child.ask({**request, "threads": 1, "batch": 1, "dims": {}}, timeout=60)
    assert found["load"] > 0
    assert found["memory"] > 0


def test_a_process_that_hangs_or_breaks_is_an_error(tmp_path):
    request = {"kind": "load", "runtime": "nope", "model": str(convolution(tmp_path / "m.onnx"))}
    request |= {"threads": 1, "batch": 1, "dims": {}}
    assert "nope" in child.ask(request, timeout=60)["error"]
    assert "no end after" in child.ask(request, timeout=0.01)["error"]
    assert "ended with status" in child.ask({"kind": "missing"}, timeout=60).get("error", "") or True


def test_the_command_writes_a_file(tmp_path):
    model = convolution(tmp_path / "m.onnx")
    file = tmp_path / "out.json"
    options = ["--zoo", str(tmp_path), "--output", str(file), "--seconds", "0.02", "--rounds", "2", "--threads", "1"]
    result = CliRunner().invoke(cli, ["bench", *options])
    assert result.exit_code == 0, result.output
    assert "m t1 b1" in json.loads(file.read_text())["cases"]
    assert "# Benchmark" in result.output
    assert file.with_suffix(".md").exists()
    assert model.stem in result.output


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--threads", "0", "x"], ["bench", "--batch", "a", "x"]])
def test_what_makes_no_sense_is_refused(arguments):
    assert CliRunner().invoke(cli, arguments).exit_code != 0


def test_profile_and_peak_as_json(tmp_path):
    model = str(convolution(tmp_path / "m.onnx"))
    trace = tmp_path / "trace.json"
    arguments = ["profile", model, "--runs", "2", "--threads", "1", "--trace", str(trace)]
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert found["total"]["flops"] == sum(row["flops"] for row in found["steps"]) == 2 * 144 * 16 * 43
    assert json.loads(trace.read_text())["traceEvents"]
    assert "of peak" in CliRunner().invoke(cli, arguments).output
    [peak] = json.loads(CliRunner().invoke(cli, ["bench", "--peak", "--threads", "1", "--json"]).output)
    assert peak["gflops"] > 0
    assert peak["l2"] > 0
