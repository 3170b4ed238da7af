"""The variational autoencoder: encoder, two Linear heads, fused sampling with KL, decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._arguments_linear import LINEAR_RECON_LOSSES
from vae_fused._arguments_reconstruction import HAVE_SIGMA
from vae_fused._terms import ELBOTerms
from vae_fused.linear_loss import linear_elbo_loss
from vae_fused.models._layers import encoder_width, ends_in_sigmoid, input_of_output_layer, split_decoder
from vae_fused.models._output import VAEOutput

__all__ = ["VAE", "VAEOutput"]

_WITHOUT_SIGMA = tuple(name for name in arguments.RECON_LOSSES if name not in HAVE_SIGMA)


def _kl_source(reduction: str, mu: Tensor, logvar: Tensor, kl: Tensor) -> dict[str, Any]:
    # The mean over latent elements needs their number, which the per-item KL no longer tells.
    return {"mu": mu, "logvar": logvar} if reduction == "mean" else {"kl": kl}


class VAE(nn.Module):
    """A variational autoencoder with a diagonal Gaussian posterior and a unit Gaussian prior.

    The encoder's output is flattened from dimension 1 and goes through two Linear heads, ``mu_head`` and
    ``logvar_head``. Sampling and the KL are one fused operator, :func:`vae_fused.reparameterize_with_kl`.

    Args:
        encoder: maps a batch ``[B, ...]`` to features ``[B, ...]``.
        decoder: maps latents ``[B, latent_dim]`` to reconstructions of the shape of the data.
        latent_dim: number of latents of an item.
        feature_dim: number of features of an item after flattening. By default the ``out_features`` of the encoder or
            of its last layer, activations and norms aside. An encoder that ends in convolutions or pooling has none:
            its heads are ``nn.LazyLinear``, which take their width from the first batch, so run one batch before
            counting parameters or compiling.
        fused_output_layer: :meth:`loss` takes the decoder's last layer and the objective in one, without the
            reconstruction as a whole: see :func:`vae_fused.linear_elbo_loss`. The decoder has to be an ``nn.Linear``,
            or an ``nn.Sequential`` that ends in one, followed by nothing but a reshape. Hooks of that layer, of the
            decoder as a whole and of the model are not called in :meth:`loss`.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: ``latent_dim`` or ``feature_dim`` below 1, or ``fused_output_layer`` with another decoder.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        >>> decoder = nn.Sequential(nn.Linear(20, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)))
        >>> model = VAE(encoder, decoder, latent_dim=20)
        >>> x = torch.rand(8, 1, 28, 28)
        >>> model.loss(x).loss.backward()
        >>> model.sample(4).shape
        torch.Size([4, 1, 28, 28])

    Source: Kingma and Welling 2013 (arXiv:1312.6114).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        *,
        feature_dim: int | None = None,
        fused_output_layer: bool = False,
    ) -> None:
        super().__init__()
        for name, module in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")
        checks.check_count("latent_dim", latent_dim)
        checks.check_count("feature_dim", feature_dim, optional=True)
        checks.check_bool("fused_output_layer", fused_output_layer)
        if fused_output_layer:
            split_decoder(decoder)
        self.fused_output_layer = fused_output_layer
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        width = encoder_width(encoder) if feature_dim is None else feature_dim
        self.mu_head: nn.Linear = nn.LazyLinear(latent_dim) if width is None else nn.Linear(width, latent_dim)
        self.logvar_head: nn.Linear = nn.LazyLinear(latent_dim) if width is None else nn.Linear(width, latent_dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of a batch.

        Args:
            x: the data, ``[B, ...]``, in the dtype and on the device of the model.

        Returns:
            ``(mu, logvar)``, each ``[B, latent_dim]``.

        Raises:
            TypeError: ``x`` is not a floating tensor, or the encoder gives no tensor.
            ValueError: ``x`` has no batch dimension, or the encoder gives another width than ``feature_dim``.

        Example:
            >>> mu, logvar = mlp_vae(64, latent_dim=8).encode(torch.rand(3, 64))
        """
        checks.check_batched("x", x)
        features = self.encoder(x)
        if not isinstance(features, Tensor):
            raise TypeError(f"encoder must give a tensor of features, got {checks.type_name(features)}")
        features = features.flatten(1)
        expected = self.mu_head.in_features
        if features.shape[1] != expected and not isinstance(self.mu_head, nn.LazyLinear):
            raise ValueError(
                f"feature_dim must be the width of the flattened encoder output, {features.shape[1]}, got {expected}"
            )
        return self.mu_head(features), self.logvar_head(features)

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's output for latents ``z``, ``[B, latent_dim]``.

        Raises:
            TypeError: ``z`` is not a floating tensor.
            ValueError: ``z`` is not ``[B, latent_dim]``.

        Example:
            >>> x_hat = mlp_vae(64, latent_dim=8).decode(torch.zeros(3, 8))
        """
        checks.check_floating("z", z)
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape [batch, {self.latent_dim}], got {list(z.shape)}")
        recon: Tensor = self.decoder(z)
        return recon

    def forward(
        self,
        x: Tensor,
        *,
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
    ) -> VAEOutput:
        """Encode, sample, decode.

        Args:
            x: the data, ``[B, ...]``.
            sample: draw ``z`` from the posterior, or take its mean. By default as ``self.training``: a sample in
                training mode, the mean after ``eval()``.
            generator: where the noise comes from; by default the device's default generator.
            key: the noise as a function of a uint64 key, ``(2,)``, or ``(B, 2)`` for one key per item; on the device of
                the model, not together with ``generator``. See :func:`vae_fused.reparameterize`.

        Returns:
            A :class:`VAEOutput`.

        Raises:
            TypeError: an argument of a wrong type or dtype.
            ValueError: an argument of a wrong shape or device, or both ``generator`` and ``key``.

        Example:
            >>> recon, mu, logvar, z, kl = mlp_vae(64, latent_dim=8)(torch.rand(3, 64))
        """
        mu, logvar, z, kl = self._posterior(x, sample, generator, key)
        return VAEOutput(self.decode(z), mu, logvar, z, kl)

    def _posterior(
        self, x: Tensor, sample: bool | None, generator: torch.Generator | None, key: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        if self.training if sample is None else sample:
            z, kl = functional.reparameterize_with_kl(mu, logvar, generator=generator, key=key)
        else:
            arguments.check_sampling(mu, logvar, None, generator, key)  # a wrong one is no better for being unused
            z, kl = mu, functional.kl_divergence(mu, logvar, reduction="sample")
        return mu, logvar, z, kl

    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor = 1.0,
        recon_loss: str = "mse",
        reduction: str = "batchmean",
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
    ) -> ELBOTerms:
        """The negative ELBO of a batch, ready for ``loss.backward()``.

        Args:
            x: the data, ``[B, ...]``, and the target of the reconstruction.
            beta: weight of the KL, a float or a 0-dim tensor.
            recon_loss: as for :func:`vae_fused.elbo_loss`, but for ``"gaussian_nll"`` and ``"laplace_nll"``, which
                need a log sigma: give ``model(x)`` to a :class:`vae_fused.FusedELBOLoss` that has one. ``"bce"`` for a
                decoder that ends in a sigmoid, ``"bce_with_logits"`` for one that does not, as with
                ``fused_output_layer``.
            reduction: ``"batchmean"``, ``"sum"``, ``"sample"`` or ``"mean"``, as for :func:`vae_fused.elbo_loss`.
            sample: as for :meth:`forward`.
            generator: as for :meth:`forward`.
            key: as for :meth:`forward`.

        Returns:
            An :class:`~vae_fused.ELBOTerms`: ``loss`` is differentiable, ``reconstruction`` and ``kl`` are detached.

        Raises:
            TypeError: an argument of a wrong type or dtype.
            ValueError: an argument of a wrong shape, device or value, or a decoder whose output has not the shape of x.

        Example:
            >>> terms = mlp_vae(64, latent_dim=8).loss(torch.rand(3, 64), beta=0.5)
            >>> terms.loss.backward()
        """
        # Before the encoder runs, which may have statistics of its own to update.
        checks.check_choice(
            "recon_loss", recon_loss, LINEAR_RECON_LOSSES if self.fused_output_layer else _WITHOUT_SIGMA
        )
        checks.check_choice("reduction", reduction, arguments.REDUCTIONS)
        checks.check_tensor("x", x)
        arguments.check_beta(beta, x, "x")
        if recon_loss == "bce_with_logits" and ends_in_sigmoid(self.decoder):
            raise ValueError("recon_loss must be bce with a decoder that ends in a Sigmoid, got 'bce_with_logits'")
        settings: dict[str, Any] = {"beta": beta, "recon_loss": recon_loss, "reduction": reduction}
        if not self.fused_output_layer:
            out = self(x, sample=sample, generator=generator, key=key)
            latents = _kl_source(reduction, out.mu, out.logvar, out.kl)
            return functional.elbo_loss(out.recon, x, **latents, **settings, return_terms=True)
        mu, logvar, z, kl = self._posterior(x, sample, generator, key)
        latents = _kl_source(reduction, mu, logvar, kl)
        hidden, output, target = input_of_output_layer(self.decoder, z, x)
        return linear_elbo_loss(hidden, output.weight, output.bias, target, **latents, **settings, return_terms=True)

    @torch.no_grad()
    def sample(self, n: int, key: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the model: latents from the prior, through the decoder, without gradients.

        For gradients call :meth:`decode` on latents of your own.

        Args:
            n: how many.
            key: uint64 key of the latents, ``(2,)``, or ``(n, 2)`` for one key per item: they are
                ``standard_normal(key, (n, latent_dim))``, the same on every device.
            generator: where the latents come from without a key; by default the device's default generator.

        Returns:
            ``n`` items of the decoder, in the dtype and on the device of the model.

        Raises:
            TypeError: an argument of a wrong type or dtype.
            ValueError: ``n`` below 1, a key of another shape, or both ``key`` and ``generator``.

        Example:
            >>> x = mlp_vae((1, 8, 8), latent_dim=8).sample(16, key=torch.tensor([42, 0], dtype=torch.uint64))
        """
        checks.check_count("n", n)
        weight = self.mu_head.weight
        arguments.check_noise_source(generator, key, weight.device)
        size = (n, self.latent_dim)
        if key is not None:
            z = functional.standard_normal(key, size, dtype=weight.dtype, device=weight.device)
        else:
            z = torch.randn(size, generator=generator, dtype=weight.dtype, device=weight.device)
        return self.decode(z)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The posterior mean through the decoder, in training mode too, without gradients.

        For gradients take ``model(x, sample=False).recon``.

        Args:
            x: the data, ``[B, ...]``.

        Returns:
            The reconstruction, of the shape of ``x``.

        Raises:
            TypeError: ``x`` is not a floating tensor.
            ValueError: ``x`` has no batch dimension, or does not fit the encoder's width.

        Example:
            >>> x_hat = mlp_vae(64, latent_dim=8).reconstruct(torch.rand(3, 64))
        """
        return self.decode(self.encode(x)[0])
