"""Decisions that hang on rounding: labels, the order of detections, samples that decide nothing."""

import numpy as np
import pytest

from sardonyx.verifier.samples import Sample
from sardonyx.verifier.ties import settle_ties
from sardonyx.verifier.tolerance import Tolerance
from sardonyx.verifier.verify import conditioned, verify_stages

F32 = Tolerance(2.0**-24, 100)
EXACT = Tolerance(0.0, 0.0)
BOXES = np.arange(20, dtype=np.float32).reshape(5, 4)
LABELS = np.array([3, 1, 1, 2, 0])


def detections(order, scores):
    order = list(order)
    return [BOXES[order], LABELS[order], np.array(scores, np.float32)]


def settled(expected, actual):
    return settle_ties(expected, actual, [F32, EXACT, F32])


def test_rows_whose_scores_tie_may_stand_in_any_order():
    """1, 2 and 3 are closer than rounding; the rest stays where it is."""
    scores = [0.9, 0.5, 0.5, 0.4999999, 0.1]
    expected, actual = detections(range(5), scores), detections([0, 3, 1, 2, 4], scores)
    found, moved = settled(expected, actual)
    assert moved == 3
    for have, want in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(
    ("order", "scores"),
    [
        ([0, 2, 1, 3, 4], [0.9, 0.5, 0.499, 0.4, 0.1]),  # no tie
        ([0, 2, 1, 3, 4], [0.1, 0.5, 0.5, 0.4, 0.9]),  # not what rows are sorted by
    ],
)
def test_other_rows_may_not_be_exchanged(order, scores):
    actual = detections(order, scores)
    found, moved = settled(detections(range(5), scores), actual)
    assert moved == 0
    for have, want in zip(found, actual, strict=True):
        np.testing.assert_array_equal(have, want)


def test_a_row_that_is_not_there_stays_wrong():
    scores = [0.9, 0.5, 0.5, 0.5, 0.1]
    expected, actual = detections(range(5), scores), detections([0, 3, 1, 1, 4], scores)
    found, _ = settled(expected, actual)
    assert (found[0] != expected[0]).any()


def test_labels_of_scores_that_tie():
    scores = np.array([[0.5, 0.5], [0.2, 0.8]], np.float32)
    [_, labels], moved = settle_ties([scores, np.array([0, 1])], [scores, np.array([1, 0])], [F32, EXACT])
    assert labels.tolist() == [0, 0]  # the second was no tie
    assert moved == 0


class Stage:
    """What `function` computes."""

    path = None

    def __init__(self, name, function):
        self.name, self.function = name, function

    def run(self, feeds):
        return [self.function(feeds["x"])]


def steep(x):
    """A decision that hangs on the last bits where x is 1, on nothing where it is 0."""
    return np.sign(np.sum(x.astype(np.float64) - 1)).astype(np.float32).reshape(1) if x.any() else x[:1]


ONES = np.ones(8, np.float32)


def test_no_tolerance_is_right_where_the_source_itself_jumps():
    outputs = {"y": F32}
    assert conditioned(Stage("source", steep), Sample("large", {"x": ONES}), [steep(ONES)], outputs) is None
    assert conditioned(Stage("source", np.tanh), Sample("large", {"x": ONES}), [np.tanh(ONES)], outputs) is not None


def test_labels_that_change_are_a_jump_however_small_they_are():
    """A label is right or wrong: what moved inputs do to it widens nothing."""

    def label(x):
        return np.array([1000 + int(np.sum(x.astype(np.float64)) > 8)])

    found = conditioned(Stage("source", label), Sample("large", {"x": ONES}), [label(ONES)], {"y": EXACT})
    assert found is None or found["y"].noise == 0


@pytest.mark.parametrize(("corner", "passed"), [(True, True), (False, False)])
def test_a_sample_that_decides_nothing_is_left_out_only_in_a_corner(corner, passed):
    zeros = Sample("zeros", {"x": np.zeros(8, np.float32)}, corner=True)
    jumpy = Sample("large", {"x": ONES}, corner=corner)
    source, other = Stage("source", steep), Stage("other", lambda x: steep(x) + x.any())
    report = verify_stages([source, other], [zeros, jumpy], {"y": F32})
    assert report.passed is passed
    assert any("decides nothing" in note for note in report.notes) is passed


def test_a_wrong_value_fails_in_a_corner_where_the_source_is_smooth():
    samples = [Sample("typical", {"x": ONES / 3}), Sample("large", {"x": ONES}, corner=True)]
    wrong = Stage("other", lambda x: np.tanh(x) * np.float32(1 + (x[0] == 1) * 1e-4))
    assert not verify_stages([Stage("source", np.tanh), wrong], samples, {"y": F32}).passed
