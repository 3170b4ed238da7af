"""The CPU comparison: a process for each visit to a case, its rivals interleaved, the machine's rates beside it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

import vae_fused as vf
from cases import Case, make_inputs
from limits import Triad, limits_now
from memory import peak_bytes
from results import Result, Row, first_line
from rivals import EAGER, OURS, InPlaceStep, Step, check_agreement, compiled_step
from timing import Measurement, PhaseSampler, Sampler, interleave

NO_POOL = "ours, no pool"
IN_PLACE = "ours, in place"
TRIAD = "triad"  # no rival: the time for as many bytes as the case moves
CPU = torch.device("cpu")
_POOLED_BYTES = 1 << 20  # from this size on a result of ours comes from the pool
PAST_THE_CACHES = 1 << 25  # bytes that a case moves, from which on memory is what can limit it
MOST_ROUNDS = 2000
T = TypeVar("T")


def rivals_of(case: Case) -> tuple[str, ...]:
    """The rivals that differ in this case: without a tensor large enough for the pool it makes no difference."""
    pooled = (NO_POOL,) if case.largest_tensor_bytes >= _POOLED_BYTES else ()
    in_place = (IN_PLACE,) if case.operation == "loss" else ()
    return ("ours", *pooled, *in_place, "eager", "compile")


Durations = dict[str, dict[str, list[float]]]  # of every round, by rival and by what was timed


@dataclass
class Comparison:
    """A measured case, with the durations of every rival that worked."""

    row: Row
    durations: Durations

    @classmethod
    def of(cls, case: Case, results: dict[str, Result], durations: Durations) -> Comparison:
        """The case with the statistics of the durations put into the results."""
        for name, phases in durations.items():
            results[name].times = {clock: Measurement.of(values) for clock, values in phases.items()}
        return cls(Row(case, results), durations)

    def joined(self, later: Comparison) -> Comparison:
        """This visit to the case and a later one as one; a rival that failed in either has failed."""
        results = {
            name: result if result.failure is not None else replace(later.row.results[name])
            for name, result in self.row.results.items()
        }
        durations = {
            name: {clock: values + later.durations[name][clock] for clock, values in phases.items()}
            for name, phases in self.durations.items()
            if results[name].failure is None
        }
        both = Comparison.of(self.row.case, results, durations)
        both.row.threads = self.row.threads
        both.row.limits = {name: max(rate, later.row.limits[name]) for name, rate in self.row.limits.items()}
        return both


class Comparisons:
    """All cases of a session."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._done: dict[Case, Comparison] = {}

    def measure(self, case: Case) -> Comparison:
        """The measured case; measured now if this is the first time it is asked for."""
        if case not in self._done:
            self.visit(case)
        return self._done[case]

    def visit(self, case: Case) -> None:
        """Measure the case now, and join that to what was measured of it before."""
        visit = compare_apart(case, self._seconds)
        self._done[case] = self._done[case].joined(visit) if case in self._done else visit

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order of measurement."""
        return [comparison.row for comparison in self._done.values()]


def _sampler(name: str, step: Step) -> PhaseSampler:
    if isinstance(step, InPlaceStep):
        return PhaseSampler(step.forward, step.backward, step.release, prepare=step.prepare)
    if name != NO_POOL:
        return PhaseSampler(step.forward, step.backward, step.release)

    def release() -> None:
        step.release()
        vf.release_cpu_pool()

    # Earlier steps have left their buffers in the pool, and whoever comes next shall find them there again.
    return PhaseSampler(step.forward, step.backward, release, prepare=vf.release_cpu_pool, restore=step)


def compare(case: Case, seconds: float) -> Comparison:
    """Measure one case for about ``seconds``, after checking that ours and eager agree in it."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # else the shapes of the case before make the compiler generalize over shapes
    inputs = make_inputs(case, CPU)
    check_agreement(case, inputs)

    def ours() -> Step:
        return Step(OURS[case.operation], case, inputs)

    builders: dict[str, Callable[[], Step]] = {
        "ours": ours,
        NO_POOL: ours,
        IN_PLACE: lambda: InPlaceStep(case, inputs),
        "eager": lambda: Step(EAGER[case.operation], case, inputs),
        "compile": lambda: compiled_step(case, inputs),
    }
    results: dict[str, Result] = {}
    samplers: dict[str, PhaseSampler] = {}
    for name in rivals_of(case):
        try:
            step = builders[name]()
        except Exception as error:
            if name != "compile":
                raise
            results[name] = Result(failure=first_line(error))
            continue
        # In place, the memory of recon would count as the step's own.
        results[name] = Result(peak_bytes=None if name == IN_PLACE else peak_bytes(step, CPU))
        samplers[name] = _sampler(name, step)
    triad = Triad.where_it_compiles() if case.ideal_bytes >= PAST_THE_CACHES else None
    turns: dict[str, Sampler] = {**samplers} if triad is None else {**samplers, TRIAD: triad}
    rounds = interleave(turns, seconds, MOST_ROUNDS)
    durations = {name: samplers[name].phases(len(rounds[name])) for name in samplers}
    if triad is not None:
        results[TRIAD] = Result()
        durations[TRIAD] = {"step": [case.ideal_bytes / triad.bytes_moved * passed for passed in rounds[TRIAD]]}
    return Comparison.of(case, results, durations)


def in_a_process(measure: Callable[..., T], *arguments: Any) -> T:
    """``measure(*arguments)`` in a new process, on as many threads as this one has.

    What malloc maps anew and what it hands out again depends on all that a process has allocated before, and a rival
    whose temporaries are mapped anew at every step takes several times as long as one whose are not.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads,
                             (torch.get_num_threads(),)) as executor:  # fmt: skip
        return executor.submit(measure, *arguments).result()


def compare_apart(case: Case, seconds: float) -> Comparison:
    """``compare`` in a process of its own, with the rates of copy and noise measured before and after."""
    return in_a_process(_compare_between_limits, case, seconds)


def _compare_between_limits(case: Case, seconds: float) -> Comparison:
    before = limits_now()
    comparison = compare(case, seconds)
    after = limits_now()
    comparison.row.limits = {name: max(rate, after[name]) for name, rate in before.items()}
    return comparison
