"""Weights take few values, the best ones, and go small into a container."""

from __future__ import annotations

import numpy as np
import pytest
from digits import calibration, images, trained
from sklearn.cluster import KMeans

from sardonyx import Session, SessionOptions
from sardonyx.errors import InputError
from sardonyx.model import load
from sardonyx.optimizer.compress.container import pack, unpack
from sardonyx.optimizer.compress.palette import Palette, cluster
from sardonyx.optimizer.step import Context


@pytest.mark.parametrize("entries", [3, 16])
def test_clusters_are_as_good_as_those_of_scikit_learn(entries: int) -> None:
    values = np.random.default_rng(1).normal(size=4001) ** 3
    centres = cluster(values, entries)
    distance = (np.abs(values[:, None] - centres).min(1) ** 2).sum()
    assert len(centres) <= entries
    assert distance <= 1.1 * KMeans(entries, n_init=3, random_state=0).fit(values[:, None]).inertia_


def test_few_values_stay_exactly_what_they_are() -> None:
    np.testing.assert_allclose(cluster(np.array([2.0, -1.0, 2.0, 2.0, 0.5]), 16), [-1, 0.5, 2])
    np.testing.assert_allclose(cluster(np.full(7, 3.0), 2), [3])


def test_digits_with_sixteen_values_a_layer_are_read_and_an_eighth_in_size(tmp_path) -> None:
    proto = trained(16, 5)
    applied = Palette(16).apply(load(proto), Context(calibration(count=40)))
    for value in applied.model.graph.initializers.values():
        if value.const_value.size >= 1024:
            assert len(np.unique(value.const_value.numpy())) <= 16
    x, y = images()[2:]
    scores = [Session(m, SessionOptions(cache=False)).run({"x": x})[0] for m in (proto, applied.model)]
    right = [(each.argmax(1) == y).mean() for each in scores]
    assert right[1] >= right[0] - 0.02
    packed = pack(applied.model, tmp_path / "m.sdx")
    assert packed.forms["palette"] >= 5
    assert packed.packed < len(proto.SerializeToString()) / 6
    np.testing.assert_array_equal(
        Session(unpack(tmp_path / "m.sdx"), SessionOptions(cache=False)).run({"x": x})[0], scores[1]
    )


def test_a_layer_that_would_lose_too_much_keeps_its_weights() -> None:
    applied = Palette(2, error=0.001).apply(load(trained(16, 5)), Context())
    assert not applied.modified
    assert any("keeps its weights" in note for note in applied.notes)


@pytest.mark.parametrize("wrong", [{"entries": 1}, {"entries": 257}, {"error": 0}])
def test_palettes_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Palette(**wrong)
