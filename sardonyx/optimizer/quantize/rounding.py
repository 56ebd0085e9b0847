"""Round the weights of a layer so that what it computes changes least, given the Gram matrix of its inputs.

`descent` keeps the scales and improves the nearest integers one column after the other, each time with the best one
while all others stay: cyclic coordinate descent, "QuantEase", arXiv:2309.01885. `gptq` goes through the columns once,
and lets those that are left make up for the error of those that are done: "GPTQ", arXiv:2210.17323.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["damped", "descent", "gptq"]

_DAMPING = 0.01  # of the mean of the diagonal, as in GPTQ: inputs that are never seen keep the nearest integer
_BLOCK = 128  # columns whose effect on the others is added up at once


def damped(H: np.ndarray) -> np.ndarray:
    """`H` with a little added to its diagonal, so that it has an inverse; float64."""
    mean = float(np.mean(np.diag(H)))
    return np.asarray(H, np.float64) + np.eye(len(H)) * (_DAMPING * mean if mean > 0 else 1.0)


def descent(W: np.ndarray, scale: np.ndarray, H: np.ndarray, limit: int = 127, sweeps: int = 4) -> np.ndarray:
    """Integers Q in -limit ... limit for which ``tr((sQ - W) H (sQ - W)')`` is small, never above the nearest ones'.

    Args:
        W: [rows, columns].
        scale: one for each row, above 0.
        H: [columns, columns].
        limit: the largest integer, by size.
        sweeps: at most so many passes over the columns.

    Returns:
        int8 [rows, columns].
    """
    H = damped(H)
    W = np.asarray(W, np.float64)
    steps = np.asarray(scale, np.float64).reshape(-1)
    Q = np.clip(np.rint(W / steps[:, None]), -limit, limit)
    error = Q * steps[:, None] - W
    slope = error @ H
    for _ in range(sweeps):
        changed = 0
        for start in range(0, W.shape[1], _BLOCK):
            part = slice(start, min(start + _BLOCK, W.shape[1]))
            before, inner = error[:, part].copy(), slope[:, part]
            for at in range(part.start, part.stop):
                best = W[:, at] + error[:, at] - inner[:, at - start] / H[at, at]
                chosen = np.clip(np.rint(best / steps), -limit, limit)
                moved = (chosen - Q[:, at]) * steps
                if not moved.any():
                    continue
                changed += int(np.count_nonzero(moved))
                Q[:, at] = chosen
                error[:, at] += moved
                inner += moved[:, None] * H[at, part]
            difference = error[:, part] - before
            slope[:, : part.start] += difference @ H[part, : part.start]
            slope[:, part.stop :] += difference @ H[part, part.stop :]
        if changed == 0:
            break
    return Q.astype(np.int8)


def gptq(W: np.ndarray, H: np.ndarray, block: int, quantize: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """The weights that `quantize` allows, chosen column by column.

    Args:
        W: [rows, columns].
        H: [columns, columns].
        block: columns that share their scales.
        quantize: ``(columns, number)``. It is called with all columns [rows, block] of block i, as they are when their
            turn comes, and number -1 - i, to fix their scales; then with each column [rows] of that block and number
            i, for which it returns what is nearest.

    Returns:
        [rows, columns] float64, all of them results of `quantize`.
    """
    W = np.array(W, np.float64)
    U = np.linalg.cholesky(np.linalg.inv(damped(H))).T  # upper: inverse of H = U' U
    out = np.empty_like(W)
    for number, start in enumerate(range(0, W.shape[1], block)):
        part = slice(start, min(start + block, W.shape[1]))
        quantize(W[:, part], -1 - number)
        errors = np.zeros((len(W), part.stop - part.start))
        for at in range(part.start, part.stop):
            out[:, at] = quantize(W[:, at], number)
            errors[:, at - start] = (W[:, at] - out[:, at]) / U[at, at]
            W[:, at : part.stop] -= errors[:, at - start, None] * U[at, at : part.stop]
        W[:, part.stop :] -= errors @ U[part, part.stop :]
    return out
