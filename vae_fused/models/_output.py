"""What a pass through a :class:`~vae_fused.VAE` gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import _register_namedtuple


class VAEOutput(NamedTuple):
    """What one pass through a :class:`~vae_fused.VAE` computes for a batch of ``B`` items.

    Attributes:
        recon: the decoder's output for ``z``.
        mu: posterior mean, ``[B, latent_dim]``.
        logvar: posterior log-variance, ``[B, latent_dim]``.
        z: the latent that was decoded, ``[B, latent_dim]``: a sample, or ``mu``.
        kl: KL of the posterior from the unit prior, ``[B]``, in nats; float32 (float64 for a float64 model).

    Example:
        >>> out = mlp_vae(64, latent_dim=8)(torch.rand(3, 64))
        >>> out.recon.shape, out.z.shape, out.kl.shape
        (torch.Size([3, 64]), torch.Size([3, 8]), torch.Size([3]))
    """

    recon: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor
    kl: Tensor


# torch.export.save writes a result's type down under this name.
_register_namedtuple(VAEOutput, serialized_type_name="vae_fused.VAEOutput")
