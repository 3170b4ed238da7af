"""The whole CPU suite, about an hour: ``python benchmarks/suite.py OUT_DIR``.

It visits every case in float32, on which the targets are set, twice, with all others in between: where other users of a
machine slow it down for minutes, they hardly do so at both. Writes OUT_DIR/results.json after every case, so that a run
cut short keeps what it has; report.py makes the tables and the plots of it. ``--dry-run`` goes the same way with the
smallest cases, to show that the script itself works.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cases import MNIST, SUITE_CASES, SWEEP_CASES, Case
from comparison import CPU, Comparisons, compare_apart
from dtypes import by_dtype, compare_dtypes
from import_time import MOST_SECONDS_ADDED, measure_import
from limits import processor_limits
from machine import machine_facts, machine_line, missing_kernels
from output_layer import LARGE, SMALL, Layer, measure_output_layer
from overhead import measure_overhead
from results import Run, failures, first_line
from training_step import MODELS, measure_training_step

_SMALLEST_SWEEP = ("4x4", "8x8")


@dataclass(frozen=True)
class Effort:
    """Which cases, and the seconds for each visit to one of them."""

    cases: Sequence[Case]
    sweep: Sequence[Case]
    models: Sequence[Any]
    output_layers: Sequence[Layer]
    case_seconds: float
    sweep_seconds: float
    import_rounds: int


_WHOLE = Effort(SUITE_CASES, SWEEP_CASES, MODELS, (SMALL, LARGE), 2.0, 1.5, 9)
_DRY = Effort(
    [case for case in SUITE_CASES if case.shapes is MNIST],
    [case for case in SWEEP_CASES if case.shapes.name in _SMALLEST_SWEEP],
    MODELS[:1],
    (SMALL,),
    0.2,
    0.2,
    1,
)


class Suite:
    """Measures part after part into one run, and writes it after each."""

    def __init__(self, file: Path, effort: Effort) -> None:
        self._file = file
        self._effort = effort
        self._threads = torch.get_num_threads()
        self.run = Run(machine_facts(CPU))

    def _attempt(self, name: str, measure: Callable[[], None]) -> None:
        begin = time.monotonic()
        try:
            measure()
        except Exception as error:
            self.run.problems.append(f"{name}: {first_line(error)}")
        self.run.write(self._file)
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)

    def measure(self) -> None:
        """Everything, the short parts first."""
        run, effort = self.run, self._effort
        self._attempt("limits of the processor", lambda: run.limits.update(processor_limits()))
        self._attempt("import time", lambda: run.import_time.update(measure_import(effort.import_rounds)))
        self._attempt("call overhead", lambda: run.overhead.update(measure_overhead(effort.case_seconds)))
        for model in effort.models:
            self._attempt(model.name, lambda model=model: run.training_steps.append(
                measure_training_step(model, 15 * effort.case_seconds)))  # fmt: skip
        for layer in effort.output_layers:
            self._attempt(f"output layer, {layer}", lambda layer=layer: run.output_layers.append(
                measure_output_layer(layer, 3 * effort.case_seconds)[0]))  # fmt: skip
        self._sweep()
        for cases in by_dtype(effort.cases):
            self._attempt(f"dtypes, {cases[0].title}", lambda cases=cases: run.dtypes.append(
                compare_dtypes(cases, effort.case_seconds)))  # fmt: skip
        self._cases()
        added = run.import_time.get("added")
        if added is not None and added.median > MOST_SECONDS_ADDED:
            run.problems.append(f"import vae_fused adds {1e3 * added.median:.0f} ms to import torch")
        run.write(self._file)

    def _sweep(self) -> None:
        for case in self._effort.sweep:
            for threads in range(1, self._threads + 1):
                torch.set_num_threads(threads)
                self._attempt(
                    f"sweep, {case}, {threads} threads",
                    lambda case=case: self.run.sweep.append(compare_apart(case, self._effort.sweep_seconds).row),
                )
        torch.set_num_threads(self._threads)

    def _cases(self) -> None:
        comparisons = Comparisons(self._effort.case_seconds)

        def visit(case: Case) -> None:
            comparisons.visit(case)
            self.run.rows = comparisons.rows

        first = list(self._effort.cases)
        second = [case for case in first if case.dtype == torch.float32]
        for case in first + second:
            self._attempt(str(case), lambda case=case: visit(case))


def main() -> int:
    """Run the suite; 1 if a case or a rival failed, or if ours has no kernels here, else 0."""
    parser = argparse.ArgumentParser(description="the CPU benchmarks of vae_fused")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder for results.json")
    parser.add_argument("--dry-run", action="store_true", help="the smallest cases, to try the script out")
    arguments = parser.parse_args()
    suite = Suite(arguments.out_dir / "results.json", _DRY if arguments.dry_run else _WHOLE)
    print(machine_line(suite.run.machine), flush=True)
    warning = missing_kernels(suite.run.machine)
    if warning is not None:
        suite.run.problems.append(warning)
    suite.measure()
    problems = [*suite.run.problems, *failures([*suite.run.rows, *suite.run.sweep])]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
