"""Which operators of the package run, counted below every transform; and which are in a compiled graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode


def _name(target: Any) -> str | None:
    """``namespace.operator`` without the overload, or None where it is no operator."""
    return str(target).rsplit(".", 1)[0] if isinstance(target, torch._ops.OpOverload) else None


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[_name(target) or ""] += 1
        return target(*args, **(kwargs or {}))


def all_operators_in(function: Callable[[], Any]) -> Counter[str]:
    """How often each operator ran while the function was called."""
    with _Count() as count:
        function()
    return count.names


def fused(names: Counter[str]) -> dict[str, int]:
    """Those of the package, by their own names."""
    prefix = "vae_fused."
    return {name.removeprefix(prefix): times for name, times in names.items() if name.startswith(prefix)}


def fused_operators_in(function: Callable[[], Any]) -> dict[str, int]:
    """How often each operator of the package ran while the function was called."""
    return fused(all_operators_in(function))


def recording_backend() -> tuple[Callable[..., Any], Counter[str]]:
    """A backend for ``torch.compile`` that runs graphs as they are, and the operators in all of its graphs."""
    names: Counter[str] = Counter()

    def record(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        names.update(_name(node.target) or "" for node in graph.graph.nodes)
        return graph.forward

    return aot_autograd(fw_compiler=record), names
