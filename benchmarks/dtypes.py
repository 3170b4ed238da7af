"""Ours in each dtype at the same shapes: a process a case, the dtypes in turns, so that noise hits all alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from cases import Case, make_inputs
from comparison import CPU, MOST_ROUNDS, in_a_process
from results import DtypeComparison
from rivals import OURS, Step
from timing import Measurement, PhaseSampler, interleave


def by_dtype(cases: Sequence[Case]) -> list[tuple[Case, ...]]:
    """The cases that differ in their dtype alone, together, float32 first; of one dtype there is nothing to compare."""

    def problem(case: Case) -> tuple[str, str]:
        return case.operation, case.shapes.name

    order = list(dict.fromkeys(map(problem, cases)))
    together = groupby(sorted(cases, key=lambda case: order.index(problem(case))), key=problem)
    groups = (tuple(sorted(group, key=lambda case: case.dtype != torch.float32)) for _, group in together)
    return [group for group in groups if len(group) > 1 and group[0].dtype == torch.float32]


def compare_dtypes(cases: Sequence[Case], seconds: float) -> DtypeComparison:
    """Measure one group of ``by_dtype`` in a process of its own, for about ``seconds``."""
    return in_a_process(_measure, cases, seconds)


def _measure(cases: Sequence[Case], seconds: float) -> DtypeComparison:
    torch.manual_seed(0)
    steps = {case.dtype_name: Step(OURS[case.operation], case, make_inputs(case, CPU)) for case in cases}
    samplers = {name: PhaseSampler(step.forward, step.backward, step.release) for name, step in steps.items()}
    durations = interleave(samplers, seconds, MOST_ROUNDS)
    return DtypeComparison(cases[0].title, {name: Measurement.of(values) for name, values in durations.items()})
