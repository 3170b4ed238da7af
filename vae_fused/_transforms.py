"""Whether a transform of ``torch.func`` is active."""

from __future__ import annotations

import torch


# A constant of a trace: while Dynamo traces a transform, the transform is active.
@torch.compiler.assume_constant_result
def inside_transform() -> bool:
    """Whether the caller runs inside ``grad``, ``vmap``, ``jvp`` or another transform."""
    return torch._C._functorch.peek_interpreter_stack() is not None
