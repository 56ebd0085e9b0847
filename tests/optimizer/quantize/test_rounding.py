"""Rounding to blocks and by what it does to outputs, each against a small statement of what it means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optimizer.quantize.helpers import normal

from sardonyx.optimizer.quantize.blocks import gptq_blocks, half_quadratic, nearest, pack
from sardonyx.optimizer.quantize.rounding import damped, descent


def correlated(count: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Inputs of a layer that go together, as real ones do."""
    return normal(count, 5, seed=seed) @ normal(5, inputs, seed=seed + 1) + normal(
        count, inputs, seed=seed + 2, scale=0.3
    )


def loss(W: np.ndarray, Q: np.ndarray, H: np.ndarray) -> float:
    return float(np.trace((Q - W) @ H @ (Q - W).T))


def test_descent_is_no_worse_than_nearest_and_better_where_inputs_go_together() -> None:
    x = correlated(500, 37)
    H, W = x.T @ x / 500, normal(11, 37, seed=7)
    scale = np.abs(W).max(axis=1) / 7
    near = np.clip(np.rint(W / scale[:, None]), -7, 7)
    chosen = descent(W, scale, H, limit=7)
    assert np.abs(chosen).max() <= 7
    assert loss(W, chosen * scale[:, None], H) < 0.5 * loss(W, near * scale[:, None], H)
    alone = descent(W, scale, np.diag(np.diag(H)), limit=7)
    np.testing.assert_array_equal(alone, near)  # nothing to make up for


def test_descent_ends_where_no_single_integer_can_be_improved() -> None:
    x = correlated(300, 9, seed=4)
    H, W = damped(x.T @ x / 300), normal(1, 9, seed=5)
    scale = np.abs(W).max(axis=1) / 7
    chosen = descent(W, scale, x.T @ x / 300, limit=7, sweeps=100).astype(float)
    least = loss(W, chosen * scale, H)
    for at, other in itertools.product(range(9), range(-7, 8)):
        tried = chosen.copy()
        tried[0, at] = other
        assert loss(W, tried * scale, H) >= least - 1e-12


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_is_better_than_nearest_where_inputs_go_together(symmetric: bool) -> None:
    x = correlated(500, 70)
    H, W = x.T @ x / 500, normal(13, 70, seed=8)
    near, chosen = nearest(W, 32, symmetric), gptq_blocks(W, H, 32, symmetric)
    assert chosen.integers.shape == near.integers.shape == (13, 3, 32)
    assert loss(W, chosen.floats(), H) < 0.5 * loss(W, near.floats(), H)


def test_gptq_of_inputs_that_do_not_go_together_is_nearest() -> None:
    W = normal(5, 41, seed=9)
    np.testing.assert_array_equal(gptq_blocks(W, np.eye(41), 16, False).floats(), nearest(W, 16, False).floats())


def test_inputs_that_are_never_seen_do_not_break_gptq() -> None:
    H = np.zeros((24, 24))
    H[3, 3] = 5
    assert np.isfinite(gptq_blocks(normal(5, 24), H, 16, True).floats()).all()
    assert np.isfinite(gptq_blocks(normal(5, 24), np.zeros((24, 24)), 16, True).floats()).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_nearest_is_within_half_a_step_and_zero_is_exact(symmetric: bool) -> None:
    W = normal(7, 70, seed=3)
    W[2, 5:9], W[4], W[5], W[6] = 0, 0, np.abs(W[5]) + 3, -np.abs(W[6]) - 3
    found = nearest(W, 32, symmetric)
    steps = np.repeat(found.scale, 32, axis=1)[:, :70]
    assert (np.abs(found.floats() - W) <= steps * 0.5 + 1e-6 + (steps * 0.5 if not symmetric else 0)).all()
    assert (found.floats()[W == 0] == 0).all()
    assert found.integers.max() <= 15


@pytest.mark.parametrize("symmetric", [False, True])
def test_hqq_is_better_in_its_norm_than_nearest_for_every_block(symmetric: bool) -> None:
    rng = np.random.default_rng(5)
    W = rng.standard_t(3, (17, 96))
    near, better = nearest(W, 32, symmetric), half_quadratic(W, 32, symmetric)

    def cost(blocks) -> np.ndarray:
        return np.sum(np.abs(blocks.floats() - W).reshape(17, 3, 32) ** 0.7, axis=-1)

    assert (cost(better) <= cost(near) + 1e-9).all()
    assert cost(better).sum() < 0.97 * cost(near).sum()


def test_packing_puts_the_first_number_into_the_low_bits() -> None:
    np.testing.assert_array_equal(pack(np.array([[1, 2, 15], [0, 8, 3]], np.uint8)), [[0x21, 0x0F], [0x80, 0x03]])
