"""Whether derivatives are taken in a way that C++ autograd Functions do not know."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def inside_transform() -> bool:
    """Whether the caller runs inside ``grad``, ``vmap``, ``jvp`` or another transform, or inside forward-mode AD."""
    # Forward-mode AD without torch.func puts nothing on the interpreter stack.
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


# A constant of a trace: while Dynamo traces a transform, the transform is active. This is all that the decorator
# torch.compiler.assume_constant_result does, but the decorator imports Dynamo, which takes longer than importing torch.
inside_transform.__dict__["_dynamo_marked_constant"] = True
