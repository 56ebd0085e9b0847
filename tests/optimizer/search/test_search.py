"""The search: what it keeps, when it stops, and that it never returns something worse."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from fake_bench import FakeBench, perceptron, rows, task

import sardonyx
from sardonyx.errors import InputError, OptimizationError
from sardonyx.optimizer.search.store import Store, write_text
from sardonyx.optimizer.search.worker import Worker


@pytest.fixture
def model(tmp_path):
    return perceptron(tmp_path / "model.onnx", (13, 64, 64, 7))


@pytest.fixture
def data(model):
    return rows(model)


def test_the_result_is_faster_within_the_budget_and_lies_at_the_output(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", data, max_drop=0.05).run()
    assert result.improved
    assert result.met
    assert result.best.figures.metric >= result.limits.floor
    assert result.best.figures.ratio[2] < 1
    stored = result.store / "candidates" / result.best.file
    assert (tmp_path / "out.onnx").read_bytes() == stored.read_bytes()
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


def test_the_same_seed_gives_the_same_search_and_the_same_bytes(tmp_path, model, data):
    found = []
    for name in ("a", "b"):
        result = task(model, tmp_path / name / "out.onnx", data, max_drop=0.02, trials=5, seed=3).run()
        facts = [(each.steps, each.verdict, each.sha256, each.figures.metric) for each in result.candidates]
        found.append((facts, (tmp_path / name / "out.onnx").read_bytes()))
    assert found[0] == found[1]


def test_a_search_that_goes_on_finds_what_one_without_a_break_finds(tmp_path, model, data):
    whole = task(model, tmp_path / "whole" / "out.onnx", data, max_drop=0.02, trials=6).run()
    parts = [tmp_path / "parts" / "out.onnx"] * 3
    results = [task(model, o, data, max_drop=0.02, trials=2, resume=n > 0).run() for n, o in enumerate(parts)]
    assert [each.steps for each in results[-1].candidates] == [each.steps for each in whole.candidates]
    assert results[-1].best.sha256 == whole.best.sha256


def test_going_on_with_other_data_is_refused(tmp_path, model, data):
    task(model, tmp_path / "out.onnx", data, trials=1).run()
    with pytest.raises(InputError, match="another data"):
        task(model, tmp_path / "out.onnx", rows(model, seed=2), trials=1, resume=True).run()


def test_a_new_search_puts_the_old_one_aside(tmp_path, model, data):
    task(model, tmp_path / "out.onnx", data, trials=2).run()
    task(model, tmp_path / "out.onnx", data, trials=1).run()
    assert len(list((tmp_path / "out.search.old" / "candidates").glob("*.json"))) == 2
    assert len(list((tmp_path / "out.search" / "candidates").glob("*.json"))) == 1


def test_a_budget_that_nothing_keeps_returns_the_original_and_says_why(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", data, max_size=100).run()
    assert not result.improved
    assert not result.met
    assert "allowed are 100" in result.reason
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_a_metric_that_none_reaches_returns_the_original(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", data, min_metric=1.01).run()
    assert not result.met
    assert "accuracy" in result.reason


def test_what_is_slower_is_never_returned(tmp_path, model, data):
    class Slow(FakeBench):
        def time(self, path, seconds, decisive=None):
            ratio = super().time(path, seconds)
            return ratio if path == self.path else type(ratio)(1.2, 1.2, 1.2, 1.2, 1.0, 9)

    def slow(arguments, progress):
        return contextlib.nullcontext(Slow(*arguments, progress))

    for objective in ("latency", "size"):
        result = task(model, tmp_path / "out.onnx", data, max_drop=0.5, bench=slow, objective=objective).run()
        assert not result.improved
        assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_what_was_only_lucky_when_it_was_measured_is_not_returned(tmp_path, model, data):
    class Lucky(FakeBench):
        def time(self, path, seconds, decisive=None):
            ratio = 1.0 if path == self.path else 0.5 if seconds < 2 else 1.2
            return type(super().time(path, seconds))(ratio, ratio, ratio, ratio, 1.0, 9)

    def lucky(arguments, progress):
        return contextlib.nullcontext(Lucky(*arguments, progress))

    result = task(model, tmp_path / "out.onnx", data, max_drop=0.5, bench=lucky).run()
    assert not result.improved
    assert "measured again" in " ".join(each.reason for each in result.candidates)
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_ctrl_c_keeps_the_best_so_far(tmp_path, model, data):
    texts = []

    def progress(part, text):
        texts.append(text)
        if "best so far: " in text and "the original" not in text:
            raise KeyboardInterrupt

    result = task(model, tmp_path / "out.onnx", data, max_drop=0.5, trials=9).run(progress=progress)
    assert result.stopped == "interrupted"
    assert result.improved
    assert (tmp_path / "out.onnx").read_bytes() == (result.store / "candidates" / result.best.file).read_bytes()


def test_a_full_disk_keeps_the_best_so_far(tmp_path, model, data, monkeypatch):
    added = Store.add

    def full(self, candidate):
        if candidate.number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        added(self, candidate)

    monkeypatch.setattr(Store, "add", full)
    result = task(model, tmp_path / "out.onnx", data, max_drop=0.5).run()
    assert "disk is full" in result.stopped
    assert result.improved
    sardonyx.load(tmp_path / "out.onnx")


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path):
    import resource

    path = tmp_path / "a.json"
    write_text(path, "before")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from pathlib import Path; from sardonyx.optimizer.search.store import write_text;"
        "write_text(Path(sys.argv[1]), 'x' * 1000)"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stderr
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_the_time_is_over_when_it_is(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", data, seconds=0.0, trials=None).run()
    assert result.stopped == "the time is over"
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_a_metric_that_raises_is_an_error_that_says_what(tmp_path, model, data):
    def broken(outputs, labels):
        raise ZeroDivisionError("no rows")

    with pytest.raises(OptimizationError, match="'broken' failed: ZeroDivisionError: no rows"):
        task(model, tmp_path / "out.onnx", data, metric=broken).run()


def test_a_metric_that_is_nan_is_an_error(tmp_path, model, data):
    with pytest.raises(OptimizationError, match="NaN"):
        task(model, tmp_path / "out.onnx", data, metric=lambda outputs, labels: float("nan")).run()


def test_a_metric_that_raises_on_candidates_leaves_the_original(tmp_path, model, data):
    calls = []

    def moody(outputs, labels):
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("not again")
        return 1.0

    result = task(model, tmp_path / "out.onnx", data, metric=moody, trials=2).run()
    assert not result.improved
    assert all("not again" in each.reason for each in result.candidates)
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_the_model_is_never_its_own_output(model, data):
    with pytest.raises(InputError, match="the model itself"):
        task(model, model, data).run()


def test_the_result_as_json_has_all_candidates_and_the_front(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", data, max_drop=0.5).run()
    document = json.loads(json.dumps(result.to_json()))
    assert len(document["candidates"]) == len(result.candidates) > 0
    assert result.best.number in document["front"]
    assert document["best"]["sha256"] == result.best.sha256


def test_a_child_that_dies_is_an_error_and_the_next_call_starts_another(tmp_path, model, data):
    from sardonyx.converters.onnx_file import model_inputs
    from sardonyx.optimizer.data import Parts
    from sardonyx.optimizer.reading.read import read_data, split

    parts = Parts(*split(read_data(data, model_inputs(sardonyx.load(model))), 0))
    with Worker((model, parts, 0, 1, False)) as worker:
        assert worker.names() == ["y"]
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(OptimizationError, match="killed by signal 9"):
            worker.names()
        assert worker.names() == ["y"]
        with pytest.raises(InputError, match="no optimisation step called 'magic'"):
            worker.make([{"magic": {}}], tmp_path / "a.onnx")
        worker.deadline = time.monotonic()
        with pytest.raises(OptimizationError, match="too long"):
            worker.run(model)


def test_a_search_that_is_killed_goes_on_where_it_was(tmp_path, model, data):
    np.savez(tmp_path / "data.npz", **data)
    output, store = tmp_path / "out.onnx", tmp_path / "out.search"
    command = [sys.executable, "-m", "sardonyx", "optimize", str(model), "--data", str(tmp_path / "data.npz")]
    command += ["-o", str(output), "--max-drop", "0.5", "--threads", "1"]
    with open(tmp_path / "log", "wb") as log:
        running = subprocess.Popen([*command, "--time", "10m"], stdout=log, stderr=log)
    first = store / "candidates" / "0001.json"
    end = time.monotonic() + 120
    while not first.exists() and time.monotonic() < end and running.poll() is None:
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert first.exists(), (tmp_path / "log").read_text()
    sardonyx.load(output)
    written = first.stat().st_mtime_ns
    done = subprocess.run(
        [*command, "--resume", "--trials", "1", "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert first.stat().st_mtime_ns == written or document["best"]["number"] == 1  # the best is measured again
    assert len(document["candidates"]) >= 2
    assert len({json.dumps(each["steps"]) for each in document["candidates"]}) == len(document["candidates"])


def _random_model(path, seed):
    """A small network, some of them awkward: constant outputs, huge or tiny weights, channels without use."""
    rng = np.random.default_rng(seed)
    sizes = (13, *(int(n) for n in rng.integers(1, 40, rng.integers(1, 4))), int(rng.integers(2, 9)))
    perceptron(path, sizes, seed)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        kind = rng.integers(0, 8)
        if kind == 0:
            array[...] = 0
        if kind == 1:
            array *= np.float32(1e6)
        if kind == 2:
            array *= np.float32(1e-6)
        if kind == 3 and array.ndim == 2:
            array[:, rng.integers(0, array.shape[1])] *= np.float32(1e4)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 30))])
def test_random_models_are_never_outside_of_the_budget_or_slower(tmp_path, seed):
    model = _random_model(tmp_path / "model.onnx", seed)
    result = task(model, tmp_path / "out.onnx", rows(model, seed=seed), max_drop=0.02, trials=4).run()
    judged = rows(model, seed=seed)
    if result.improved:
        assert result.best.figures.metric >= result.limits.floor
        assert result.best.figures.ratio[1] < 1
    else:
        assert result.reason
        assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()
    [y] = sardonyx.Session(str(tmp_path / "out.onnx")).run({"x": judged["x"]})
    assert np.isfinite(y).all()


def test_a_study_that_cannot_be_written_keeps_the_best_so_far(tmp_path, model, data, monkeypatch):
    monkeypatch.setattr(Store, "study", property(lambda self: f"sqlite:///{tmp_path}/no/such/folder/study.db"))
    result = task(model, tmp_path / "out.onnx", data, max_drop=0.5, trials=40, objective="memory").run()
    assert "the disk does not take" in result.stopped
    assert result.improved
    sardonyx.load(tmp_path / "out.onnx")


def test_what_choosing_by_few_samples_made_look_good_fails_on_those_held_out(tmp_path, model):
    data, tell = rows(model, count=101), []

    class Overfit(FakeBench):
        def run(self, path, count=None, proof=False):
            outputs = super().run(path, count, proof)
            if proof and path != self.path:
                tell.append(len(outputs))
                return [[-y for y in run] for run in outputs]
            return outputs

    def overfit(arguments, progress):
        return contextlib.nullcontext(Overfit(*arguments, progress))

    result = task(model, tmp_path / "out.onnx", data, max_drop=0.2, bench=overfit).run()
    assert not result.improved
    assert set(tell) == {25}  # a third of the three quarters that do not calibrate
    assert any("on the samples that were held out: accuracy" in each.reason for each in result.candidates)
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


def test_few_samples_are_not_divided_further_and_that_is_said(tmp_path, model):
    result = task(model, tmp_path / "out.onnx", rows(model, count=23), max_drop=0.5, trials=1).run()
    assert result.samples == {"calibration": 6, "evaluation": 17}
    assert "too few to hold some out" in result.notes[0]


NAN = np.full((5, 13), np.nan, np.float32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": np.zeros((0, 13), np.float32)}, "has 0 rows, a run takes 1"),
        ({"x": np.zeros((1, 13), np.float32)}, "1 sample is given"),
        ({"x": np.zeros((5, 7), np.float32)}, "7"),
        ({"x": NAN}, "13 of 13 numbers are NaN"),
        ([], "no samples|0 sample"),
        ("no/such/file.npz", "no/such/file.npz"),
    ],
)
def test_bad_data_is_an_error_and_what_lies_at_the_output_is_left(tmp_path, model, data, words):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"an earlier result")
    with pytest.raises(InputError, match=words):
        task(model, output, data).run()
    assert output.read_bytes() == b"an earlier result"


def test_without_data_a_result_says_that_nothing_real_was_seen(tmp_path, model):
    result = task(model, tmp_path / "out.onnx", None, max_drop=0.5, trials=1).run()
    assert "no data was given: random inputs" in result.notes[0]
