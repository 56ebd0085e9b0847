"""A few hundred broken models: each is refused with an error of ours, or compiled; the long form is `make fuzz`."""

from __future__ import annotations

import pytest
from fuzz import workers
from fuzz.mutate import mutant
from fuzz.seeds import SEEDS

from sardonyx import Session, SessionOptions

COUNT, PARTS = 300, 2
# Once crashed, ran into an accident or gave what they should not: numbers of mutants.
KNOWN = (3431, 10838, 11768, 12436, 25601)


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_themselves_compile(name: str) -> None:
    Session(SEEDS[name](), SessionOptions(progress=False))


def test_mutants_are_decided_by_their_number() -> None:
    assert mutant(17) == mutant(17)
    assert len({mutant(number)[1] for number in range(50)}) > 40


@pytest.mark.parametrize("part", range(PARTS))
def test_broken_models_are_refused_or_compiled(part: int) -> None:
    numbers = range(part * COUNT // PARTS, (part + 1) * COUNT // PARTS)
    outcomes = list(workers.run("fuzz.trial:trial", numbers, arguments=(0.02,)))
    assert [outcome for outcome in outcomes if outcome[1] in ("bug", "crash", "hang")] == []
    assert [number for number, _, _ in outcomes] == list(numbers)
    counts = {kind: sum(kind == outcome[1] for outcome in outcomes) for kind in ("refused", "generated")}
    assert min(counts.values()) > COUNT // PARTS // 10, "mutations are too wild or too tame to find anything"


def test_what_was_found_once_is_not_found_again() -> None:
    for number, kind, details in workers.run("fuzz.trial:trial", KNOWN, arguments=(1.0,)):
        assert kind in ("refused", "ran", "failed", "tripped"), (number, details)


def crash(number: int) -> tuple[str, str]:
    """A trial that kills its process at 1, hangs at 3 and uses up its memory at 5."""
    import ctypes
    import time

    if number == 1:
        ctypes.string_at(0)
    if number == 3:
        time.sleep(100)
    if number == 5:
        bytearray(workers.MEMORY)
    return "fine", ""


def test_crashes_and_hangs_are_outcomes_and_the_rest_goes_on() -> None:
    outcomes = list(workers.run("fuzz.test_mutations:crash", range(7), seconds=3.0))
    assert [kind for _, kind, _ in outcomes] == ["fine", "crash", "fine", "hang", "fine", "crash", "fine"]
    assert "Segmentation fault" in outcomes[1][2]
    assert "MemoryError" in outcomes[5][2]
