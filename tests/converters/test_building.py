"""The graph under construction of our own readers."""

import numpy as np

from sardonyx.converters.building import Builder, constant_of


def test_a_constant_that_is_split_becomes_as_many_constants():
    builder = Builder(18)
    parts = builder.many("Split", np.arange(15, dtype=np.float32).reshape(5, 3), outputs=3, axis=-1, num_outputs=3)
    assert [constant_of(part)[:, 0].tolist() for part in parts] == [[n, n + 3, n + 6, n + 9, n + 12] for n in range(3)]
    assert not builder.nodes
