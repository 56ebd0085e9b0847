"""Budgets, noise, and which of two models is the better one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sardonyx.errors import InputError
from sardonyx.optimizer.metrics.metric import METRICS
from sardonyx.optimizer.search.budget import Budget, Candidate, Figures, Limits, parse_drop
from sardonyx.optimizer.search.measure import compare_times, interval

ORIGINAL = Figures(size=1_000_000, metric=0.9, memory=2_000_000, ratio=(1, 1, 1), latency=4.0, proof=0.9)


def limits(metric="accuracy", original=ORIGINAL, noise=0.02, **budget):
    return Limits(Budget(**budget), METRICS[metric], original, noise)


def figures(size=500_000, metric=0.9, memory=1_000_000, ratio=(0.5, 0.5, 0.5), proof=None):
    return Figures(size, metric, memory, ratio, ratio[1] * 4.0, proof=proof)


def test_the_floor_follows_the_original_in_the_direction_of_the_metric():
    assert limits(max_drop=0.01).floor == pytest.approx(0.89)
    assert limits(max_drop=0.01, relative=True).floor == pytest.approx(0.9 - 0.009)
    assert limits("rmse", max_drop=0.01).floor == pytest.approx(0.91)
    assert limits(min_metric=0.5).floor == 0.5
    assert limits("snr", Figures(metric=math.inf), max_drop=0.01).floor == pytest.approx(40)
    assert limits("snr", Figures(metric=math.inf), max_drop=0.0).floor == math.inf


@pytest.mark.parametrize(
    ("budget", "changed", "words"),
    [
        ({}, {"metric": 0.88}, "accuracy 0.88, allowed is 0.89"),
        ({"max_size": 400_000}, {}, "500000 bytes, allowed are 400000"),
        ({}, {"size": 2_000_000}, "2000000 bytes, the original has 1000000"),
        ({"max_memory": 900_000}, {}, "1000000 bytes of memory, allowed are 900000"),
        ({"max_latency": 1.5}, {}, "2 ms, allowed are 1.5 ms"),
        ({}, {"ratio": (1.01, 1.05, 1.1)}, "slower: 1.050"),
        ({}, {"ratio": (0.99, 1.01, 1.03)}, "not shown to be as fast: 0.990 to 1.030"),
        ({"max_latency": 2.1}, {"ratio": (0.45, 0.5, 0.55)}, "2.2 ms, allowed are 2.1 ms"),
        ({}, {"proof": 0.88}, "on the samples that were held out: accuracy 0.88, allowed is 0.89"),
    ],
)
def test_what_breaks_the_budget_is_said_with_both_numbers(budget, changed, words):
    assert limits(**budget).problem(figures()) == "" or budget
    assert words in limits(**budget).problem(figures(**changed))


def test_what_was_not_measured_breaks_nothing():
    assert limits(max_latency=1.0, max_memory=1).problem(Figures(size=1)) == ""


def test_a_latency_that_is_given_replaces_that_of_the_original():
    assert limits(max_latency=8.0).problem(figures(ratio=(1.9, 1.9, 1.9))) == ""


def test_faster_means_clearly_faster():
    assert limits().better(figures(ratio=(0.90, 0.95, 0.97)))
    assert not limits().better(figures(ratio=(0.80, 0.95, 0.99)))
    assert not limits().better(Figures(size=1))
    assert limits(objective="size").better(Figures(size=999_999))
    assert not limits(objective="memory").better(Figures(size=1))


def test_what_is_equal_within_noise_is_decided_by_size():
    fast, small = figures(ratio=(0.5, 0.5, 0.5)), figures(ratio=(0.505, 0.505, 0.505), size=1)
    assert limits().beats(small, fast)
    assert limits(noise=0.001).beats(fast, small)
    assert limits(objective="size").beats(small, fast)


@pytest.mark.parametrize(
    "budget", [{"objective": "speed"}, {"max_drop": -1.0}, {"max_drop": math.nan}, {"max_size": 0}]
)
def test_a_budget_without_sense_is_an_error(budget):
    with pytest.raises(InputError):
        Budget(**budget)


def test_drops_are_numbers_or_parts():
    assert parse_drop("0.02") == (0.02, False)
    assert parse_drop("2%") == (0.02, True)
    assert parse_drop(0.5) == (0.5, False)
    with pytest.raises(InputError, match="'little'"):
        parse_drop("little")


def test_candidates_survive_json():
    candidate = Candidate(3, [{"static-int8": {"skip": ["a"]}}], figures(), "rejected", "time", "slower", ["note"])
    assert Candidate.from_json(candidate.to_json()) == candidate
    assert candidate.title == "static-int8 (skip 1)"


class Clock:
    """Runs that take what they are told to, in a world of their own."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def run(self, nanoseconds):
        def call():
            self.now += int(nanoseconds())

        return call


def test_times_in_turns_are_free_of_what_slows_both():
    clock, rng = Clock(), np.random.default_rng(0)

    def weather():
        return 1 + clock.now / 1e9  # the machine gets slower and slower

    a, b = (
        clock.run(lambda: 2e6 * weather() * rng.normal(1, 0.01)),
        clock.run(lambda: 4e6 * weather() * rng.normal(1, 0.01)),
    )
    found = compare_times(a, b, 1.0, clock)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.02
    assert found.rounds > 9


def test_it_is_measured_for_longer_while_what_decides_lies_within_the_interval():
    def rounds(decisive):
        clock, rng = Clock(), np.random.default_rng(0)
        a, b = (clock.run(lambda: 1e7 * rng.normal(1, 0.2)) for _ in range(2))
        return compare_times(a, b, 0.2, clock, decisive).rounds

    assert rounds(0.5) <= 18  # it looks after each nine
    assert rounds(1.0) > 40


def test_the_size_decides_only_among_what_is_as_fast():
    sized = limits(objective="size", noise=0.2)
    assert sized.decisive == 1.02
    assert sized.problem(figures(ratio=(0.98, 1.0, 1.01))) == ""
    assert sized.problem(figures(ratio=(0.98, 1.0, 1.03)))
    assert limits().decisive == 0.98
    assert limits(max_latency=8.0).decisive == 2.0


def test_what_is_clearly_slower_ends_early():
    clock = Clock()
    found = compare_times(clock.run(lambda: 2e7), clock.run(lambda: 1e7), 1000.0, clock)
    assert found.rounds == 9
    assert found.median == 2


def test_the_interval_holds_the_median_and_most_of_the_noise_stays_outside():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        low, median, high = interval(rng.normal(1, 0.1, 31).tolist())
        assert low <= median <= high
        inside += low <= 1 <= high
    assert inside >= 0.95 * 400
