"""A clock for pytest-benchmark that plays back recorded durations."""

from __future__ import annotations

from collections.abc import Iterator


class RecordedTimer:
    """Plays back what was measured elsewhere.

    pytest-benchmark times one function after the other; the rivals must be timed in turns. So the rounds are timed
    interleaved, and each rival's durations are then handed over through the timer that pytest-benchmark asks.
    """

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, durations: list[float]) -> None:
        """Play ``durations`` next: each is asked for twice, at its start and at its end."""
        self._readings = (reading for duration in durations for reading in (0.0, duration))

    def __repr__(self) -> str:
        return "time.perf_counter, rivals interleaved"

    def __call__(self) -> float:
        return next(self._readings)


recorded = RecordedTimer()
