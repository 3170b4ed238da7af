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

import report
from comparison import CPU, Comparisons, comparison_table
from machine import machine_facts, machine_line, missing_kernels

_COMPARISONS = pytest.StashKey[Comparisons]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", type=Path, help="write the rows of the benchmark table as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True
    config.stash[_COMPARISONS] = Comparisons()


@pytest.fixture(scope="session")
def comparisons(request: pytest.FixtureRequest) -> Comparisons:
    """Measures a case, or returns it if it was measured already in this session."""
    return request.config.stash[_COMPARISONS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    comparisons = config.stash[_COMPARISONS]
    if not comparisons.rows:
        return
    facts, bytes_per_second = machine_facts(CPU), comparisons.copy_rate
    terminalreporter.section("forward + backward on the CPU")
    for line in comparison_table(comparisons.rows, bytes_per_second):
        terminalreporter.line(line)
    for problem in (*report.failures(comparisons.rows), missing_kernels(facts)):
        if problem is not None:
            terminalreporter.line(problem, red=True)
    terminalreporter.line(machine_line(facts))
    path = config.getoption("--results")
    if path is not None:
        report.write_json(path, facts, bytes_per_second, comparisons.rows)
        terminalreporter.line(f"rows written to {path}")
