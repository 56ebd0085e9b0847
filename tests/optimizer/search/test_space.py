"""Choices become steps, and first guesses follow from what is found."""

from __future__ import annotations

import pytest

from sardonyx.optimizer.search.budget import Candidate, Figures
from sardonyx.optimizer.search.space import Space
from sardonyx.optimizer.step import registered_steps

RANKING = [{"node": f"layer{n}", "snr": float(n)} for n in range(10)]


def space(objective="latency", **more):
    return Space(registered_steps(), objective, lambda: RANKING, **more)


def answered(space, judge):
    """The points that are guessed, when `judge` says what becomes of each: verified, glance, metric or time."""
    guesses, points = space.guesses(), []
    try:
        point = next(guesses)
        while True:
            points.append(point)
            verdict = judge(point)
            figures = Figures(100, 0.5, 100, (0.5, 0.5, 0.5) if verdict == "verified" else None, 1.0, 10.0)
            kind = "verified" if verdict == "verified" else "rejected"
            point = guesses.send(
                Candidate(len(points), space.make(point), figures, kind, "" if kind == verdict else verdict)
            )
    except StopIteration:
        return points


def test_points_become_steps_with_what_differs_from_the_defaults():
    found = space().make({"prune": 0.5, "numbers": "static-int8", "calibration": "entropy", "kept": 0.2})
    assert found == [
        {"prune-channels": {"flops": 0.5}},
        {"static-int8": {"calibration": "entropy", "skip": ["layer0", "layer1"]}},
    ]
    assert space().make({"numbers": "static-int8", "convolutions": True}) == [{"static-int8": {}}]
    assert space().make({}) == []


def test_size_is_pruned_by_weights_and_the_rest_is_halved():
    found = space("size").make({"prune": 0.3, "numbers": "weights-int8", "rest": "float16"})
    assert found == [{"prune-channels": {"parameters": 0.3}}, {"weights-int8": {}}, {"float16": {}}]
    assert "rest" not in space().knobs


def test_without_data_nothing_is_pruned():
    assert not {"prune", "rank", "sparse"} & space(calibrated=False, packed=True).knobs.keys()


def test_zeros_and_palettes_are_for_containers():
    assert not {"sparse", "palette"} & space("size").knobs.keys()
    assert {"sparse", "palette"} <= space("size", packed=True).knobs.keys()


def test_layers_are_ranked_only_when_that_matters():
    def refuse():
        raise AssertionError("not yet")

    Space(registered_steps(), "latency", refuse).make({"numbers": "static-int8"})


def test_the_most_that_can_be_pruned_is_found_by_halving():
    points = answered(space(), lambda point: "verified" if point.get("prune", 0) <= 0.4 else "metric")
    pruned = [point["prune"] for point in points if "prune" in point]
    assert max(share for share in pruned if share <= 0.4) == 0.4
    assert len(pruned) <= 8


def test_inexact_int8_is_tuned_until_layers_stay_in_float():
    def judge(point):
        inexact = point.get("numbers") in ("static-int8", "dynamic-int8") and point.get("kept", 0) < 0.2
        return "metric" if inexact else "verified"

    points = answered(space(), judge)
    tuned = [point for point in points if point.get("numbers") == "static-int8"]
    assert {point.get("prepare") for point in tuned} >= {"equalize", "smooth-quant"}
    assert {point.get("calibration") for point in tuned} >= {"percentile", "entropy", "mse"}
    assert [point["kept"] for point in tuned if "kept" in point and "prune" not in point] == [0.05, 0.1, 0.2, 0.35]
    assert not [point for point in points if point.get("numbers") == "dynamic-int8" and "kept" in point]


def test_layers_rank_by_the_noise_that_they_make_for_what_they_gain():
    rows = [
        {"node": "small", "snr": 20.0, "bytes_saved": 1, "milliseconds": 0.0},
        {"node": "large", "snr": 18.0, "bytes_saved": 1000, "milliseconds": 0.0},
        {"node": "exact", "snr": 60.0, "bytes_saved": 10, "milliseconds": 0.0},
        {"node": "slow", "snr": 18.0, "bytes_saved": 10, "milliseconds": 10.0},
    ]

    def ranked(objective):
        return Space(registered_steps(), objective, lambda: rows).ranking

    assert ranked("latency") == ["small", "large", "slow", "exact"]
    assert ranked("size") == ["small", "slow", "large", "exact"]


def test_weights_are_trained_only_where_that_is_asked_for_and_pruning_cost_too_much():
    assert "finetune" not in space().knobs
    points = answered(space(finetune=True), lambda point: "metric" if point.get("prune", 0) > 0.3 else "verified")
    trained = [point for point in points if point.get("finetune")]
    assert trained
    assert all(point["prune"] > 0.3 for point in trained)
    made = space(finetune=True).make({"prune": 0.5, "finetune": True, "numbers": "static-int8"})
    assert [next(iter(step)) for step in made] == ["prune-channels", "fine-tune", "static-int8"]


def test_nothing_is_tuned_where_a_format_works():
    points = answered(space(), lambda point: "metric" if point.get("numbers") == "static-int8" else "verified")
    assert not [point for point in points if "calibration" in point or "kept" in point]


@pytest.mark.parametrize("objective", ["latency", "size", "memory"])
def test_every_guess_can_be_made(objective):
    chosen = space(objective, packed=True)
    for verdict in ("verified", "metric", "time"):
        for point in answered(chosen, lambda point, verdict=verdict: verdict):
            assert chosen.make(point)
