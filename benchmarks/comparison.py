"""The CPU comparison: each case measured with its rivals interleaved, and the copy rate beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import vae_fused as vf
from cases import Case, make_inputs
from memory import peak_bytes
from results import Result, Row, first_line
from rivals import EAGER, OURS, InPlaceStep, Step, check_agreement, compiled_step
from timing import PhaseSampler, copy_rate, host_sampler, interleave

NO_POOL = "ours, no pool"
IN_PLACE = "ours, in place"
CPU = torch.device("cpu")
_POOLED_BYTES = 1 << 20  # from this size on a result of ours comes from the pool
_MOST_ROUNDS = 2000


def rivals_of(case: Case) -> tuple[str, ...]:
    """The rivals that differ in this case: without a tensor large enough for the pool it makes no difference."""
    pooled = (NO_POOL,) if case.largest_tensor_bytes >= _POOLED_BYTES else ()
    in_place = (IN_PLACE,) if case.operation == "loss" else ()
    return ("ours", *pooled, *in_place, "eager", "compile")


@dataclass
class Comparison:
    """A measured case, with the duration of every round of every rival that worked."""

    row: Row
    durations: dict[str, list[float]]


class Comparisons:
    """All cases of a session, each measured when it is first asked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._done: dict[Case, Comparison] = {}
        self._copy_rates: list[float] = []

    def measure(self, case: Case) -> Comparison:
        """The measured case; measured now if this is the first time it is asked for."""
        if case not in self._done:
            self._copy_rates.append(copy_rate(host_sampler, CPU))
            self._done[case] = compare(case, self._seconds)
        return self._done[case]

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order of measurement."""
        return [comparison.row for comparison in self._done.values()]

    @property
    def copy_rate(self) -> float:
        """Best copy of the session, bytes per second; one was timed before each case."""
        return max(self._copy_rates)


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
    durations = interleave(samplers, seconds, _MOST_ROUNDS)
    for name, values in durations.items():
        results[name].times = samplers[name].measurements(values)
    return Comparison(Row(case, results), durations)
