"""The search: guesses, then what Optuna proposes; each candidate is measured in stages that get dearer.

A candidate is made and weighed, run on a few samples, judged by the metric on all, and timed beside the original; the
first stage that shows it to be outside of the budget ends it. Whatever is verified is on disk before the next begins.
"""

from __future__ import annotations

import errno
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sardonyx.errors import OptimizationError, ProviderError, SardonyxError
from sardonyx.optimizer.data import Data, Parts
from sardonyx.optimizer.metrics import scores
from sardonyx.optimizer.metrics.metric import Metric
from sardonyx.optimizer.search.budget import Budget, Candidate, Figures, Limits
from sardonyx.optimizer.search.measure import Ratio
from sardonyx.optimizer.search.space import Point, Space
from sardonyx.optimizer.search.store import Store, key

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HOPELESS = -3.0  # dB of the first output against the original's on a few samples: noise is twice the signal
FEW = 8
TIMED_SECONDS = 0.6
CONFIRMED_SECONDS = 1.0  # for each of a few sessions
LEAST_NOISE = 0.01
CONFIRMED = 6  # candidates that are measured again at most before the original is returned
SAME = 25  # proposals in a row that are known already: the space is exhausted
CANDIDATE_SECONDS = 60.0  # that a candidate may take at least before it is given up
WORST = 1e6
BARRED = 2  # times that a step has failed alone before it is proposed no more

Progress = Callable[[float, str], None]


class Workbench(Protocol):
    """What the search needs done: `Bench`, or a `Worker` that has one."""

    def make(self, steps: Sequence[dict[str, Any]], path: Path) -> dict[str, Any]: ...
    def run(self, path: Path, count: int | None = None, proof: bool = False) -> list[list[np.ndarray]]: ...
    def memory(self, path: Path) -> int: ...
    def time(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio: ...
    def time_again(self, path: Path, seconds: float, decisive: float | None = None) -> Ratio: ...
    def noise(self, seconds: float) -> list[Ratio]: ...


@dataclass(frozen=True)
class Judge:
    """How outputs become a number.

    Attributes:
        metric: what is judged.
        labels: of the samples; None: the original's outputs are the truth.
        names: of the outputs.
        output: the one that is judged; None: the first.
        original: what the original gives for the samples.
    """

    metric: Metric
    labels: Sequence[Any] | None
    names: Sequence[str]
    output: str | None
    original: list[list[np.ndarray]]

    def value(self, outputs: list[list[np.ndarray]]) -> float:
        """See `Metric.of`."""
        return self.metric.of(outputs, self.labels, self.original, self.names, self.output)

    def fidelity(self, outputs: list[list[np.ndarray]]) -> float | None:
        """dB of the judged output against the original's; None where it holds no numbers."""
        place = 0 if self.output is None else list(self.names).index(self.output)
        mine = [np.asarray(run[place]) for run in outputs]
        theirs = [np.asarray(run[place]) for run in self.original[: len(outputs)]]
        if any(array.dtype.kind not in "fiub" for array in mine + theirs):
            return None
        return scores.snr(mine, theirs)


class Stop(Exception):
    """The end of a search: why."""


@dataclass
class Search:
    """A search under way.

    Attributes:
        bench: does the work on single models.
        store: where candidates are kept.
        judge: of outputs.
        limits: what candidates are held against.
        space: what is searched over.
        publish: called with each candidate that is the best so far, or None for the original.
        seconds: that it may take; None: no limit.
        trials: candidates that may be tried; None: no limit.
        seed: of the proposals.
        progress: called with the part of the time that is over and a few words.
        proof: judges the outputs for samples that no choice looked at; None: there are none.
        clock: seconds.
    """

    bench: Workbench
    store: Store
    judge: Judge
    limits: Limits
    space: Space
    publish: Callable[[Candidate | None], None] = lambda best: None
    seconds: float | None = None
    trials: int | None = None
    seed: int = 0
    progress: Progress = lambda part, text: None
    proof: Judge | None = None
    clock: Callable[[], float] = time.monotonic
    best: Candidate | None = None
    stopped: str = ""
    _begin: float = 0.0
    _tried: int = 0

    def run(self) -> Candidate | None:
        """Search until the time is over, nothing new is proposed, or somebody stops it; the best, if any is better."""
        self._begin = self.clock()
        try:
            self._recall()
            self._guess()
            self._explore()
            self.stopped = "everything that is proposed has been tried"
        except Stop as reason:
            self.stopped = str(reason)
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.stopped = f"the disk is full: {error.strerror}"
        except storage_errors() as error:
            self.stopped = f"the disk does not take what is found: {' '.join(str(error).split())[:200]}"
        if not self.stopped.startswith(("interrupted", "the disk")):
            self._confirm()
        return self.best

    # Where candidates come from.

    def _recall(self) -> None:
        """Hold what an earlier search kept against the budget of this one."""
        for candidate in self.store.candidates.values():
            self._judge_again(candidate)
            self._consider(candidate)

    def _guess(self) -> None:
        guesses = self.space.guesses()
        try:
            point = next(guesses)
            while True:
                point = guesses.send(self._try(self.space.make(point)))
        except StopIteration:
            return

    def _explore(self) -> None:
        """Optuna's proposals. Each trial has a seed of its own: a search that goes on proposes what it would have."""
        optuna = import_optuna()
        study = self._study(optuna)
        same = 0
        while same < SAME and self.space.knobs:
            self._check_end()
            done = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
            study.sampler = optuna.samplers.TPESampler(seed=self.seed * 100_003 + done, n_startup_trials=5)
            trial = study.ask()
            barred = self._barred()
            steps = self.space.make(self.space.suggest(trial, barred))
            useless = not steps or bool(barred & {name for step in steps for name in step})
            known = useless or self.store.find(steps) is not None
            candidate = None if useless else self._try(steps)
            same = same + 1 if known else 0
            trial.set_constraint("budget", self._violation(candidate))
            study.tell(trial, self._cost(candidate))

    def _barred(self) -> set[str]:
        """Steps that cannot be done on this model: they failed alone, more than once, and never worked."""
        alone = [(next(iter(each.steps[0])), each) for each in self.store.candidates.values() if len(each.steps) == 1]
        failed = Counter(name for name, each in alone if each.verdict == "failed")
        worked = {name for name, each in alone if each.verdict != "failed"}
        return {name for name, count in failed.items() if count >= BARRED} - worked

    def _study(self, optuna: Any) -> Any:
        """The trials in the store; what the guesses found is told first, what was under way counts as failed."""
        name = key([self.limits.budget.to_json()])
        study = optuna.create_study(study_name=name, storage=self.store.study, load_if_exists=True)
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if not study.get_trials(deepcopy=False):
            for point, candidate in self._guessed():
                distributions = {n: optuna.distributions.CategoricalDistribution(self.space.knobs[n]) for n in point}
                trial = optuna.trial.create_trial(
                    params=point,
                    distributions=distributions,
                    value=self._cost(candidate),
                    constraints={"budget": self._violation(candidate)},
                )
                study.add_trial(trial)
        return study

    def _guessed(self) -> Iterator[tuple[Point, Candidate]]:
        guesses = self.space.guesses()
        try:
            point = next(guesses)
            while True:
                candidate = self.store.find(self.space.make(point))
                if candidate is None:
                    return
                known = {name: value for name, value in point.items() if name in self.space.knobs}
                yield known, candidate
                point = guesses.send(candidate)
        except StopIteration:
            return

    # What is learnt of them.

    def _try(self, steps: list[dict[str, Any]]) -> Candidate:
        """Measure a candidate, unless that was done before."""
        known = self.store.find(steps)
        if known is not None and not self._unfinished(known):
            self._consider(known)
            return known
        self._check_end()
        candidate = Candidate(known.number if known else self.store.next_number(), steps)
        self._say(candidate.title)
        if hasattr(self.bench, "deadline"):
            self.bench.deadline = time.monotonic() + self._left()
        begin = self.clock()
        try:
            self._stages(candidate)
        except SardonyxError as error:
            candidate.verdict, candidate.reason = "failed", str(error)
        candidate.seconds = self.clock() - begin
        self.store.add(candidate)
        self._tried += 1
        self._consider(candidate)
        return candidate

    def _left(self) -> float:
        """Seconds after which a candidate is given up."""
        if self.seconds is None:
            return 10 * CANDIDATE_SECONDS
        return max(CANDIDATE_SECONDS, self.seconds - (self.clock() - self._begin))

    def _stages(self, candidate: Candidate) -> None:
        path, figures = self.store.path(candidate.number), candidate.figures
        made = self.bench.make(candidate.steps, path)
        candidate.notes, candidate.sha256, figures.size = made["notes"], made["sha256"], made["size"]
        if not made["modified"]:
            raise OptimizationError("there is nothing to do: " + "; ".join(candidate.notes))
        twin = next((each for each in self.store.candidates.values() if each.sha256 == candidate.sha256), None)
        if twin is not None and twin is not candidate and not self._unfinished(twin):
            candidate.figures = replace(twin.figures)
            candidate.verdict, candidate.stage, candidate.reason = twin.verdict, twin.stage, twin.reason
            candidate.notes.append(f"the same model as {twin.title}")
            return
        stages = {"size": self._weigh, "glance": self._glance, "metric": self._evaluate, "time": self._time}
        for name, stage in stages.items():
            problem = stage(path, figures)
            if problem:
                candidate.verdict, candidate.stage, candidate.reason = "rejected", name, problem
                return
        candidate.verdict, candidate.stage, candidate.reason = "verified", "", ""

    def _weigh(self, path: Path, figures: Figures) -> str:
        return self.limits.size_problem(figures)

    def _glance(self, path: Path, figures: Figures) -> str:
        """A few samples show what is beyond help."""
        if len(self.judge.original) <= 2 * FEW:
            return ""
        fidelity = self.judge.fidelity(self.bench.run(path, FEW))
        if fidelity is None or fidelity > HOPELESS:
            return ""
        figures.fidelity = fidelity
        return f"far from the original: {fidelity:.1f} dB on {FEW} samples"

    def _evaluate(self, path: Path, figures: Figures) -> str:
        outputs = self.bench.run(path)
        figures.fidelity = self.judge.fidelity(outputs)
        figures.metric = self.judge.value(outputs)
        figures.memory = self.bench.memory(path)
        return self.limits.problem(replace(figures, ratio=None, latency=None))

    def _time(self, path: Path, figures: Figures) -> str:
        self._timed(figures, self.bench.time(path, TIMED_SECONDS, self.limits.decisive))
        return self.limits.problem(figures)

    def _timed(self, figures: Figures, ratio: Ratio) -> None:
        figures.ratio = ratio.low, ratio.median, ratio.high
        # In terms of the original's time at the beginning, so that candidates can be compared with each other.
        figures.latency = ratio.median * (self.limits.original.latency or ratio.reference)

    def _judge_again(self, candidate: Candidate) -> None:
        if candidate.verdict == "failed" or candidate.figures.metric is None:
            return
        problem = self.limits.problem(candidate.figures)
        if problem:
            candidate.verdict, candidate.reason = "rejected", problem

    def _unfinished(self, candidate: Candidate) -> bool:
        """Rejected by an earlier budget before all was measured, or without its file, and inside of this one."""
        if candidate.verdict != "rejected" or self.limits.problem(candidate.figures):
            return False
        return candidate.stage != "glance"

    def _consider(self, candidate: Candidate) -> None:
        """Make it the best so far, if it is."""
        if not self._acceptable(candidate) or candidate is self.best:
            return
        if self.best is None or self.limits.beats(candidate.figures, self.best.figures):
            self.best = candidate
            self.publish(candidate)

    def _acceptable(self, candidate: Candidate) -> bool:
        if candidate.verdict != "verified":
            return False
        return self.limits.better(candidate.figures) or bool(self.limits.problem(self.limits.original))

    def _confirm(self) -> None:
        """Measure the best again, for longer, and on other samples: the best of many looks better than it is."""
        confirmed: set[int] = set()
        while self.best is not None and self.best.number not in confirmed and len(confirmed) < CONFIRMED:
            candidate = self.best
            confirmed.add(candidate.number)
            self._say(f"confirming: {candidate.title}")
            if hasattr(self.bench, "deadline"):
                self.bench.deadline = None
            for stage, check in {"time": self._time_again, "proof": self._prove}.items():
                problem = check(candidate)
                if problem:
                    candidate.verdict, candidate.stage, candidate.reason = "rejected", stage, problem
                    break
            self.store.add(candidate)
            self._choose_again(confirmed)

    def _time_again(self, candidate: Candidate) -> str:
        try:
            ratio = self.bench.time_again(self.store.path(candidate.number), CONFIRMED_SECONDS, self.limits.decisive)
            self._timed(candidate.figures, ratio)
            problem = self.limits.problem(candidate.figures)
        except SardonyxError as error:
            problem = str(error)
        return problem and f"measured again: {problem}"

    def _prove(self, candidate: Candidate) -> str:
        """The metric on the samples that were held out."""
        if self.proof is None:
            return ""
        try:
            outputs = self.bench.run(self.store.path(candidate.number), None, True)
            candidate.figures.proof = self.proof.value(outputs)
        except SardonyxError as error:
            return str(error)
        return self.limits.problem(candidate.figures)

    def _choose_again(self, confirmed: set[int]) -> None:
        """The best now; one that was only measured in short has to be better than those that were confirmed."""
        self.best = None
        known = sorted(self.store.candidates.values(), key=lambda each: each.number not in confirmed)
        for candidate in filter(self._acceptable, known):
            if self.best is None or self.limits.beats(candidate.figures, self.best.figures):
                self.best = candidate
        if len(confirmed) == CONFIRMED and self.best is not None and self.best.number not in confirmed:
            rest = [each for each in known if each.number in confirmed and self._acceptable(each)]
            self.best = rest[0] if rest else None
        self.publish(self.best)

    def _cost(self, candidate: Candidate | None) -> float:
        """What Optuna makes small; the original's where it is not known."""
        cost = math.inf if candidate is None else self.limits.cost(candidate.figures)
        return cost if math.isfinite(cost) else 1.0

    def _violation(self, candidate: Candidate | None) -> float:
        """0 within the budget; the further outside, the larger."""
        if candidate is None or candidate.verdict == "failed":
            return WORST
        if candidate.verdict == "verified":
            return 0.0
        value, floor = candidate.figures.metric, self.limits.floor
        if value is None or not math.isfinite(value) or not math.isfinite(floor):
            return WORST / 2
        missing = floor - value if self.judge.metric.higher else value - floor
        return 1e-6 + max(0.0, missing) / max(abs(floor), 1e-9)

    # When it ends.

    def _check_end(self) -> None:
        if self.trials is not None and self._tried >= self.trials:
            raise Stop(f"{self.trials} candidates have been tried")
        if self.seconds is not None and self.clock() - self._begin >= self.seconds:
            raise Stop("the time is over")

    def _say(self, what: str) -> None:
        spent = self.clock() - self._begin
        parts = [spent / self.seconds if self.seconds else 0.0, self._tried / self.trials if self.trials else 0.0]
        self.progress(min(1.0, max(parts)), f"{what}; best so far: {self._best_words()}")

    def _best_words(self) -> str:
        if self.best is None:
            return "the original"
        figures = self.best.figures
        speed = f", {1 / figures.ratio[1]:.2f} x as fast" if figures.ratio else ""
        return f"{self.best.title}{speed}, {figures.size / max(1, self.limits.original.size):.2f} x the size"


def storage_errors() -> tuple[type[Exception], ...]:
    """What Optuna's storage raises where the disk fails it; its own error, or that of a layer below."""
    import sqlite3

    import sqlalchemy.exc

    return import_optuna().exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error


def import_optuna() -> Any:
    """Optuna, without its log.

    Raises:
        ProviderError: it is missing.
    """
    try:
        import optuna
    except ImportError:
        raise ProviderError(
            "the search needs Optuna, which is missing", hint="pip install 'sardonyx[optimize]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def measure_original(
    bench: Workbench, path: Path, parts: Parts, metric: Metric, names: Sequence[str], output: str | None
) -> tuple[Judge, Judge | None, Figures, float]:
    """What the original gives and takes, and how far its time differs from itself: the noise of this machine.

    Returns:
        Who judges candidates, who judges the last of them, the original's figures, and that noise.

    Raises:
        InputError, OptimizationError: the metric cannot judge it.
    """
    from sardonyx.optimizer.search.bench import size_of

    def judged(data: Data, proof: bool) -> tuple[Judge, float]:
        outputs = bench.run(path, None, proof)
        judge = Judge(metric, data.labels, names, output, outputs)
        return judge, judge.value(outputs)

    judge, value = judged(parts.evaluation, False)
    proof, held = (None, None) if parts.proof is None else judged(parts.proof, True)
    figures = Figures(size_of(path), value, bench.memory(path), proof=held)
    twins = bench.noise(TIMED_SECONDS)
    figures.latency, figures.ratio, figures.fidelity = twins[0].reference, (1.0, 1.0, 1.0), math.inf
    # Of medians, since a candidate has an interval of its own; the middle one, since something else that the machine
    # did meanwhile is not its noise.
    spread = sorted(abs(each.median - 1) for each in twins)[len(twins) // 2]
    return judge, proof, figures, max(LEAST_NOISE, spread)


__all__ = ["Budget", "Judge", "Search", "Stop", "Workbench", "import_optuna", "measure_original"]
