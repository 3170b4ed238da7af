"""Which operators of the package run, counted below every transform; and which are in a compiled graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

_PREFIX = "vae_fused."

# What torch.library.opcheck does besides tracing and compiling, which takes most of its time. What only tracing finds
# is in the formulas, and they are the same in every dtype.
UNTRACED = ("test_schema", "test_autograd_registration", "test_faketensor")


def _name(target: Any) -> str | None:
    """``namespace.operator`` without the overload, or None where it is no operator."""
    return str(target).rsplit(".", 1)[0] if isinstance(target, torch._ops.OpOverload) else None


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.storages: list[set[int]] = []

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _name(target) or ""
        self.names[name] += 1
        if name.startswith(_PREFIX):
            self.storages.append({t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)})
        return target(*args, **(kwargs or {}))


def fused(names: Counter[str]) -> dict[str, int]:
    """Those of the package, by their own names."""
    return {name.removeprefix(_PREFIX): times for name, times in names.items() if name.startswith(_PREFIX)}


def fused_operators_in(function: Callable[[], Any]) -> dict[str, int]:
    """How often each operator of the package ran while the function was called."""
    with _Count() as count:
        function()
    return fused(count.names)


def storages_read_in(function: Callable[[], Any]) -> list[set[int]]:
    """The memory of the tensors that each operator of the package was given while the function was called."""
    with _Count() as count:
        function()
    return count.storages


def recording_backend() -> tuple[Callable[..., Any], Counter[str]]:
    """A backend for ``torch.compile`` that runs graphs as they are, and the operators in all of its graphs."""
    names: Counter[str] = Counter()

    def record(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        names.update(_name(node.target) or "" for node in graph.graph.nodes)
        return graph.forward

    return aot_autograd(fw_compiler=record), names
