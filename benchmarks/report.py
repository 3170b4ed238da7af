"""Rows of results, as JSON and as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cases import Case
from timing import Measurement


@dataclass
class Result:
    """One rival in one case.

    ``times`` is keyed by what was timed: ``"step"``, a whole step by the host's clock, or ``"gpu"``, the time the GPU
    took for it. ``failure`` says why there are no times.
    """

    times: dict[str, Measurement] = field(default_factory=dict)
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    launches: float | None = None
    busy_seconds: float | None = None
    failure: str | None = None


@dataclass
class Row:
    """One case with all its rivals, "ours" among them."""

    case: Case
    results: dict[str, Result]

    def time(self, rival: str, clock: str) -> Measurement | None:
        """The rival's measurement, ``None`` if it failed or was not a rival here."""
        result = self.results.get(rival)
        return None if result is None else result.times.get(clock)

    def ratio(self, rival: str, clock: str) -> tuple[float, float] | None:
        """How many times as long as ours the rival takes: by the minima and by the medians."""
        ours, other = self.time("ours", clock), self.time(rival, clock)
        if ours is None or other is None:
            return None
        return other.minimum / ours.minimum, other.median / ours.median

    def rate(self, clock: str) -> float | None:
        """Bytes per second of ours, counted as an ideal pass needs them, over the minimum."""
        ours = self.time("ours", clock)
        return None if ours is None else self.case.ideal_bytes / ours.minimum

    def as_json(self) -> dict[str, Any]:
        """The row with everything that was measured."""
        case = self.case
        return {
            "case": str(case),
            "operation": case.operation,
            "latents": list(case.shapes.latents),
            "data": list(case.shapes.data),
            "dtype": case.dtype_name,
            "ideal_bytes": case.ideal_bytes,
            "rivals": {
                name: {key: value for key, value in asdict(result).items() if value is not None}
                for name, result in self.results.items()
            },
        }


def write_json(path: Path, facts: dict[str, Any], bytes_per_second: float, rows: Sequence[Row], **more: Any) -> None:
    """Write the machine, its copy rate and all rows."""
    content = {"machine": facts, "copy_bytes_per_second": bytes_per_second, **more,
               "rows": [row.as_json() for row in rows]}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def seconds(value: float) -> str:
    """Seconds with a fitting unit and three digits."""
    scaled, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "us")
    return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {unit}"


def _cell(value: Any, form: Callable[[Any], str], missing: str = "-") -> str:
    return missing if value is None else form(value)


def time_cell(row: Row, rival: str, clock: str) -> str:
    """Minimum and, in brackets, median; "failed" where the rival has no times because it broke."""
    result = row.results.get(rival)
    failed = result is not None and result.failure is not None
    return _cell(
        row.time(rival, clock), lambda m: f"{seconds(m.minimum)} ({seconds(m.median)})", "failed" if failed else "-"
    )


def ratio_cell(row: Row, rival: str, clock: str) -> str:
    """Ratio of the minima and, in brackets, of the medians."""
    return _cell(row.ratio(rival, clock), lambda ratios: f"{ratios[0]:.2f}x ({ratios[1]:.2f}x)")


def peak_cell(row: Row, rivals: Sequence[str]) -> str:
    """Peak memory of the rivals in MB, in the order given."""
    peaks = (row.results[name].peak_bytes if name in row.results else None for name in rivals)
    return " / ".join(_cell(peak, lambda bytes_: f"{bytes_ / 1e6:.3g}") for peak in peaks)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table that reads well as text and as Markdown: columns padded, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *lines, strict=True)]

    def padded(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "|" + "|".join("-" * (width + 2) if index == 0 else "-" * (width + 1) + ":"
                          for index, width in enumerate(widths)) + "|"  # fmt: skip
    return "\n".join([padded(header), rule, *map(padded, lines)])


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each rival that failed."""
    return [f"{row.case}: {name} failed: {result.failure}"
            for row in rows for name, result in row.results.items() if result.failure is not None]  # fmt: skip
