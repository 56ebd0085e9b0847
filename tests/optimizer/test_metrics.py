"""Metrics against other implementations of them, and what they say of what they cannot judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from sardonyx.errors import InputError, OptimizationError
from sardonyx.optimizer.metrics import detection, scores, text
from sardonyx.optimizer.metrics.metric import METRICS, find_metric


def runs(array, size=7):
    return [array[at : at + size] for at in range(0, len(array), size)]


@pytest.fixture
def classified():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((53, 5)).astype(np.float32), rng.integers(0, 5, 53)
    return logits, labels


def test_classes_are_judged_as_scikit_learn_judges_them(classified):
    logits, labels = classified
    values, truth = runs(logits), runs(labels)
    best = logits.argmax(1)
    assert scores.accuracy(values, truth) == pytest.approx(sklearn_metrics.accuracy_score(labels, best))
    assert scores.f1(values, truth) == pytest.approx(sklearn_metrics.f1_score(labels, best, average="macro"))
    for k in (1, 2, 3):
        want = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(5))
        assert scores.top_k(values, truth, k) == pytest.approx(want)


def test_perplexity_is_the_exponential_of_the_log_loss(classified):
    logits, labels = classified
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    want = math.exp(sklearn_metrics.log_loss(labels, p, labels=range(5)))
    assert scores.perplexity(runs(logits), runs(labels)) == pytest.approx(want)
    padded = np.where(np.arange(53) % 3 == 0, -100, labels)
    kept = padded >= 0
    want = math.exp(sklearn_metrics.log_loss(labels[kept], p[kept], labels=range(5)))
    assert scores.perplexity(runs(logits), runs(padded)) == pytest.approx(want)


def test_ranks_with_ties_correlate_as_in_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, 41).astype(np.float32), rng.integers(0, 9, 41).astype(np.float32)
    assert scores.spearman(runs(a), runs(b)) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert scores.spearman([np.ones(3)], [np.arange(3)]) == 0


def test_distances_are_what_their_formulas_say():
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [0.0, 0.0]])
    assert scores.rmse([a], [b]) == pytest.approx(math.sqrt(2 / 4))
    assert scores.snr([a], [b]) == pytest.approx(10 * math.log10(25 / 2))
    assert scores.snr([b], [b]) == math.inf
    assert scores.snr([b * np.nan], [b]) == -math.inf
    assert scores.cosine([a], [b]) == pytest.approx((24 / 25 + 1) / 2)
    assert scores.worst_cosine([a], [b]) == pytest.approx(24 / 25)


def test_pixels_are_judged_as_by_the_jaccard_score():
    rng = np.random.default_rng(2)
    logits, labels = rng.standard_normal((3, 4, 5, 7)), rng.integers(0, 4, (3, 5, 7))
    want = sklearn_metrics.jaccard_score(labels.ravel(), logits.argmax(1).ravel(), average="macro")
    assert scores.mean_iou(runs(logits, 1), runs(labels, 1)) == pytest.approx(want)


def test_a_single_score_is_a_probability_or_a_logit():
    assert scores.classes([np.array([[0.4], [0.6]])]).tolist() == [0, 1]
    assert scores.classes([np.array([[-2.0], [0.3]])]).tolist() == [0, 1]


def test_classes_by_name_are_compared_by_name():
    assert scores.accuracy([np.array(["a", "b"], object)], [np.array(["a", "c"], object)]) == 0.5


@pytest.mark.parametrize(
    ("a", "b", "want"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)]
)
def test_edits_are_counted(a, b, want):
    assert text.edit_distance(a, b) == want


def test_error_rates_are_edits_over_the_length_of_the_truth():
    assert text.character_error_rate(["kitten", "ab"], ["sitting", "ab"]) == pytest.approx(3 / 9)
    assert text.word_error_rate([np.array(["the cat sat"], object)], [["the cat sat down"]]) == pytest.approx(1 / 4)


def test_scores_of_moments_are_decoded():
    best = [0, 3, 3, 0, 3, 1, 1, 0]
    rows = np.eye(5, dtype=np.float32)[best]
    assert text.lines(rows[None]) == [[3, 3, 1]]


def test_perfect_boxes_have_a_precision_of_one_and_misplaced_ones_less():
    truth = [{"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "classes": [1, 2]}]
    same = [
        [np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([0.9, 0.8], np.float32), np.array([1, 2])]
    ]
    assert detection.mean_average_precision(same, truth) == pytest.approx(1)
    moved = [np.array([[[0, 0, 10, 10, 0.9, 1], [22, 20, 32, 30, 0.8, 2]]], np.float32)]  # IoU 8 / 12
    assert detection.map50(moved, truth) == pytest.approx(1)
    assert detection.mean_average_precision(moved, truth) == pytest.approx((1 + 4 / 10) / 2)


def test_a_second_box_on_the_same_target_is_a_false_one():
    truth = [{"boxes": [[0, 0, 10, 10], [50, 50, 60, 60]], "classes": [0, 0]}]
    twice = [
        {"boxes": [[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], "scores": [0.9, 0.8, 0.7], "classes": [0, 0, 0]}
    ]
    recall = np.linspace(0, 1, 101)
    want = np.mean(np.where(recall <= 0.5, 1, 2 / 3))  # precision 1 up to one half of the targets, 2 / 3 up to all
    assert detection.map50(twice, truth) == pytest.approx(want)


def test_no_boxes_where_there_are_none_is_right():
    nothing = {"boxes": np.zeros((0, 4)), "scores": [], "classes": []}
    assert detection.map50([nothing], [nothing]) == 1
    assert detection.map50([{"boxes": [[0, 0, 1, 1]], "scores": [1.0], "classes": [0]}], [nothing]) == 0


def test_without_labels_the_original_is_the_truth(classified):
    logits, _ = classified
    metric = find_metric("accuracy", labelled=False)
    original = [[part] for part in runs(logits)]
    assert metric.of(original, None, original, ["y"]) == 1
    turned = [[part[:, ::-1]] for part in runs(logits)]
    want = np.mean(logits.argmax(1) == logits[:, ::-1].argmax(1))
    assert metric.of(turned, None, original, ["y"]) == pytest.approx(want)


def test_a_function_of_the_users_gets_outputs_by_name():
    seen = []

    def mine(outputs, labels):
        seen.append((outputs, labels))
        return 0.5

    one = np.ones(3)
    assert find_metric(mine, True).of([[one]], ["label"], [[one]], ["y"]) == 0.5
    assert seen == [([{"y": one}], ["label"])]


def test_less_is_better_where_the_user_says_so():
    def error(outputs, labels):
        return 0.0

    error.lower_is_better = True
    assert not find_metric(error, True).higher
    assert not find_metric("-math:fsum", True).higher
    assert find_metric("math:fsum", True).higher


@pytest.mark.parametrize("name", ["acuracy", "top-0", "top-x"])
def test_an_unknown_metric_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(InputError, match="no metric called") as caught:
        find_metric(name, True)
    assert all(known in str(caught.value) for known in METRICS)


@pytest.mark.parametrize(("name", "words"), [("no_such_module:f", "cannot be imported"), ("math:pi", "not a function")])
def test_a_function_that_is_none_is_an_error(name, words):
    with pytest.raises(InputError, match=words):
        find_metric(name, True)


def test_labels_that_do_not_fit_are_an_error(classified):
    logits, labels = classified
    with pytest.raises(InputError, match="53 classes for 52 labels"):
        find_metric("accuracy", True).of([[logits]], [labels[1:]], [[logits]], ["y"])
    with pytest.raises(InputError, match="needs labels"):
        find_metric("perplexity", False).of([[logits]], None, [[logits]], ["y"])
    with pytest.raises(InputError, match="no output called 'z'"):
        find_metric("accuracy", True).of([[logits]], [labels], [[logits]], ["y"], "z")


def test_outputs_of_another_kind_are_an_error_with_the_reason():
    with pytest.raises(OptimizationError, match="'map' failed: ValueError: no boxes"):
        METRICS["map"].of([[np.ones(3)]], [{"boxes": [], "classes": []}], [[np.ones(3)]], ["y"])
