"""Rows of results as tables that read well as text and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from results import Row
from timing import Measurement


def seconds(value: float) -> str:
    """Seconds with a fitting unit and three digits."""
    scaled, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "us")
    return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {unit}"


def _cell(value: Any, form: Callable[[Any], str], missing: str = "-") -> str:
    return missing if value is None else form(value)


def time_text(time: Measurement) -> str:
    """Minimum and, in brackets, median."""
    return f"{seconds(time.minimum)} ({seconds(time.median)})"


def time_cell(row: Row, rival: str, clock: str) -> str:
    """Minimum and, in brackets, median; "failed" where the rival has no times because it broke."""
    result = row.results.get(rival)
    failed = result is not None and result.failure is not None
    return _cell(row.time(rival, clock), time_text, "failed" if failed else "-")


def ratio_cell(row: Row, rival: str, clock: str, ours: str = "ours") -> str:
    """Ratio of the minima and, in brackets, of the medians."""
    return _cell(row.ratio(rival, clock, ours), lambda ratios: f"{ratios[0]:.2f}x ({ratios[1]:.2f}x)")


def share_cell(row: Row, limit: str) -> str:
    """Bytes that an ideal pass moves over the minimum of ours, as a share of a rate measured beside it."""
    return _cell(row.share("step", limit), lambda share: f"{share:.0%}")


def peak_cell(row: Row, rivals: Sequence[str]) -> str:
    """Peak memory of the rivals in MB, in the order given."""
    peaks = (row.results[name].peak_bytes if name in row.results else None for name in rivals)
    return " / ".join(_cell(peak, lambda bytes_: f"{bytes_ / 1e6:.3g}") for peak in peaks)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns padded, the first to the left and numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *lines, strict=True)]

    def padded(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "|" + "|".join("-" * (width + 2) if index == 0 else "-" * (width + 1) + ":"
                          for index, width in enumerate(widths)) + "|"  # fmt: skip
    return "\n".join([padded(header), rule, *map(padded, lines)])
