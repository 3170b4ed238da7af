"""Tables and plots of a run of the suite, and its comparison with an earlier one.

    python benchmarks/report.py DIR [--write docs/performance.md] [--plots FOLDER] [--against FILE] [--threshold 1.2]

prints the tables of DIR/results.json as Markdown. ``--write`` puts them into a document instead, between the lines
``<!-- begin: NAME -->`` and ``<!-- end: NAME -->`` of each of its sections; ``--plots`` draws PNG files; ``--against``
prints the ratio of each time of ours to the one of an earlier results.json, and exits with 1 if one is above the
threshold.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from documents import fill
from regressions import change_table, changes, regressions
from results import Run
from sections import SECTIONS

_THRESHOLD = 1.2


def markdown(run: Run) -> str:
    """All sections under their names."""
    return "\n\n".join(f"## {name}\n\n{section(run)}" for name, section in SECTIONS.items()) + "\n"


def filled(document: str, run: Run) -> str:
    """The document with its marked places filled; raises ``ValueError`` for a place that no section fits."""
    return fill(document, {name: partial(section, run) for name, section in SECTIONS.items()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="tables and plots of a run of benchmarks/suite.py")
    parser.add_argument("results", type=Path, metavar="DIR", help="folder with results.json, or the file itself")
    parser.add_argument("--write", type=Path, metavar="FILE", help="fill the marked places of a Markdown document")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the plots there, as PNG")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier results.json, or its folder")
    parser.add_argument(
        "--threshold", type=float, default=_THRESHOLD, help=f"a regression is a ratio above this (default {_THRESHOLD})"
    )
    return parser.parse_args()


def _compare(before: Run, now: Run, threshold: float) -> int:
    for fact in ("cpu", "threads", "torch_cpu_capability"):
        if before.machine[fact] != now.machine[fact]:
            print(f"NOTE: {fact} was {before.machine[fact]} and is {now.machine[fact]}")
    found = changes(before, now)
    worse = regressions(found, threshold)
    print(change_table(found, threshold))
    print(f"\n{len(worse)} of {len(found)} above {threshold:g} times the earlier time, or no longer measured")
    return 1 if worse else 0


def main() -> int:
    """0, or 1 if there are regressions or the input cannot be read."""
    arguments = _arguments()
    try:
        run = Run.read(arguments.results)
        if arguments.write is not None:
            arguments.write.write_text(filled(arguments.write.read_text(), run))
        before = None if arguments.against is None else Run.read(arguments.against)
    except (OSError, ValueError, KeyError) as error:
        print(f"report.py: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if arguments.plots is not None:
        from plots import draw_all

        for file in draw_all(run, arguments.plots):
            print(file)
    if before is not None:
        return _compare(before, run, arguments.threshold)
    if arguments.write is None and arguments.plots is None:
        print(markdown(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
