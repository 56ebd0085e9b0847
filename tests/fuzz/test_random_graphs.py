"""Random graphs natively and by the reference; the long form is `make fuzz`."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz import compare, workers
from fuzz.graphs import Graph, random_graph

from sardonyx.model import load

COUNT, PARTS = 24, 2
# Graphs that once differed or did not compile.
KNOWN = (4, 1206)


def test_graphs_are_valid_and_decided_by_their_number() -> None:
    for number in range(20):
        model, again = (random_graph(number).model().SerializeToString(deterministic=True) for _ in range(2))
        assert model == again
        load(model)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_graphs_give_what_the_reference_gives(part: int) -> None:
    numbers = range(part * COUNT // PARTS, (part + 1) * COUNT // PARTS)
    outcomes = list(workers.run("fuzz.compare:trial", numbers))
    assert [outcome for outcome in outcomes if outcome[1] not in ("equal", "empty")] == []
    assert len(outcomes) == len(numbers)


def test_what_differed_once_does_not_differ_again() -> None:
    for number in KNOWN:
        assert compare.trial(number) == ("equal", "")


def test_a_wrong_result_is_found_and_its_node_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(0)
    graph.new((3, 4), "float32", constant=False)
    graph.add("Neg", ["x0"])
    graph.add("Exp", ["v0_0"])
    graph.add("Abs", ["v1_0"])
    references = compare.expected(graph)
    assert compare.first_difference(graph, references) == "no node differs by itself: fusion"
    references[0]["v1_0"] = references[0]["v1_0"] * np.float32(1.001)
    references[1:] = [dict(references[0]) for _ in references[1:]]
    assert compare.first_difference(graph, references).startswith(
        "first at node n1 (Exp) of (v0_0 float32[3, 4]): v1_0: 12 of 12"
    )
