"""One run against an earlier one: the ratio of every time of ours, and which of them are regressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from comparison import NO_POOL
from results import Run
from tables import markdown_table, seconds

_CLOCKS = ("step", "forward", "backward")


@dataclass(frozen=True)
class Change:
    """A minimum of ours before and now, and by how much eager, which did not change, has changed beside it."""

    name: str
    before: float
    now: float | None
    eager_ratio: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as long as before; ``None`` if it is no longer measured."""
        return None if self.now is None else self.now / self.before


def _minima(run: Run, rival: str) -> Iterator[tuple[str, float]]:
    for part, rows in (("", run.rows), ("sweep ", run.sweep)):
        for row in rows:
            for clock in _CLOCKS:
                measured = row.time(rival, clock)
                if measured is not None:
                    yield f"{part}{row.case}, {row.threads} threads, {clock}", measured.minimum
    for step in run.training_steps:
        if rival in step.times:
            yield f"training step, {step.model}", step.times[rival].minimum


def changes(before: Run, now: Run) -> list[Change]:
    """Everything of ours that the earlier run had, in its order."""
    eager_before, eager_now = dict(_minima(before, "eager")), dict(_minima(now, "eager"))
    found = []
    for rival in ("ours", NO_POOL):
        current = dict(_minima(now, rival))
        for name, minimum in _minima(before, rival):
            eager = eager_now[name] / eager_before[name] if name in eager_now and name in eager_before else None
            found.append(Change(f"{rival}: {name}", minimum, current.get(name), eager))
    for name, measured in before.import_time.items():
        if name == "added":
            later = now.import_time.get(name)
            found.append(Change("import of vae_fused", measured.median, None if later is None else later.median, None))
    return found


def regressions(found: list[Change], threshold: float) -> list[Change]:
    """Those that take more than ``threshold`` times as long as before, or are no longer measured."""
    return [change for change in found if change.ratio is None or change.ratio > threshold]


def change_table(found: list[Change], threshold: float) -> str:
    """One line for each change, regressions marked."""
    lines = []
    for change in found:
        ratio = change.ratio
        mark = "NOT MEASURED" if ratio is None else "REGRESSION" if ratio > threshold else ""
        lines.append([
            change.name,
            seconds(change.before),
            "-" if change.now is None else seconds(change.now),
            "-" if ratio is None else f"{ratio:.2f}",
            "-" if change.eager_ratio is None else f"{change.eager_ratio:.2f}",
            mark,
        ])  # fmt: skip
    return markdown_table(["measured", "before", "now", "now / before", "eager now / before", ""], lines)
