"""How far two arrays are apart, and whether that is rounding.

The measures are those that people know: largest absolute and relative difference, cosine, signal-to-noise ratio, and
how often the largest element of a row is the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sardonyx.verifier.tolerance import Tolerance

PASS, QUANTISED, FAIL = "pass", "within quantisation", "fail"


@dataclass(frozen=True)
class Difference:
    """Of two arrays: `expected` from the source, `actual` from the stage under test.

    Attributes:
        absolute: largest difference; infinite where shapes differ, or NaN stands on one side only.
        relative: `absolute` over the largest finite magnitude of `expected`.
        cosine: of the two as vectors; 1 where both are 0.
        snr: signal-to-noise ratio in dB; infinite where they are equal.
        argmax: share of rows (last axis) whose largest element is the same; None where a row has one element.
        allowed: what `absolute` may be.
        verdict: `PASS`, `QUANTISED` or `FAIL`.
        reason: what is wrong, where the numbers do not say it.
    """

    absolute: float
    relative: float
    cosine: float
    snr: float
    argmax: float | None
    allowed: float
    verdict: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether this is more than rounding or quantisation."""
        return self.verdict == FAIL


def compare(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Difference:
    """The difference of one output under `tolerance`."""
    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.shape != actual.shape:
        return _different(f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.dtype.kind in "OUSb" or actual.dtype.kind in "OUSb":
        same = bool(np.array_equal(expected.astype(str), actual.astype(str)))
        return _equal() if same else _different("values differ")
    if expected.size == 0:
        return _equal()
    wide = np.complex128 if "c" in (expected.dtype.kind, actual.dtype.kind) else np.float64
    return _numbers(expected.astype(wide).ravel(), actual.astype(wide).ravel(), expected.shape, tolerance)


def _numbers(e: np.ndarray, a: np.ndarray, shape: tuple[int, ...], tolerance: Tolerance) -> Difference:
    finite = np.isfinite(e)
    special = bool(np.all((e == a) | (np.isnan(e) & np.isnan(a)) | finite))
    if not special or not np.all(np.isfinite(a[finite])):
        return _different("NaN or infinity on one side only")
    e, a = np.where(finite, e, 0), np.where(finite, a, 0)
    error = np.abs(a - e)
    peak, worst = float(np.abs(e).max()), float(error.max())
    norm_e, norm_a, noise = (float(np.linalg.norm(v)) for v in (e, a, error))
    cosine = float(np.real(np.vdot(e, a))) / (norm_e * norm_a) if norm_e and norm_a else float(norm_e == norm_a)
    snr = float("inf") if noise == 0 else 20 * float(np.log10(norm_e / noise)) if norm_e else float("-inf")
    argmax = None
    if shape and shape[-1] > 1 and e.dtype.kind == "f":
        rows_e, rows_a = e.reshape(-1, shape[-1]), a.reshape(-1, shape[-1])
        argmax = float(np.mean(rows_e.argmax(1) == rows_a.argmax(1)))
    positive = np.abs(e[e != 0])
    allowed = tolerance.allowed(peak, float(positive.min()) if positive.size else 1.0)
    verdict = PASS if worst <= allowed else FAIL
    # One step is always within quantisation: where everything is near zero, that is a poor signal-to-noise ratio.
    if verdict == FAIL and tolerance.quantised and (snr >= tolerance.quantised_snr or worst <= 1.001 * tolerance.step):
        verdict = QUANTISED
    return Difference(worst, worst / peak if peak else worst, cosine, snr, argmax, allowed, verdict)


def _equal() -> Difference:
    return Difference(0.0, 0.0, 1.0, float("inf"), 1.0, 0.0, PASS)


def _different(reason: str) -> Difference:
    inf = float("inf")
    return Difference(inf, inf, 0.0, -inf, 0.0, 0.0, FAIL, reason)
