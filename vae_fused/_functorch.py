"""The functions inside the transforms of ``torch.func`` and in forward-mode AD, where C++ autograd Functions fail.

Same signatures and errors as :mod:`vae_fused.functional`. Values and first derivatives come from the kernels, through
two Python autograd Functions that know ``jvp`` and ``vmap``; tangents and second derivatives from formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._functorch_terms import KLDivergence, Noise, Operands, Sample, SquaredError, Term
from vae_fused._philox import draw_key
from vae_fused._terms import ELBOTerms

__all__ = ["elbo_loss", "kl_divergence", "reparameterize", "reparameterize_with_kl", "standard_normal"]


def _mapped_to_front(operands: Operands, dims: Sequence[int | None], size: int) -> list[Any]:
    # An operand that is not mapped is expanded: the kernels read any strides.
    return [
        operand if operand is None else operand.expand(size, *operand.shape) if dim is None else operand.movedim(dim, 0)
        for operand, dim in zip(operands, dims, strict=True)
    ]


def _merged(operands: Operands) -> list[Any]:
    return [operand if operand is None else operand.flatten(0, 1) for operand in operands]


# PyTorch calls jvp with forward-mode AD switched off, which would lose, without an error, the derivative of this
# tangent in an outer jvp. Switched on again, the operands' own tangents have to be taken off.


def _derivatives_of_tangents() -> AbstractContextManager[None]:
    return forward_ad._set_fwd_grad_enabled(True)


def _primals(operands: Operands) -> list[Any]:
    # The level by its number, the only one there is: a compiled jvp enters it without telling Python.
    return [operand if operand is None else forward_ad.unpack_dual(operand, level=0).primal for operand in operands]


class _Value(torch.autograd.Function):
    """The value of a term."""

    @staticmethod
    def forward(term: Term, *operands: Any) -> Tensor:
        return term.value(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.term = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        (grad,) = grads
        if grad is None:
            return (None,) * (1 + len(wanted))
        return None, *_spread(_Gradient.apply(ctx.term, wanted, grad, *ctx.saved_tensors), wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        with _derivatives_of_tangents():
            return ctx.term.tangent(_primals(ctx.saved_tensors), tangents[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], term: Term, *operands: Any) -> tuple[Tensor, int]:
        front = _mapped_to_front(operands, in_dims[1:], info.batch_size)
        many, merges = term.of_many(front)
        value = _Value.apply(many, *(_merged(front) if merges else front))
        dim = term.value_batch_dim
        return value.unflatten(dim, front[0].shape[:2]) if merges else value, dim


class _Gradient(torch.autograd.Function):
    """The gradients of a term that are wanted, and no others."""

    @staticmethod
    def forward(term: Term, wanted: Sequence[bool], grad: Tensor, *operands: Any) -> tuple[Tensor, ...]:
        return tuple(_asked(term.gradient(wanted, grad, *operands), wanted))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.term, ctx.wanted = inputs[:2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # The gradient is linear in the incoming one, with the term's own derivative as its transpose.
        grad, *operands = ctx.saved_tensors
        along = _spread(grads, ctx.wanted)
        of_grad, *of_operands = ctx.needs_input_grad[2:]
        to_grad = ctx.term.tangent(operands, along) if of_grad else None
        to_operands = ctx.term.curvature(grad, operands, along) if any(of_operands) else operands
        needed = (to if asked else None for to, asked in zip(to_operands, of_operands, strict=True))
        return None, None, to_grad, *needed

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        wanted = ctx.wanted
        with _derivatives_of_tangents():
            grad, *operands = _primals(ctx.saved_tensors)
            curvature = _asked(ctx.term.curvature(grad, operands, tangents[3:]), wanted)
            if tangents[2] is None:
                linear = [torch.zeros_like(operand) for operand in _asked(operands, wanted)]
            else:
                linear = _Gradient.apply(ctx.term, wanted, tangents[2], *operands)
            return tuple(a if b is None else a + b for a, b in zip(linear, curvature, strict=True))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        term: Term,
        wanted: Sequence[bool],
        grad: Tensor,
        *operands: Any,
    ) -> tuple[tuple[Tensor, ...], int]:
        grad, *front = _mapped_to_front([grad, *operands], in_dims[2:], info.batch_size)
        many, merges = term.of_many(front)
        dim = term.value_batch_dim
        grad = grad.movedim(0, dim)
        if not merges:
            return _Gradient.apply(many, wanted, grad, *front), 0
        gradients = _Gradient.apply(many, wanted, grad.flatten(dim, dim + 1), *_merged(front))
        return tuple(gradient.unflatten(0, front[0].shape[:2]) for gradient in gradients), 0


def _asked(values: Operands, wanted: Sequence[bool]) -> list[Any]:
    return [value for value, asked in zip(values, wanted, strict=True) if asked]


def _spread(some: Operands, wanted: Sequence[bool]) -> list[Any]:
    remaining = iter(some)
    return [next(remaining) if asked else None for asked in wanted]


# Dynamo does not look into a Function with a jvp or a vmap: it takes these calls into its graph as they are, and the
# tracing below it sees the operators.


@torch.compiler.allow_in_graph
def _squared_error(recon: Tensor, target: Tensor, by_item: bool) -> Tensor:
    return _Value.apply(SquaredError(by_item), recon, target)


@torch.compiler.allow_in_graph
def _kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | None, prior_logvar: Tensor | None, reduction: str
) -> Tensor:
    return _Value.apply(KLDivergence(reduction), mu, logvar, prior_mu, prior_logvar)


@torch.compiler.allow_in_graph
def _noise(key: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _Value.apply(Noise(tuple(size), dtype), key)


@torch.compiler.allow_in_graph
def _sample(mu: Tensor, logvar: Tensor, key: Tensor, num_samples: int | None) -> Tensor:
    return _Value.apply(Sample(num_samples, _noise), mu, logvar, key)


def _averaged(total: Tensor, over: Tensor, reduction: str) -> Tensor:
    if reduction == "batchmean":
        return total / over.shape[0]
    return total / over.numel() if reduction == "mean" else total


def standard_normal(
    key: Tensor,
    size: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """See :func:`vae_fused.standard_normal`."""
    arguments.check_normal_request(key, size, dtype)
    return _noise(key.to(device or key.device), tuple(size), dtype)


def reparameterize(
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
) -> Tensor:
    """See :func:`vae_fused.reparameterize`."""
    arguments.check_sampling(mu, logvar, num_samples, generator, key)
    return _sample(mu, logvar, draw_key(mu.device, generator) if key is None else key, num_samples)


def reparameterize_with_kl(
    mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None, key: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See :func:`vae_fused.reparameterize_with_kl`."""
    return reparameterize(mu, logvar, generator=generator, key=key), kl_divergence(mu, logvar, reduction="sample")


def kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    reduction: str = "batchmean",
) -> Tensor:
    """See :func:`vae_fused.kl_divergence`."""
    arguments.check_kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction)
    # Expanded here, so that autograd sums the gradient of a prior that is shared between elements.
    priors = (prior if prior is None else prior.expand(mu.shape) for prior in (prior_mu, prior_logvar))
    total = _kl_divergence(mu, logvar, *priors, reduction if reduction in ("sample", "none") else "sum")
    return _averaged(total, mu, reduction)


def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    kl: Tensor | None = None,
    beta: float | Tensor = 1.0,
    recon_loss: str = "mse",
    reduction: str = "batchmean",
    return_terms: bool = False,
) -> Tensor | ELBOTerms:
    """See :func:`vae_fused.elbo_loss`.

    The terms are two launches here, not one: each is then folded as its own operands are mapped, and beta, which may be
    mapped too, stays outside the kernels.
    """
    arguments.check_elbo_loss(recon, target, mu, logvar, kl, beta, recon_loss, reduction)
    reconstruction = _averaged(_squared_error(recon, target, reduction == "sample").double(), recon, reduction)
    if kl is not None:
        latent_dtype = kl.dtype
        kl_term = _averaged(kl.double() if reduction == "sample" else kl.sum(dtype=torch.float64), kl, reduction)
    else:
        assert mu is not None and logvar is not None  # established by check_elbo_loss
        latent_dtype = mu.dtype
        kl_term = kl_divergence(mu, logvar, reduction=reduction).double()
    weight = beta.to(device=recon.device, dtype=torch.float64) if isinstance(beta, Tensor) else beta
    dtype = accumulation_dtype(recon.dtype, target.dtype, latent_dtype)
    loss = (reconstruction + weight * kl_term).to(dtype)
    if not return_terms:
        return loss
    return ELBOTerms(loss, reconstruction.detach().to(dtype), kl_term.detach().to(dtype))
