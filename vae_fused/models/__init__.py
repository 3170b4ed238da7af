"""The standard variational autoencoders, built on the fused operators."""

from vae_fused.models.builders import conv_vae, mlp_vae
from vae_fused.models.vae import VAE, VAEOutput

__all__ = ["VAE", "VAEOutput", "conv_vae", "mlp_vae"]
