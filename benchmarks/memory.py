"""Memory of one step beyond its inputs."""

from __future__ import annotations

import torch

from rivals import Step


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most bytes that one step holds at a time beyond what was held before it, its gradients included."""
    return _peak_bytes_cuda(step, device) if device.type == "cuda" else _peak_bytes_cpu(step)


def _peak_bytes_cuda(step: Step, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_bytes_cpu(step: Step) -> int:
    # The CPU allocator keeps no statistics; the profiler sees each of its allocations and releases, in order.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def saved_bytes_cuda(step: Step, device: torch.device) -> int:
    """What the forward keeps on the GPU for its backward, beyond its inputs and its outputs."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    outputs = step.forward()
    held = torch.cuda.memory_allocated(device) - before
    return held - sum(output.untyped_storage().nbytes() for output in outputs)
