"""The CPU comparison: each case measured once, its rivals interleaved, all of them in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import report
from cases import Case, make_inputs
from memory import peak_bytes
from rivals import EAGER, OURS, Step, check_agreement, compiled_step
from timing import Measurement, copy_rate, host_sampler, interleave

RIVALS = ("ours", "eager", "compile")
CPU = torch.device("cpu")
_SECONDS_A_CASE = 4.0
_MOST_ROUNDS = 2000


@dataclass
class Comparison:
    """A measured case, with the duration of every round of every rival that worked."""

    row: report.Row
    durations: dict[str, list[float]]


class Comparisons:
    """All cases of a session, each measured when it is first asked for."""

    def __init__(self) -> None:
        self._done: dict[Case, Comparison] = {}
        self._copy_rates: list[float] = []

    def measure(self, case: Case) -> Comparison:
        """The measured case; measured now if this is the first time it is asked for."""
        if case not in self._done:
            self._copy_rates.append(copy_rate(host_sampler, CPU))
            self._done[case] = _compare(case)
        return self._done[case]

    @property
    def rows(self) -> list[report.Row]:
        """The rows so far, in the order of measurement."""
        return [comparison.row for comparison in self._done.values()]

    @property
    def copy_rate(self) -> float:
        """Best copy of the session, bytes per second; one was timed before each case."""
        return max(self._copy_rates)


def _compare(case: Case) -> Comparison:
    torch.manual_seed(0)
    torch._dynamo.reset()  # else the shapes of the case before make the compiler generalize over shapes
    inputs = make_inputs(case, CPU)
    check_agreement(case, inputs)
    builders: dict[str, Callable[[], Step]] = {
        "ours": lambda: Step(OURS[case.operation], case, inputs),
        "eager": lambda: Step(EAGER[case.operation], case, inputs),
        "compile": lambda: compiled_step(case, inputs),
    }
    results: dict[str, report.Result] = {}
    steps: dict[str, Step] = {}
    for name in RIVALS:
        try:
            step = builders[name]()
        except Exception as error:
            if name != "compile":
                raise
            results[name] = report.Result(failure=report.first_line(error))
            continue
        results[name] = report.Result(peak_bytes=peak_bytes(step, CPU))
        steps[name] = step
    samplers = {name: host_sampler(step) for name, step in steps.items()}
    durations = interleave(samplers, _SECONDS_A_CASE, _MOST_ROUNDS)
    for name, values in durations.items():
        results[name].times["step"] = Measurement.of(values)
    return Comparison(report.Row(case, results), durations)


def comparison_table(rows: Sequence[report.Row], bytes_per_second: float) -> list[str]:
    """The table of ratios with its legend, line by line."""
    lines = []
    for row in rows:
        rate = row.rate("step")
        lines.append([
            row.case.title,
            *(report.time_cell(row, rival, "step") for rival in RIVALS),
            report.ratio_cell(row, "eager", "step"),
            report.ratio_cell(row, "compile", "step"),
            "-" if rate is None else f"{rate / 1e9:.1f}",
            report.peak_cell(row, RIVALS),
        ])  # fmt: skip
    header = ["case", *RIVALS, "eager / ours", "compile / ours", "GB/s", "peak MB"]
    return [
        *report.markdown_table(header, lines).splitlines(),
        "",
        "Minimum (median in brackets) of one step; rivals interleaved in one process; ratios above 1: ours is faster.",
        "GB/s: bytes that an ideal pass moves over the minimum of ours; copying memory reaches "
        f"{bytes_per_second / 1e9:.1f} GB/s in this run.",
        "peak MB: the most that one step holds beyond its inputs, in the order " + " / ".join(RIVALS) + ".",
    ]
