"""Comparison of small models with the reference, within a tolerance."""

from __future__ import annotations

import numpy as np
from onnx.reference import ReferenceEvaluator
from small_models import typed

import sardonyx


def close(model, *feeds, rtol=2e-6, atol=1e-6, native=True):
    """Every feed gives what the reference gives but for rounding."""
    session = sardonyx.Session(typed(model))
    assert not native or {p.provider for p in session.placement()} == {"native"}
    reference = ReferenceEvaluator(model)
    for feed in feeds:
        with np.errstate(all="ignore"):
            wanted = reference.run(None, feed)
        for name, want, have in zip(model.graph.output, wanted, session.run(feed), strict=True):
            assert (have.dtype, have.shape) == (want.dtype, want.shape), name.name
            np.testing.assert_allclose(have, want, rtol, atol, err_msg=name.name)


def random(*shape, dtype=np.float32):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)
