"""`deploy`: a folder that runs by itself, and folders that do not."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from fake_bench import perceptron, rows

import sardonyx
from sardonyx.errors import InputError, ProviderError


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    model = perceptron(folder / "model.onnx", (13, 64, 64, 7))
    data = rows(model)
    return sardonyx.deploy(model, folder / "bundle", data=data, max_drop=0.1, trials=1, threads=1), data


def test_the_bundle_computes_what_its_model_computes(deployed):
    done, data = deployed
    feeds = {"x": data["x"][:5]}
    [y] = sardonyx.Session(done.folder).run(feeds)
    [want] = sardonyx.Session(str(done.folder / "model.onnx")).run(feeds)
    np.testing.assert_array_equal(y, want)


def test_the_example_runs_by_itself(deployed):
    done, _ = deployed
    ran = subprocess.run([sys.executable, done.folder / "run.py"], capture_output=True, text=True, timeout=120, cwd="/")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("y (1, 7)")


def test_runtimes_stand_side_by_side_in_the_report(deployed):
    done, _ = deployed
    document = json.loads((done.folder / "report.json").read_text())
    names = [side["name"] for side in document["sides"]]
    assert names[-2:] == ["Sardonyx", "Sardonyx, optimised"]
    assert "ONNX Runtime" in names
    assert all(side["milliseconds"] > 0 for side in document["sides"])
    assert document["search"]["best"]["sha256"]
    assert (done.folder / "report.html").read_text().startswith("<!doctype html>")
    assert len((done.folder / "run.py").read_text().splitlines()) <= 14


def test_a_folder_that_is_no_bundle_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no compiled model"):
        sardonyx.Session(tmp_path)


def test_a_bundle_for_another_machine_is_an_error(tmp_path, monkeypatch):
    from sardonyx.deployment.targets import TARGETS, host_target

    other = next(name for name, row in TARGETS.items() if row.arch != host_target().arch)
    (tmp_path / "target.json").write_text(json.dumps({"name": other}))
    with pytest.raises(ProviderError, match="was built for"):
        sardonyx.Session(tmp_path)


def test_a_bundle_with_matrix_tiles_is_an_error_where_the_system_does_not_give_them(tmp_path, monkeypatch):
    from sardonyx.deployment import targets

    tiled = next(row for row in targets.TARGETS.values() if {"amx_tile"} <= row.needs and row.system == "linux")
    monkeypatch.setattr(targets, "cpu_flags", lambda: tiled.needs - {"amx_tile", "amx_int8"})
    monkeypatch.setattr(targets, "host_target", lambda: tiled)
    (tmp_path / "target.json").write_text(json.dumps({"name": tiled.name}))
    with pytest.raises(ProviderError, match=r"was built for .*sapphirerapids") as raised:
        sardonyx.Session(tmp_path)
    assert "model.onnx" in raised.value.hint


def test_a_file_is_no_folder_to_write(tmp_path):
    (tmp_path / "bundle").write_text("")
    with pytest.raises(InputError, match="is a file"):
        sardonyx.deploy(tmp_path / "model.onnx", tmp_path / "bundle")
