"""Results that the fakes of several operators have."""

from __future__ import annotations

import torch
from torch import Tensor


def like_if(wanted: bool, tensor: Tensor | None) -> Tensor | None:
    """A gradient of the tensor where there is one and it is wanted."""
    return torch.empty_like(tensor) if wanted and tensor is not None else None


def reduced(like: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """A term in a reduction of ``like``."""
    if reduction == "none":
        return torch.empty_like(like, dtype=dtype)
    return like.new_empty(like.shape[:1] if reduction == "sample" else (), dtype=dtype)
