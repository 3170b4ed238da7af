"""Schedules of a weight over training: constant, linear warm-up, cyclical, and their products.

A schedule is a pure function of a count, and a count. Its value lives in a 0-dimensional tensor that is written in
place, so that a compiled step, or one captured in a CUDA graph, follows it without being compiled or captured again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from vae_fused import _checks as checks

__all__ = ["ConstantSchedule", "CyclicalSchedule", "LinearSchedule", "ProductSchedule", "Schedule"]


def _check_finite(name: str, value: float) -> float:
    checks.check_number(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


class Schedule(ABC):
    """A number that changes with the count of :meth:`step` calls; what one call stands for is up to the caller.

    Call :meth:`step` after each optimizer step for a schedule by steps, after each epoch for one by epochs. Schedules
    multiply with each other and with numbers: ``4.0 * LinearSchedule(0.0, 1.0, 100)``. The product counts for itself,
    from zero; the factors are not stepped.

    Args:
        device: device of :attr:`tensor`. The CPU will do, except for a step captured in a CUDA graph: there the value
            has to be read on the device.

    Attributes:
        tensor: the current value, 0-dimensional, float64; always the same tensor. It is what
            ``FusedELBOLoss(beta=...)``, ``elbo_loss(beta=...)``, ``FreeBits`` and ``Capacity`` take.
        count: how many times :meth:`step` was called.

    Example:
        >>> schedule = LinearSchedule(0.0, 1.0, steps=4)
        >>> beta = schedule.tensor
        >>> schedule.step()
        >>> beta
        tensor(0.2500, dtype=torch.float64)
    """

    def __init__(self, *, device: torch.device | str | None = None) -> None:
        self.count = 0
        self.tensor: Tensor = torch.full((), self.value_at(0), dtype=torch.float64, device=device)

    @abstractmethod
    def value_at(self, count: int) -> float:
        """The value after ``count`` calls of :meth:`step`; any count from 0 on."""

    @property
    def value(self) -> float:
        """The current value as a number."""
        return self.value_at(self.count)

    def step(self) -> None:
        """Count one more and write the new value into :attr:`tensor`."""
        self._go_to(self.count + 1)

    def state_dict(self) -> dict[str, int]:
        """The count, under the name ``"count"``; the settings belong to the code that builds the schedule."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to the count of :meth:`state_dict`.

        Raises:
            KeyError: there is no ``"count"``.
            TypeError: the count is not an integer.
            ValueError: the count is negative.
        """
        if "count" not in state:
            raise KeyError(f"the state of a schedule must hold 'count', got {sorted(state)}")
        checks.check_count("count", state["count"], 0)
        self._go_to(state["count"])

    def __mul__(self, other: Schedule | float) -> ProductSchedule:
        if isinstance(other, bool) or not isinstance(other, (Schedule, int, float)):
            return NotImplemented
        factor = other if isinstance(other, Schedule) else ConstantSchedule(other)
        return ProductSchedule(self, factor, device=self.tensor.device)

    __rmul__ = __mul__

    def _go_to(self, count: int) -> None:
        self.count = count
        with torch.no_grad():
            self.tensor.fill_(self.value_at(count))


class ConstantSchedule(Schedule):
    """The same value at every count: the beta of beta-VAE, or a factor of a product.

    Args:
        value: the value.
        device: as for :class:`Schedule`.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is not finite.

    Example:
        >>> ConstantSchedule(4.0).tensor
        tensor(4., dtype=torch.float64)

    Source: Higgins et al. 2017, "beta-VAE" (ICLR), equation 4.
    """

    def __init__(self, value: float, *, device: torch.device | str | None = None) -> None:
        self._value = _check_finite("value", value)
        super().__init__(device=device)

    def value_at(self, count: int) -> float:
        """See :meth:`Schedule.value_at`."""
        return self._value

    def __repr__(self) -> str:
        return f"ConstantSchedule({self._value!r})"


class LinearSchedule(Schedule):
    """From ``start`` to ``end`` in a straight line over ``steps`` counts; from then on it stays at ``end``.

    Args:
        start: the value at count 0.
        end: the value at count ``steps`` and at every later one.
        steps: length of the line, at least 1.
        device: as for :class:`Schedule`.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: ``steps`` below 1, or an end that is not finite.

    Example:
        >>> schedule = LinearSchedule(0.0, 1.0, steps=4)
        >>> [schedule.value_at(count) for count in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Source: KL cost annealing, Bowman et al. 2016 (arXiv:1511.06349), section 3.1; Sønderby et al. 2016
    (arXiv:1602.02282), section 2.3, "warm-up". As the capacity of Burgess et al. 2018 (arXiv:1804.03599), section 4.
    """

    def __init__(self, start: float, end: float, steps: int, *, device: torch.device | str | None = None) -> None:
        self.start, self.end = _check_finite("start", start), _check_finite("end", end)
        checks.check_count("steps", steps)
        self.steps = steps
        super().__init__(device=device)

    def value_at(self, count: int) -> float:
        """See :meth:`Schedule.value_at`."""
        if count >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (count / self.steps)

    def __repr__(self) -> str:
        return f"LinearSchedule({self.start!r}, {self.end!r}, steps={self.steps})"


class CyclicalSchedule(Schedule):
    r"""Cycles that rise from ``start`` to ``end`` in a straight line, stay there, and begin again.

    With T = ``steps``, M = ``cycles``, R = ``proportion`` and count t, :math:`\tau = (t \bmod \lceil T/M \rceil) /
    (T/M)`, and the value is at the fraction :math:`\min(\tau / R, 1)` of the way. Past its T counts it stays at
    ``end``.

    Args:
        start: the value at the beginning of each cycle.
        end: the value in the rest of each cycle, and after the last one.
        steps: counts of all cycles together.
        cycles: number of cycles.
        proportion: the part of a cycle in which the value rises, above 0 and at most 1.
        device: as for :class:`Schedule`.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: ``cycles`` below 1, fewer steps than cycles, a proportion out of range, or an end that is not
            finite.

    Example:
        >>> schedule = CyclicalSchedule(0.0, 1.0, steps=8, cycles=2)
        >>> [schedule.value_at(count) for count in range(9)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]

    Source: Fu et al. 2019 (arXiv:1903.10145), section 4, with its defaults M = 4 and R = 0.5.
    """

    def __init__(
        self,
        start: float,
        end: float,
        steps: int,
        *,
        cycles: int = 4,
        proportion: float = 0.5,
        device: torch.device | str | None = None,
    ) -> None:
        self.start, self.end = _check_finite("start", start), _check_finite("end", end)
        checks.check_count("cycles", cycles)
        checks.check_count("steps", steps)
        if steps < cycles:
            raise ValueError(f"steps must be at least one for each of {cycles} cycles, got {steps}")
        self.steps, self.cycles = steps, cycles
        self.proportion = _check_finite("proportion", proportion)
        if not 0.0 < proportion <= 1.0:
            raise ValueError(f"proportion must be above 0 and at most 1, got {proportion}")
        super().__init__(device=device)

    def value_at(self, count: int) -> float:
        """See :meth:`Schedule.value_at`."""
        if count >= self.steps:
            return self.end
        whole_counts = -(-self.steps // self.cycles)
        part = (count % whole_counts) * self.cycles / self.steps
        return self.end if part >= self.proportion else self.start + (self.end - self.start) * part / self.proportion

    def __repr__(self) -> str:
        return (
            f"CyclicalSchedule({self.start!r}, {self.end!r}, steps={self.steps}, cycles={self.cycles}, "
            f"proportion={self.proportion!r})"
        )


class ProductSchedule(Schedule):
    """The product of two schedules at the same count; made by ``*``.

    Example:
        >>> schedule = CyclicalSchedule(0.0, 1.0, steps=8, cycles=2) * LinearSchedule(0.0, 4.0, steps=8)
        >>> [schedule.value_at(count) for count in range(5)]
        [0.0, 0.25, 1.0, 1.5, 0.0]
    """

    def __init__(self, first: Schedule, second: Schedule, *, device: torch.device | str | None = None) -> None:
        self.factors = (first, second)
        super().__init__(device=device)

    def value_at(self, count: int) -> float:
        """See :meth:`Schedule.value_at`."""
        first, second = self.factors
        return first.value_at(count) * second.value_at(count)

    def __repr__(self) -> str:
        return " * ".join(repr(factor) for factor in self.factors)
