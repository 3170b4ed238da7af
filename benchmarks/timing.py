"""Interleaved rounds and what is kept of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Sampler = Callable[[], float]  # runs something once and returns the seconds it took

_WARM_UP_ROUNDS = 2
_LEAST_ROUNDS = 3
_UNTIMED_STEPS = 2


@dataclass(frozen=True)
class Measurement:
    """Seconds of one step over all rounds."""

    minimum: float
    median: float
    rounds: int

    @classmethod
    def of(cls, durations: list[float]) -> Measurement:
        """The statistics of a list of durations in seconds."""
        return cls(min(durations), statistics.median(durations), len(durations))


def host_sampler(step: Callable[[], None]) -> Sampler:
    """Times a step by the host's clock; right where a call returns when its work is done, as on a CPU."""

    def sample() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return sample


def steady_sampler(step: Callable[[], None]) -> Sampler:
    """Times the last of three steps: it finds the caches and the allocator as steps of its own have left them.

    After one step alone glibc may still hold what the rival before has freed, and hand it back to the system in the
    next one, which then takes milliseconds longer.
    """
    sample_once = host_sampler(step)

    def sample() -> float:
        for _ in range(_UNTIMED_STEPS):
            step()
        return sample_once()

    return sample


class PhaseSampler:
    """Times a step as ``steady_sampler`` does, and its forward and backward with it.

    The backward's time includes ``release``, which gives up what the step has made; ``prepare``, before each step, and
    ``restore``, after the last, are not timed.
    """

    def __init__(
        self,
        forward: Callable[[], Any],
        backward: Callable[[Any], None],
        release: Callable[[], Any],
        prepare: Callable[[], Any] | None = None,
        restore: Callable[[], Any] | None = None,
    ) -> None:
        self._forward, self._backward, self._release = forward, backward, release
        self._prepare, self._restore = prepare, restore
        self._phases: list[tuple[float, float]] = []

    def __call__(self) -> float:
        for _ in range(_UNTIMED_STEPS):
            self._step()
        forward, backward = self._step()
        self._phases.append((forward, backward))
        if self._restore is not None:
            self._restore()
        return forward + backward

    def _step(self) -> tuple[float, float]:
        if self._prepare is not None:
            self._prepare()
        start = time.perf_counter()
        outputs = self._forward()
        middle = time.perf_counter()
        self._backward(outputs)
        del outputs
        self._release()
        return middle - start, time.perf_counter() - middle

    def phases(self, rounds: int) -> dict[str, list[float]]:
        """The durations of the step and of its two parts in the last ``rounds``, those after the warm-up."""
        last = self._phases[-rounds:]
        return {
            "step": [forward + backward for forward, backward in last],
            "forward": [forward for forward, _ in last],
            "backward": [backward for _, backward in last],
        }


def interleave(samplers: Mapping[str, Sampler], seconds: float, most_rounds: int) -> dict[str, list[float]]:
    """The durations of each sampler, one a round, for about ``seconds`` in all, warm-up included.

    All samplers run in every round, so noise of the machine hits all alike; each round begins one further along, so
    none profits from always following the same other.
    """
    names = list(samplers)
    durations: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        for _ in range(_WARM_UP_ROUNDS):
            for sample in samplers.values():
                sample()
        for index in range(most_rounds):
            if index >= _LEAST_ROUNDS and time.perf_counter() >= end:
                break
            turn = index % len(names)
            for name in (*names[turn:], *names[:turn]):
                durations[name].append(samplers[name]())
    finally:
        if collecting:
            gc.enable()
    return durations


def copy_rate(sampler: Callable[[Callable[[], None]], Sampler], device: torch.device) -> float:
    """Bytes per second, read and written, of the fastest ``Tensor.copy_`` between buffers that no cache holds."""
    bytes_moved = 1 << (31 if device.type == "cuda" else 29)
    source = torch.ones(bytes_moved // 8, dtype=torch.float32, device=device)
    destination = torch.empty_like(source)

    def copy() -> None:
        destination.copy_(source)

    return bytes_moved / min(interleave({"copy": sampler(copy)}, seconds=1.0, most_rounds=10)["copy"])
