"""Recipes: what is written can be done again, byte for byte; what is wrong is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from fake_bench import perceptron, rows, task

import sardonyx
from sardonyx.cli import cli
from sardonyx.errors import InputError
from sardonyx.optimizer.optimize import replay
from sardonyx.optimizer.search.page import page
from sardonyx.optimizer.search.recipe import read_recipe


@pytest.fixture
def model(tmp_path):
    return perceptron(tmp_path / "model.onnx", (13, 64, 64, 7))


@pytest.fixture
def data(tmp_path, model):
    np.savez(tmp_path / "data.npz", **rows(model))
    return tmp_path / "data.npz"


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_the_recipe_gives_the_same_bytes_from_another_folder(tmp_path, model, data, monkeypatch):
    result = task(model, tmp_path / "out.onnx", str(data), max_drop=0.5, seed=5).run()
    assert result.improved
    monkeypatch.chdir("/")
    done = invoke("optimize", model, "--recipe", result.recipe, "-o", tmp_path / "again.onnx", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["sha256"] == result.best.sha256
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_other_data_than_the_recipes_is_noted(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", str(data), max_drop=0.5, trials=1).run()
    done = replay(model, tmp_path / "again.onnx", result.recipe, data=rows(model, seed=7))
    assert any("not the data" in note for note in done.notes)
    other = perceptron(tmp_path / "other.onnx", (13, 64, 64, 7), seed=9)
    done = replay(other, tmp_path / "again.onnx", result.recipe)
    assert any("not the one" in note for note in done.notes)


def test_a_container_is_searched_for_written_and_written_again(tmp_path, model, data):
    result = task(model, tmp_path / "out.sdx", str(data), max_drop=0.5, objective="size", trials=1).run()
    assert result.improved
    assert (tmp_path / "out.sdx").stat().st_size == result.best.figures.size
    assert result.best.figures.size < (result.store / "candidates" / result.best.file).stat().st_size
    [y] = sardonyx.Session(tmp_path / "out.sdx").run({"x": np.ones((1, 13), np.float32)})
    assert y.shape == (1, 7)
    replay(model, tmp_path / "again.sdx", result.recipe)
    assert (tmp_path / "again.sdx").read_bytes() == (tmp_path / "out.sdx").read_bytes()


def test_a_recipe_without_steps_is_the_original(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", str(data), max_size=10).run()
    replay(model, tmp_path / "again.onnx", result.recipe)
    assert (tmp_path / "again.onnx").read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: [{magic: {}}]", "no optimisation step called 'magic'"),
        ("steps: [{static-int8: {colour: red}}]", "no parameter 'colour'"),
        ("steps: [{static-int8: {calibration: guess}}]", "'guess'"),
        ("steps: [{static-int8: 3}]", "parameters of 'static-int8' are 3"),
        ("steps: [[]]", "is no step"),
        ("steps: 3", "is no recipe"),
        ("[1, 2]", "is no recipe"),
        ("a: [", "is no YAML"),
        ("steps: []\ndata: {options: {size: 3}}", "no option of data called 'size'"),
        ("!!python/object/apply:os.system ['echo no']", "is no YAML"),
    ],
)
def test_what_is_no_recipe_is_an_error(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_recipe(path)


def test_a_recipe_that_is_not_there_is_an_error(tmp_path, model):
    done = invoke("optimize", model, "--recipe", tmp_path / "none.yaml", "-o", tmp_path / "out.onnx")
    assert done.exit_code == 1
    assert "there is no recipe" in done.output


def test_a_step_may_stand_alone(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: [static-int8]")
    assert list(read_recipe(path).steps[0]) == ["static-int8"]


def test_the_page_holds_everything_in_itself(tmp_path, model, data):
    result = task(model, tmp_path / "out.onnx", str(data), max_drop=0.5).run()
    result.ranking = [{"node": "dense<1>", "snr": 12.5}, {"node": "dense0", "snr": 30.0}]
    text = page(result)
    assert not [word for word in ("src=", "href=", "@import", "<script") if word in text]
    assert "dense&lt;1&gt;" in text
    assert text.count("<circle") >= 2
    assert "Before and after" in text
    assert "steps:" in text


def test_the_command_says_why_the_original_is_returned(tmp_path, model, data):
    base = ["optimize", model, "--data", data, "-o", tmp_path / "out.onnx", "--threads", 1, "--trials", 0]
    done = invoke(*base, "--max-size", "100", "--report", tmp_path / "r.html")
    assert done.exit_code == 3, done.output
    assert "the original is returned" in done.output
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "no.npz"], "no file or folder"),
        (["--max-drop", "much"], "'much'"),
        (["--max-size", "big"], "'big' is not a size"),
        (["--time", "soon"], "'soon' is not a time"),
        (["--mean", "a,b"], "--mean"),
        (["--metric", "beauty"], "no metric called 'beauty'"),
    ],
)
def test_options_without_sense_are_errors(tmp_path, model, options, words):
    done = invoke("optimize", model, "-o", tmp_path / "out.onnx", *options)
    assert done.exit_code == 1
    assert words in done.output
    assert not (tmp_path / "out.onnx").exists()
