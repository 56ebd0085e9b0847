"""Single weights become zero in the pattern that was asked for, and the others make up for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from digits import calibration, trained

from sardonyx.errors import InputError
from sardonyx.model import load
from sardonyx.optimizer.products import find_products
from sardonyx.optimizer.prune.weights import PruneWeights, sparse
from sardonyx.optimizer.step import Context, make_step

RNG = np.random.default_rng(2)


def correlated(rows: int, features: int) -> np.ndarray:
    return RNG.normal(size=(rows, features)) @ RNG.normal(size=(features, features)) + RNG.normal(size=(rows, features))


def loss(x: np.ndarray, W: np.ndarray, V: np.ndarray) -> float:
    return float(((x @ (W - V).T) ** 2).sum() / ((x @ W.T) ** 2).sum())


@pytest.mark.parametrize("pattern", [(2, 4), (1, 3), (4, 8)])
def test_patterns_hold_and_a_tail_stays_dense(pattern: tuple[int, int]) -> None:
    n, m = pattern
    W = RNG.normal(size=(7, 5 * m + 1))
    x = correlated(997, 5 * m + 1)
    found = sparse(W, np.cov(x.T), 0.5, pattern)
    zeros = (found[:, : 5 * m] == 0).reshape(7, 5, m).sum(2)
    assert (zeros == n).all()
    assert (found[:, 5 * m :] != 0).all()


def test_the_share_of_zeros_is_the_one_asked_for() -> None:
    W, x = RNG.normal(size=(11, 301)), correlated(997, 301)
    assert (sparse(W, np.cov(x.T), 0.7) == 0).mean() == pytest.approx(0.7, abs=0.01)


def test_others_make_up_for_what_is_removed() -> None:
    W, x = RNG.normal(size=(11, 40)), RNG.normal(size=(4001, 7)) @ RNG.normal(size=(7, 40))
    x += 0.3 * RNG.normal(size=x.shape) - x.mean(0)
    magnitude = sparse(W, None, 0.5, (2, 4))
    assert loss(x, W, sparse(W, np.cov(x.T), 0.5, (2, 4))) < 0.3 * loss(x, W, magnitude)


def test_one_of_two_is_close_to_the_best_of_all_choices() -> None:
    x = correlated(2003, 4)
    x -= x.mean(0)
    W = RNG.normal(size=(1, 4))
    best = min(loss(x, W, refit(x, W, kept)) for kept in itertools.product((0, 1), (2, 3)))
    found = loss(x, W, sparse(W, np.cov(x.T), 0.5, (1, 2)))
    assert best <= found + 1e-9 < 4 * best + 0.05


def refit(x: np.ndarray, W: np.ndarray, kept: tuple[int, ...]) -> np.ndarray:
    V = np.zeros_like(W)
    V[0, list(kept)] = np.linalg.lstsq(x[:, kept], x @ W[0], rcond=None)[0]
    return V


@pytest.mark.parametrize("with_data", [False, True], ids=["bare", "data"])
def test_a_network_becomes_two_of_four_sparse(with_data: bool) -> None:
    proto = trained(16, 5)
    step = make_step("prune-weights", {"pattern": [2, 4]})
    applied = step.apply(load(proto), Context(calibration(count=40) if with_data else None))
    for product in find_products(applied.model):
        W = product.matrix()
        if W.size >= 1024:
            whole = W.shape[1] // 4 * 4
            assert ((W[:, :whole] == 0).reshape(len(W), -1, 4).sum(2) >= 2).all()
    assert any("without data" in note for note in applied.notes) != with_data


@pytest.mark.parametrize("wrong", [{"sparsity": 0}, {"pattern": (4, 2)}, {"pattern": (2,)}])
def test_patterns_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        PruneWeights(**wrong)
