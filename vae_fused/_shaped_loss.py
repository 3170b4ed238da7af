"""The fused objective with a shaped KL."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, promote_types

from vae_fused import _arguments as arguments
from vae_fused import functional
from vae_fused._terms import ELBOTerms
from vae_fused.shaping import KLShaping, item_sums, reduce_items, shaped_items


def shaped_elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    *,
    kl: Tensor | None,
    beta: Tensor,
    shaping: tuple[KLShaping, ...],
    reduction: str,
    **options: Any,
) -> ELBOTerms:
    """:func:`vae_fused.elbo_loss` with a shaped KL in the loss, and the KL as it is in the terms.

    The shaped KL goes into the fused loss as the KL of each item, so that the reconstruction keeps its one pass with
    the gradient in the forward.
    """
    arguments.check_reconstruction(recon, target)
    arguments.check_kl_source(recon, mu, logvar, kl, reduction)
    elements_per_item = 1
    if kl is None:
        assert mu is not None and logvar is not None  # established by check_kl_source
        elements_per_item = math.prod(mu.shape[1:])
        needs_elements = any(one.needs_elements for one in shaping)
        kl = functional.kl_divergence(mu, logvar, reduction="none" if needs_elements else "sample")
        if needs_elements and kl.dim() == 1:
            kl = kl.unsqueeze(1)  # latents [B]: one dimension each
    elif any(one.needs_elements for one in shaping):
        raise ValueError("free bits per dimension or group need mu and logvar: kl holds one number for each item")
    items = shaped_items(kl, shaping)
    dtype = arguments.accumulation_dtype(kl.dtype)
    unshaped = reduce_items(item_sums(kl.detach()), reduction, elements_per_item)
    if reduction != "mean":
        loss, reconstruction, _ = functional.elbo_loss(
            recon, target, kl=items.to(dtype), beta=beta, reduction=reduction, return_terms=True, **options
        )
    else:
        # A mean over elements is not a mean of items: the fused loss gets no KL to add.
        nothing = recon.new_zeros(()).expand(recon.shape[0], 1)
        loss, reconstruction, _ = functional.elbo_loss(
            recon, target, nothing, nothing, reduction=reduction, return_terms=True, **options
        )
        shaped = reduce_items(items, reduction, elements_per_item)
        loss = (loss + beta.to(recon.device) * shaped).to(promote_types(loss.dtype, dtype))
    return ELBOTerms(loss, reconstruction, unshaped.to(loss.dtype))
