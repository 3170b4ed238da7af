"""The KL divergence of diagonal Gaussians: one call, one fused kernel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused._arguments_posterior import check_mask
from vae_fused._library import calls_operators, ops
from vae_fused._otherwise import otherwise
from vae_fused._scale_form import operator_arguments

__all__ = ["kl_divergence"]


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "batchmean",
    mask: Tensor | None = None,
    parameterization: str = "logvar",
    epsilon: float = 0,  # not 0.0: see target_scale of elbo_loss
    logvar_clamp: Sequence[float] | None = None,
    clamp: str = "hard",
) -> Tensor:
    r"""KL divergence of a diagonal Gaussian posterior from a diagonal Gaussian prior, in nats.

    Per element, with :math:`\delta = \lambda_1 - \lambda_2`:
    :math:`\tfrac12\left(e^{\delta} - 1 - \delta + (\mu_1 - \mu_2)^2 e^{-\lambda_2}\right)`, evaluated without
    cancellation: never negative, and right to rounding near zero.

    Args:
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        logvar: posterior log-variance, same shape, dtype and device; or what ``parameterization`` says.
        prior_mu: prior mean, broadcastable to ``mu``; 0 by default.
        prior_logvar: prior log-variance, broadcastable to ``mu``; 0 by default. Always the log-variance itself:
            ``parameterization`` and the clamp are of the posterior.
        reduction: ``"batchmean"`` (sum over events, mean over the batch), ``"sum"``, ``"sample"`` (``[B]``),
            ``"mean"`` (over the elements of ``mu``, with a mask too) or ``"none"`` (elementwise, the shape of ``mu``).
        mask: a factor of each element, broadcastable to ``mu``: bool or floating, without a gradient.
        parameterization: as for :func:`vae_fused.reparameterize`.
        epsilon: as for :func:`vae_fused.reparameterize`.
        logvar_clamp: as for :func:`vae_fused.reparameterize`.
        clamp: as for :func:`vae_fused.reparameterize`.

    Returns:
        The divergence, float32 (float64 for float64), differentiable in all four parameters.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that do not fit, an unknown reduction, parameterization or clamp, bounds that are
            no ordered pair, a negative ``epsilon``, or a mask that requires a gradient.

    Example:
        >>> kl_divergence(torch.full((1, 1), 2.0), torch.zeros(1, 1))
        tensor(2.)
        >>> kl_divergence(torch.zeros(1, 1), torch.ones(1, 1), parameterization="std")
        tensor(0.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), appendix B.
    """
    checks.check_tensor("mu", mu)
    checks.check_tensor("logvar", logvar)
    if not calls_operators(mu):
        return otherwise(mu).kl_divergence(
            mu,
            logvar,
            prior_mu,
            prior_logvar,
            reduction=reduction,
            mask=mask,
            parameterization=parameterization,
            epsilon=epsilon,
            logvar_clamp=logvar_clamp,
            clamp=clamp,
        )
    for name, prior in (("prior_mu", prior_mu), ("prior_logvar", prior_logvar)):
        arguments.check_prior(name, prior, mu)  # before autograd expands it
    checks.check_choice("reduction", reduction, (*arguments.REDUCTIONS, "none"))
    scale = operator_arguments(parameterization, epsilon, logvar_clamp, clamp, mu.dtype)
    if mask is not None:
        check_mask(mask, mu)
        scale["mask"] = mask
    return ops.kl_divergence.default(mu, logvar, prior_mu, prior_logvar, reduction, **scale)
