"""What a function makes a device do, counted without one: the operators that would each be a launch there."""

from __future__ import annotations

from collections.abc import Callable

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

# They give memory or another view of it, and launch nothing.
WITHOUT_A_LAUNCH = {
    "aten::" + name
    for name in (
        "alias",
        "as_strided",
        "detach",
        "detach_",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "flatten",
        "reshape",
        "resolve_conj",
        "resolve_neg",
        "select",
        "t",
        "to",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
        "view_as",
    )
}


def launching(function: Callable[[], object], inside: bool = False) -> list[str]:
    """The operators that ran, in order: of this package those that call none of it, and what ATen runs besides.

    A conversion is its ``copy_``. What an operator of this package does inside is the business of its device; it is
    looked at too where ``inside`` says so.
    """
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    events = sorted(recorded.events(), key=lambda event: event.time_range.start)
    return [name for event in events if event.cpu_parent is None for name in _launching(event, inside)]


def _launching(event: FunctionEvent, inside: bool) -> list[str]:
    below = [name for child in event.cpu_children for name in _launching(child, inside)]
    library, _, _ = event.name.partition("::")
    if library == "vae_fused":
        if any(name.startswith("vae_fused::") for name in below):
            return below
        return [event.name, *below] if inside else [event.name]
    if library != "aten" or event.name in WITHOUT_A_LAUNCH:
        return below
    return below or [event.name]
