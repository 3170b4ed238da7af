"""The functional API: one call, one fused kernel.

Dimension 0 is the batch and every other dimension is an event dimension, whatever the rank. A call goes to the
compiled operator ``torch.ops.vae_fused.<name>`` when its device has kernels; inside a transform of ``torch.func`` by
way of :mod:`vae_fused._functorch`. Else it goes to the function of the same name in :mod:`vae_fused.reference`, which
is right on every device, only slower.
"""

from __future__ import annotations

from vae_fused.divergence import kl_divergence
from vae_fused.objective import elbo_loss
from vae_fused.sampling import reparameterize, reparameterize_with_kl, standard_normal

__all__ = ["elbo_loss", "kl_divergence", "reparameterize", "reparameterize_with_kl", "standard_normal"]
