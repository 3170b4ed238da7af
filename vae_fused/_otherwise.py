"""Where a call goes inside a transform, and on a device without kernels."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from vae_fused import reference
from vae_fused._library import has_kernels


def otherwise(tensor: Tensor) -> ModuleType:
    """The module with the public functions for a call on this tensor that does not go straight to the operators."""
    if not has_kernels(tensor):
        return reference
    # Imported here, because it tells Dynamo about its Functions and importing Dynamo takes longer than importing torch.
    from vae_fused import _functorch

    return _functorch
