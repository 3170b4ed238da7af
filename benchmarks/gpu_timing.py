"""How a step is timed on a GPU: by its events with a cold L2 cache, by the host's clock, and by the profiler."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from timing import Sampler

_LEAST_FLUSH_BYTES = 1 << 28
_FIRST_HOLD_CYCLES = 1 << 20
_MOST_HOLD_CYCLES = 1 << 25
_STEPS_A_LOOP = 20
_PROFILED_STEPS = 10
_CAPTURE_WARM_UP_STEPS = 3
# What the profiler calls the work of the GPU itself; "gpu_user_annotation" is only a label over it.
_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


class EventTimer:
    """Makes samplers of GPU time: from the start of the first kernel of a step to the end of its last.

    Before each step the L2 cache is overwritten, outside the timed window, and the GPU is held busy until the host has
    queued the whole step: so the window holds the work of the GPU and none of the time the host takes to launch it.
    """

    def __init__(self, device: torch.device) -> None:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(4 * l2_bytes, _LEAST_FLUSH_BYTES), dtype=torch.uint8, device=device)
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def sampler(self, step: Callable[[], None]) -> Sampler:
        """Times one step; raises ``RuntimeError`` if the host cannot queue it ahead, as when it synchronizes."""
        hold_cycles = _FIRST_HOLD_CYCLES

        def sample() -> float:
            nonlocal hold_cycles
            while hold_cycles <= _MOST_HOLD_CYCLES:
                self._flush.zero_()
                torch.cuda._sleep(hold_cycles)
                self._start.record()
                step()
                self._end.record()
                held = not self._start.query()
                torch.cuda.synchronize()
                if held:
                    return self._start.elapsed_time(self._end) * 1e-3
                hold_cycles *= 2
            raise RuntimeError("the step could not be queued ahead of the GPU: it waits for the GPU somewhere")

        return sample


def loop_sampler(step: Callable[[], None]) -> Sampler:
    """Times a step as a training loop sees it: consecutive steps by the host's clock, launches included."""

    def sample() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_STEPS_A_LOOP):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / _STEPS_A_LOOP

    return sample


def launches_and_busy_seconds(step: Callable[[], None]) -> tuple[float, float]:
    """Kernels, copies and fills that one step launches, and the time the GPU is busy with them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_PROFILED_STEPS):
            step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    work = [event for event in events if event.get("cat") in _GPU_WORK]
    if not work:
        raise RuntimeError("the profiler saw no work on the GPU")
    return len(work) / _PROFILED_STEPS, sum(event["dur"] for event in work) * 1e-6 / _PROFILED_STEPS


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph; calling it replays the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_CAPTURE_WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
