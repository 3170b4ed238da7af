"""`pytest benchmarks/`: hands the comparison to the tests, and prints its one table at the end.

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
from results import failures, write_json
from sections import comparison_table
from tables import markdown_table
from targets import ratio_outcomes

_SECONDS_A_CASE = 3.0
_LEGEND = (
    "Minimum (median in brackets) of a step; a process a case, its rivals interleaved; ratios above 1: ours is faster.",
    "pool off: ours with its memory pool emptied before and after the step, as with VAE_FUSED_POOL_MIB=0.",
    "in place: ours with the gradient of the reconstruction in its memory, inplace=True.",
    "of copy: bytes that an ideal pass moves over the minimum of ours, as a share of copying memory beside the case.",
    "peak MB: the most that one step holds beyond its inputs, in the order ours / eager / compile.",
)
_COMPARISONS = pytest.StashKey[Comparisons]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", type=Path, help="write the rows of the benchmark table as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True
    config.stash[_COMPARISONS] = Comparisons(_SECONDS_A_CASE)


@pytest.fixture(scope="session")
def comparisons(request: pytest.FixtureRequest) -> Comparisons:
    """Measures a case, or returns it if it was measured already in this session."""
    return request.config.stash[_COMPARISONS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    comparisons = config.stash[_COMPARISONS]
    if not comparisons.rows:
        return
    facts = machine_facts(CPU)
    terminalreporter.section("forward + backward on the CPU")
    outcomes = [outcome for outcome in ratio_outcomes(comparisons.rows) if outcome.reached is not None]
    for line in (
        *comparison_table(comparisons.rows).splitlines(),
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
    for problem in (*failures(comparisons.rows), missing_kernels(facts)):
        if problem is not None:
            terminalreporter.line(problem, red=True)
    terminalreporter.line(machine_line(facts))
    path = config.getoption("--results")
    if path is not None:
        write_json(path, facts, comparisons.rows)
        terminalreporter.line(f"rows written to {path}")
