"""What is searched over: choices that become steps, first guesses in order, and how a guess follows from results.

A point is a dictionary of choices. Those that are left out have the first value of their row in `KNOBS`. Steps that are
not registered, and parameters that a step does not have, take no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from functools import cached_property
from typing import Any

import numpy as np

from sardonyx.optimizer.search.budget import Candidate
from sardonyx.optimizer.step import Step, make_step

Point = dict[str, Any]
Tried = tuple[Point, Candidate]
Guesses = Generator[Point, Candidate, None]

ROUNDED = ("static-int8", "dynamic-int8", "weights-int8", "weights-int4")

TUNED = ("static-int8", "dynamic-int8")  # formats for which another setting is looked for where they are too inexact
PRUNING = ("prune", "importance", "multiple")
STEPS = dict.fromkeys(PRUNING, "prune-channels") | {"rank": "low-rank", "sparse": "prune-weights", "palette": "palette"}

# Choices by name; the first one is what happens where nothing is said.
KNOBS: dict[str, tuple[Any, ...]] = {
    "prune": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "importance": ("obs", "activation", "l2"),
    "multiple": (1, 8, 16),
    "rank": (0.0, 0.01, 0.05, 0.2),
    "finetune": (False, True),
    "sparse": (0.0, 0.5, 0.7),
    "numbers": ("", *ROUNDED, "float16", "bfloat16"),
    "prepare": ("", "equalize", "smooth-quant"),
    "calibration": ("minmax", "percentile", "entropy", "mse"),
    "weight_scale": ("max", "mse"),
    "rounding": ("nearest", "descent"),
    "bias_correction": (False, True),
    "kept": (0.0, 0.05, 0.1, 0.2, 0.35, 0.5),
    "convolutions": (False, True),
    "recurrent": (True, False),
    "method": ("hqq", "gptq", "rtn"),
    "block": (32, 64, 128, 16),
    "rest": ("", "float16", "weights-int8", "bfloat16"),
    "palette": (0, 16, 64, 256),
}
EXACT = ("weight_scale", "rounding", "bias_correction")  # their last values are the most exact
LEAST_GAIN = 1e-6  # part of all
# Formats for which a choice means something; choices that are not here always do.
MATTERS = {
    "prepare": ("static-int8", "dynamic-int8"),
    "calibration": ("static-int8",),
    "weight_scale": ("static-int8", "dynamic-int8", "weights-int8"),
    "rounding": ("static-int8", "weights-int8"),
    "bias_correction": ("static-int8",),
    "kept": ROUNDED,
    "convolutions": ("dynamic-int8",),
    "recurrent": ("dynamic-int8",),
    "method": ("weights-int4",),
    "block": ("weights-int4",),
    "rest": ROUNDED,
    "palette": ("",),
}


@dataclass(frozen=True)
class Space:
    """The choices for one model.

    Attributes:
        steps: registered steps by name.
        objective: what is wanted.
        rank: gives how much each layer (``node``) suffers from quantisation, see `Sensitivity`; called when it matters.
        calibrated: there is data of the user's; without it, nothing is pruned.
        packed: a container is written, in which zeros and equal weights are smaller.
        finetune: weights are trained after pruning, which takes PyTorch and time.
        sized: the size matters, though it may not be the objective.
        recurrent: there are recurrent layers.
    """

    steps: Mapping[str, type[Step]]
    objective: str = "latency"
    rank: Callable[[], Sequence[Mapping[str, Any]]] = tuple
    calibrated: bool = True
    packed: bool = False
    sized: bool = False
    recurrent: bool = False
    finetune: bool = False
    knobs: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.knobs.update({name: values for name in KNOBS if len(values := self._open(name)) > 1})

    @cached_property
    def ranking(self) -> list[str]:
        """Names of the nodes that quantisation suits least: first those with the most noise for what they gain.

        Noise is that of the outputs, a part of the signal; what a node gains is its part of the bytes saved, or of the
        time too, where time is what counts.
        """
        rows = [dict(each) for each in self.rank()]
        gains = np.zeros(len(rows))
        for kind in ("bytes_saved",) if self.objective == "size" else ("bytes_saved", "milliseconds"):
            amounts = np.array([float(each.get(kind, 0.0)) for each in rows])
            gains += amounts / (amounts.sum() or 1.0)
        noise = 10 ** (-np.array([float(each.get("snr", 0.0)) for each in rows]) / 10)
        order = np.argsort(-noise / np.maximum(gains, LEAST_GAIN), kind="stable")
        return [str(rows[place]["node"]) for place in order]

    def _open(self, name: str) -> tuple[Any, ...]:
        """The values of a knob that mean something here."""
        values = KNOBS[name]
        if name in STEPS and STEPS[name] not in self.steps:
            return ()
        if name in STEPS and name != "palette" and not self.calibrated:
            return ()
        if name in ("palette", "sparse") and not self.packed:
            return ()
        if name == "recurrent" and not self.recurrent:
            return ()
        if name == "rest" and not (self.sized or self.objective == "size"):
            return ()
        if name == "finetune" and not (self.finetune and self.calibrated and "fine-tune" in self.steps):
            return ()
        if name in ("rounding", "bias_correction") and not self.calibrated:
            return values[:1]
        if name in ("numbers", "prepare", "rest"):
            return tuple(value for value in values if not value or value in self.steps)
        return values

    def suggest(self, trial: Any, barred: Collection[str] = ()) -> Point:
        """A point that the optimiser proposes, without steps that are `barred`.

        Choices that depend on others are asked for only where they matter.
        """
        point: Point = {}
        for name in self.knobs:
            if STEPS.get(name) not in barred and self._matters(name, point):
                point[name] = trial.suggest_categorical(name, self.knobs[name])
        return point

    def _matters(self, name: str, point: Point) -> bool:
        numbers = point.get("numbers", "")
        if name in PRUNING[1:]:
            return point.get("prune", 0.0) > 0
        if name == "finetune":
            return point.get("prune", 0.0) > 0 or point.get("rank", 0.0) > 0
        return name not in MATTERS or numbers in MATTERS[name]

    def make(self, point: Point) -> list[dict[str, Any]]:
        """The steps that a point stands for, as a recipe has them; none where nothing is done."""
        chosen = {name: values[0] for name, values in KNOBS.items()} | point
        numbers = chosen["numbers"]
        steps = [
            chosen["prune"] and self._pruning(chosen),
            chosen["rank"] and self._step("low-rank", error=chosen["rank"]),
            chosen["finetune"] and (chosen["prune"] or chosen["rank"]) and self._step("fine-tune"),
            chosen["sparse"] and self._step("prune-weights", sparsity=chosen["sparse"]),
            chosen["prepare"] and numbers in MATTERS["prepare"] and self._step(chosen["prepare"]),
            numbers and self._numbers(numbers, chosen),
            numbers in ROUNDED and chosen["rest"] not in ("", numbers) and self._rest(chosen),
            chosen["palette"] and not numbers and self._step("palette", entries=chosen["palette"]),
        ]
        return [step for step in steps if step]

    def _pruning(self, chosen: Point) -> dict[str, Any] | None:
        share = "parameters" if self.objective == "size" else "flops"
        return self._step(
            "prune-channels", **{share: chosen["prune"]}, importance=chosen["importance"], multiple=chosen["multiple"]
        )

    def _numbers(self, name: str, chosen: Point) -> dict[str, Any] | None:
        wanted = {key: value for key, value in chosen.items() if name in MATTERS.get(key, ())}
        return self._step(name, skip=self._kept(chosen["kept"]), **wanted)

    def _rest(self, chosen: Point) -> dict[str, Any] | None:
        """What makes the weights smaller that are still floats."""
        return self._step(chosen["rest"], rounding=chosen["rounding"], weight_scale=chosen["weight_scale"])

    def _kept(self, share: float) -> tuple[str, ...]:
        return tuple(self.ranking[: math.ceil(share * len(self.ranking))]) if share else ()

    def _step(self, name: str, **wanted: Any) -> dict[str, Any] | None:
        """A step with those of the parameters that it has, and that differ from its defaults."""
        if name not in self.steps:
            return None
        known = {each.name: each.default for each in fields_of(self.steps[name])}
        given = {key: value for key, value in wanted.items() if key in known}
        made = make_step(name, given).to_json()[name]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}
        return {name: {key: value for key, value in made.items() if value != plain[key]}}

    # First guesses.

    def guesses(self) -> Guesses:
        """Points to try first, the most promising first; each result is sent back and steers what follows."""
        plain: list[Point] = [{"numbers": name} for name in self._formats()]
        if "dynamic-int8" in self.steps:
            plain.append({"numbers": "dynamic-int8", "convolutions": True})
        found: list[Tried] = []
        for point in plain:
            candidate = yield point
            found.append((point, candidate))
        inexact = [tried for tried in found if tried[0]["numbers"] in TUNED and _inaccurate(tried[1])]
        inexact = [tried for tried in inexact if len(tried[0]) == 1]
        if not any(point["numbers"] in TUNED and each.verdict == "verified" for point, each in found):
            for point, candidate in sorted(inexact, key=lambda tried: _distance(tried[1])):
                found += yield from self._tuned(point, candidate)
                if any(each.verdict == "verified" for _, each in found[-2:]):
                    break
        for point, before in list(found):
            if "rest" not in self.knobs or before.verdict != "verified" or point["numbers"] not in ROUNDED:
                continue
            for value in ("float16", *(["weights-int8"] if "kept" in point else [])):
                candidate = yield point | {"rest": value}
                found.append((point | {"rest": value}, candidate))
        working = [tried for tried in found if tried[1].verdict == "verified"]
        working.sort(key=lambda tried: self._cost(tried[1]))
        yield from self._pruned([point for point, _ in working])
        for name in ("rank", "sparse", "palette"):
            for value in self.knobs.get(name, ())[1:]:
                yield {name: value}

    def _formats(self) -> list[str]:
        first = ("static-int8", "dynamic-int8", "weights-int8", "float16", "weights-int4", "bfloat16")
        small = ("static-int8", "weights-int4", "weights-int8", "dynamic-int8", "float16", "bfloat16")
        order = first if self.objective == "latency" else small
        return [name for name in order if name in self.knobs.get("numbers", ())]

    def _cost(self, candidate: Candidate) -> float:
        figures = candidate.figures
        if self.objective == "latency":
            return figures.ratio[1] if figures.ratio else math.inf
        return float(figures.size)

    def _tuned(self, plain: Point, inexact: Candidate) -> Generator[Point, Candidate, list[Tried]]:
        """A format within the budget: ranges levelled out, layers in float, better roundings, other ranges."""
        nearest, best = inexact, plain
        for change in self._changes(plain["numbers"]):
            point = best | change
            candidate = yield point
            if not _inaccurate(candidate):
                return [(point, candidate), *(yield from self._reserve(point))]
            if _distance(candidate) < _distance(nearest) and "kept" not in change:
                nearest, best = candidate, point
        return []

    def _reserve(self, point: Point) -> Generator[Point, Candidate, list[Tried]]:
        """With more layers in float than needed: what only just works may fail on the samples that are held out."""
        milder = [value for value in self.knobs.get("kept", ()) if value > point.get("kept", 1.0)]
        for value in milder[:1]:
            candidate = yield point | {"kept": value}
            return [(point | {"kept": value}, candidate)]
        return []

    def _changes(self, numbers: str) -> Iterator[Point]:
        kept = self.knobs.get("kept", ())[1:]
        yield from ({"prepare": value} for value in self.knobs.get("prepare", ())[:0:-1])
        if numbers in MATTERS["recurrent"]:  # what their state loses at one step goes into all later ones
            yield from ({"recurrent": value} for value in self.knobs.get("recurrent", ())[1:])
        better = {name: values[-1] for name in EXACT if numbers in MATTERS[name] and (values := self.knobs.get(name))}
        yield from ({"kept": value} for value in kept[:2])
        if better:  # all at once; none costs a run any time, but the search a good deal
            yield better
        for name in ("weight_scale", "calibration"):
            if numbers in MATTERS[name]:
                yield from ({name: value} for value in self.knobs.get(name, ())[1:])
        yield from ({"kept": value} for value in kept[2:])

    def _pruned(self, working: Sequence[Point]) -> Guesses:
        """The most that can be pruned within the budget, by halving: with the best format that works, and without."""
        shares = self.knobs.get("prune", ())[1:]
        for point in [*working[:1], {}] if shares else []:
            low, high = -1, len(shares)  # what is known to work, and what is known to fail
            while high - low > 1:
                middle = (low + high) // 2
                candidate = yield point | {"prune": shares[middle]}
                if _inaccurate(candidate) and "finetune" in self.knobs:
                    candidate = yield point | {"prune": shares[middle], "finetune": True}
                if _inaccurate(candidate) or candidate.verdict == "failed":
                    high = middle
                else:
                    low = middle
            if low < 0:  # not even the least: without the format it would hardly be otherwise
                return


def _inaccurate(candidate: Candidate) -> bool:
    """Whether it was the metric that failed: the one thing that a milder setting helps."""
    return candidate.verdict == "rejected" and candidate.stage in ("glance", "metric")


def _distance(candidate: Candidate) -> float:
    """How far it is from the original, in dB of noise above the signal."""
    return math.inf if candidate.figures.fidelity is None else -candidate.figures.fidelity
