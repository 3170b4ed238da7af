"""`pytest benchmarks/`: hands the comparison to the tests, and prints its one table and the targets at the end.

pytest-benchmark's own tables would show the same figures a second time, so they appear with --benchmark-verbose only;
its --benchmark-json, --benchmark-autosave and --benchmark-compare work as always.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The modules beside this file are no package, and must be found under every import mode of pytest.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from comparison import CPU, Comparisons
from machine import machine_facts, machine_line, missing_kernels
from results import Run, failures
from sections import comparison_table
from tables import markdown_table
from targets import limit_outcomes, ratio_outcomes

_SECONDS_A_CASE = 4.0
_LEGEND = (
    "Minimum (median in brackets) of a step; a process a case, its rivals interleaved; ratios above 1: ours is faster.",
    "pool off: ours with its memory pool emptied before and after the step, as with VAE_FUSED_POOL_MIB=0.",
    "in place: ours with the gradient of the reconstruction in its memory, inplace=True.",
    "of copy: bytes that an ideal pass moves over the minimum of ours, as a share of copying memory beside the case.",
    "peak MB: the most that one step holds beyond its inputs, in the order ours / eager / compile.",
)
_COMPARISONS = pytest.StashKey[Comparisons]()
_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", type=Path, help="write what was measured as JSON, for report.py")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True
    config.stash[_COMPARISONS] = Comparisons(_SECONDS_A_CASE)
    config.stash[_RUN] = Run(machine_facts(CPU))


@pytest.fixture(scope="session")
def comparisons(request: pytest.FixtureRequest) -> Comparisons:
    """Measures a case, or returns it if it was measured already in this session."""
    return request.config.stash[_COMPARISONS]


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Run:
    """Where the tests put what they measure beside the cases."""
    return request.config.stash[_RUN]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run, rows = config.stash[_RUN], config.stash[_COMPARISONS].rows
    if not rows:
        return
    run.rows = rows
    terminalreporter.section("forward + backward on the CPU")
    outcomes = [one for one in (*ratio_outcomes(rows), *limit_outcomes(run)) if one.reached is not None]
    for line in (
        *comparison_table(rows).splitlines(),
        "",
        *_LEGEND,
        "",
        *markdown_table(
            ["target", "measure", "asked", "measured", "reached"],
            [[o.title, o.measure, o.target, o.measured, "yes" if o.reached else "NO"] for o in outcomes],
        ).splitlines(),
        "",
    ):
        terminalreporter.line(line)
    for problem in (*failures(rows), missing_kernels(run.machine)):
        if problem is not None:
            terminalreporter.line(problem, red=True)
    terminalreporter.line(machine_line(run.machine))
    path = config.getoption("--results")
    if path is not None:
        run.write(path)
        terminalreporter.line(f"written to {path}")
