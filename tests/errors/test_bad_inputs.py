"""Inputs and outputs that a run refuses, and special values that it takes."""

from __future__ import annotations

import numpy as np
import pytest
from errors.models import FLOAT, INT64, STRING, model, node

from sardonyx import Session, SessionOptions
from sardonyx.errors import InputError

OPTIONS = SessionOptions(progress=False)


@pytest.fixture(scope="module")
def session() -> Session:
    nodes = [node("MatMul", ["a", "b"], ["m"]), node("Relu", ["m"])]
    return Session(model(nodes, {"a": (FLOAT, ["n", 3]), "b": (FLOAT, [3, "n"])}), OPTIONS)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


GOOD = {"a": zeros(2, 3), "b": zeros(3, 2)}
FEEDS = {
    "missing": ({"a": GOOD["a"]}, "input 'b' is missing"),
    "unknown": ({**GOOD, "c": GOOD["a"]}, "no input 'c'"),
    "none given": ({}, "input 'a' is missing"),
    "a list": ([GOOD["a"], GOOD["b"]], "a list, not a mapping from names to arrays"),
    "None for all": (None, "a NoneType, not a mapping from names to arrays"),
    "dtype": ({**GOOD, "a": np.zeros((2, 3))}, "has dtype float64, expected float32"),
    "other byte order": ({**GOOD, "a": np.zeros((2, 3), ">f4")}, "expected float32"),
    "objects": ({**GOOD, "a": np.full((2, 3), None)}, "has dtype object"),
    "text": ({**GOOD, "a": "text"}, "expected float32"),
    "None": ({**GOOD, "a": None}, "expected float32"),
    "ragged list": ({**GOOD, "a": [[1, 2, 3], [4]]}, "input 'a'"),
    "rank": ({**GOOD, "a": zeros(3)}, r"shape \[3\] \(rank 1\), expected"),
    "dim": ({**GOOD, "a": zeros(2, 4)}, "axis 1 must be 3"),
    "symbol": ({**GOOD, "b": zeros(3, 5)}, "axis 1 must be 2, as other inputs have for 'n'"),
}


@pytest.mark.parametrize("name", FEEDS)
def test_wrong_inputs_are_refused(session: Session, name: str) -> None:
    feeds, message = FEEDS[name]
    with pytest.raises(InputError, match=message):
        session.run(feeds)
    assert session.run(GOOD)[0].shape == (2, 2), "the session is as good as before"


def test_wrong_outputs_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="no output 'q'"):
        session.run(GOOD, ["q"])
    with pytest.raises(InputError, match="no output 'q'"):
        session.run(GOOD, out={"q": zeros(2, 2)})
    with pytest.raises(InputError, match="writable C-contiguous array of float32"):
        session.run(GOOD, out={"y": np.zeros((2, 2))})
    with pytest.raises(InputError, match=r"has shape \(3, 3\), expected \(2, 2\)"):
        session.run(GOOD, out={"y": zeros(3, 3)})
    with pytest.raises(InputError, match="3 inputs given"):
        session(GOOD["a"], GOOD["b"], GOOD["b"])
    with pytest.raises(InputError, match="given twice"):
        session(GOOD["a"], a=GOOD["a"])


def test_strides_lists_and_empty_batches_are_taken(session: Session) -> None:
    a = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    b = np.asfortranarray(np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(session.run({"a": a, "b": b})[0], a @ b)
    np.testing.assert_array_equal(session.run({"a": a.tolist(), "b": b.tolist()})[0], a @ b)
    assert session.run({"a": zeros(0, 3), "b": zeros(3, 0)})[0].shape == (0, 0)


def test_nan_and_infinity_pass_as_in_the_reference() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Sigmoid", ["x"], ["s"]), node("ReduceMax", ["x"], ["m"], keepdims=0)]
    session = Session(model(nodes, {"x": (FLOAT, [4])}, outputs={"r": FLOAT, "s": FLOAT, "m": FLOAT}), OPTIONS)
    relu, sigmoid, largest = session.run({"x": np.float32([np.nan, np.inf, -np.inf, -0.0])})
    np.testing.assert_array_equal(relu, [np.nan, np.inf, 0, 0])
    np.testing.assert_array_equal(sigmoid, [np.nan, 1, 0, 0.5])
    assert np.isnan(largest)


def test_strings_are_checked_too() -> None:
    session = Session(model(node("StringNormalizer", ["x"]), {"x": (STRING, ["n"])}, outputs={"y": STRING}), OPTIONS)
    assert list(session.run({"x": np.array(["a", "b"], object)})[0]) == ["a", "b"]
    with pytest.raises(InputError, match="input 'x'"):
        session.run({"x": zeros(2)})
    with pytest.raises(InputError, match="input 'x'"):
        session.run({"x": np.array([["a"]], object)})


def test_indices_may_be_fed_with_python_numbers() -> None:
    session = Session(model(node("Gather", ["x", "i"]), {"x": (FLOAT, [2, 3]), "i": (INT64, [])}), OPTIONS)
    np.testing.assert_array_equal(session.run({"x": [[1, 2, 3], [4, 5, 6]], "i": -1})[0], [4, 5, 6])
