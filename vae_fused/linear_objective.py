"""The objective of a decoder's last Linear: the reconstruction is never there as a whole."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional, reference
from vae_fused._arguments_linear import check_linear_elbo_loss
from vae_fused._library import calls_operators, ops
from vae_fused._terms import ELBOTerms

__all__ = ["linear_elbo_loss"]


@overload
def linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: Literal[False] = ...,
    chunk: int | None = ...,
) -> Tensor: ...
@overload
def linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: Literal[True],
    chunk: int | None = ...,
) -> ELBOTerms: ...
@overload
def linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: bool,
    chunk: int | None = ...,
) -> Tensor | ELBOTerms: ...
def linear_elbo_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mu: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    kl: Tensor | None = None,
    beta: float | Tensor = 1.0,
    recon_loss: str = "mse",
    reduction: str = "batchmean",
    return_terms: bool = False,
    chunk: int | None = None,
) -> Tensor | ELBOTerms:
    r"""The negative ELBO of ``F.linear(hidden, weight, bias)`` in nats, without the reconstruction as a whole.

    Equal to ``elbo_loss(F.linear(hidden, weight, bias), target, ...)``. The rows of ``hidden`` go through the layer
    and the loss a chunk at a time, and each chunk's part of the gradients of ``hidden``, ``weight`` and ``bias`` is
    computed there and then, if they require one: what is held beyond them is one chunk of the reconstruction and its
    gradient.

    With ``reduction="sample"``, for the gradient of ``target``, and in a second backward through a retained graph, the
    backward goes through the chunks again. A double backward (``create_graph=True``) makes the whole reconstruction.

    Args:
        hidden: input of the layer, ``[B, ..., H]``; float16, bfloat16, float32 or float64, any strides. Its rows are
            the vectors ``[H]``.
        weight: ``[D, H]``, dtype and device of ``hidden``; under autocast both are cast as for ``F.linear``.
        bias: ``[D]``, or ``None``.
        target: the data, ``[B, ..., D]``; its dtype may differ from that of ``hidden``.
        mu: posterior mean, ``[B, ...]``.
        logvar: posterior log-variance, same shape, dtype and device as ``mu``.
        kl: the per-item KL ``[B]`` of :func:`reparameterize_with_kl`, in place of ``mu`` and ``logvar``.
        beta: weight of the KL; a float, or a 0-dim tensor that is read when the kernel runs.
        recon_loss: ``"mse"`` (the squared error, summed without a factor ½), ``"l1"``, ``"smooth_l1"`` or
            ``"bce_with_logits"``, as for :func:`elbo_loss`; the other terms need more than a reconstruction that may
            be any number.
        reduction: ``"batchmean"``, ``"sum"``, ``"sample"`` or ``"mean"``, as for :func:`elbo_loss`.
        return_terms: also return the two terms.
        chunk: rows of ``hidden`` in a chunk. By default as many as make 64 MiB of reconstruction but no fewer than 128,
            evened out over the chunks. The result depends on it by the rounding of sums in float64 alone.

    Returns:
        The loss, float32 (float64 if an operand is float64), differentiable in ``hidden``, ``weight``, ``bias``,
        ``target``, ``mu``, ``logvar``, ``kl`` and a tensor ``beta``; or with ``return_terms`` an :class:`ELBOTerms`.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that do not fit, an unknown ``recon_loss`` or ``reduction``, both or neither of
            ``kl`` and the latent pair, ``kl`` with ``reduction="mean"``, or ``chunk`` below 1.

    Example:
        >>> hidden, weight, x = torch.ones(2, 4), torch.ones(3, 4), torch.zeros(2, 3)
        >>> linear_elbo_loss(hidden, weight, None, x, torch.zeros(2, 1), torch.zeros(2, 1))
        tensor(48.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), equation 10.
    """
    checks.check_tensor("hidden", hidden)
    checks.check_bool("return_terms", return_terms)
    if not calls_operators(hidden):
        return reference.linear_elbo_loss(
            hidden,
            weight,
            bias,
            target,
            mu,
            logvar,
            kl=kl,
            beta=beta,
            recon_loss=recon_loss,
            reduction=reduction,
            return_terms=return_terms,
            chunk=chunk,
        )
    check_linear_elbo_loss(hidden, weight, bias, target, mu, logvar, kl, beta, recon_loss, reduction, chunk)
    # Both terms stay float64 until they are added, so that the loss is rounded once.
    reconstruction = ops.linear_reconstruction.default(hidden, weight, bias, target, recon_loss, reduction, chunk)
    if kl is not None:
        latent, kl_term = kl, kl.double()
        if reduction != "sample":
            kl_term = kl_term.sum() if reduction == "sum" else kl_term.mean()
    else:
        assert mu is not None and logvar is not None  # established by check_linear_elbo_loss
        latent, kl_term = mu, functional.kl_divergence(mu, logvar, reduction=reduction).double()
    dtype = arguments.accumulation_dtype(hidden.dtype, target.dtype, latent.dtype)
    loss = (reconstruction + kl_term * beta).to(dtype)
    if not return_terms:
        return loss
    return ELBOTerms(loss, reconstruction.detach().to(dtype), kl_term.detach().to(dtype))
