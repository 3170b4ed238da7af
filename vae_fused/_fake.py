"""Shapes, dtypes and strides of the operators' results, for tracing: what ``torch.compile`` and ``meta`` tensors see.

Each function mirrors the allocation in ``csrc``, and makes the same checks as the kernels. A gradient that
``output_mask`` does not ask for is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused._arguments import accumulation_dtype
from vae_fused._arguments_posterior import check_mask, check_scale, check_temperature
from vae_fused._fake_objective import OBJECTIVE_FAKES
from vae_fused._fake_output_layer import OUTPUT_LAYER_FAKES
from vae_fused._fake_results import like_if, reduced
from vae_fused._packed_moments import check_moments, check_prior_moments


def _samples_like(mu: Tensor, num_samples: int | None) -> Tensor:
    one = torch.empty_like(mu)
    if num_samples is None:
        return one
    return mu.new_empty_strided((num_samples, *mu.shape), (mu.numel(), *one.stride()))


def _new_key(mu: Tensor) -> Tensor:
    return mu.new_empty(2, dtype=torch.uint64)


def _new_kl(mu: Tensor) -> Tensor:
    return mu.new_empty(mu.shape[0], dtype=accumulation_dtype(mu.dtype))


def _check_posterior(
    mu: Tensor,
    parameterization: str = "logvar",
    epsilon: float = 0.0,
    logvar_min: float | None = None,
    logvar_max: float | None = None,
    clamp: str = "hard",
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> None:
    if (logvar_min is None) != (logvar_max is None):
        raise ValueError("logvar_clamp must be (low, high), got one bound")
    bounds = None if logvar_min is None or logvar_max is None else (logvar_min, logvar_max)
    check_scale(parameterization, epsilon, bounds, clamp, mu.dtype)
    check_mask(mask, mu)
    check_temperature(temperature)


def _standard_normal(key: Tensor, size: Sequence[int], *, dtype: torch.dtype) -> Tensor:
    arguments.check_normal_request(key, size, dtype)
    return key.new_empty(size, dtype=dtype)


def _reparameterize(
    mu: Tensor, logvar: Tensor, key: Tensor, *, num_samples: int | None = None, **posterior: Any
) -> Tensor:
    arguments.check_sampling(mu, logvar, num_samples, None, key)
    _check_posterior(mu, **posterior)
    return _samples_like(mu, num_samples)


def _reparameterize_generator(
    mu: Tensor,
    logvar: Tensor,
    *,
    generator: torch.Generator | None = None,
    num_samples: int | None = None,
    **posterior: Any,
) -> tuple[Tensor, Tensor]:
    arguments.check_sampling(mu, logvar, num_samples, generator, None)
    _check_posterior(mu, **posterior)
    return _samples_like(mu, num_samples), _new_key(mu)


def _reparameterize_with_kl(mu: Tensor, logvar: Tensor, key: Tensor, **posterior: Any) -> tuple[Tensor, Tensor]:
    arguments.check_sampling(mu, logvar, None, None, key)
    _check_posterior(mu, **posterior)
    return torch.empty_like(mu), _new_kl(mu)


def _reparameterize_with_kl_generator(
    mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None, **posterior: Any
) -> tuple[Tensor, Tensor, Tensor]:
    arguments.check_sampling(mu, logvar, None, generator, None)
    _check_posterior(mu, **posterior)
    return torch.empty_like(mu), _new_kl(mu), _new_key(mu)


def _reparameterize_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor | None,
    logvar: Tensor,
    key: Tensor,
    num_samples: int | None,
    output_mask: Sequence[bool],
    **posterior: Any,
) -> tuple[Tensor | None, Tensor | None]:
    return like_if(output_mask[0], logvar), like_if(output_mask[1], logvar)


def _kl_divergence(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    reduction: str,
    **posterior: Any,
) -> Tensor:
    arguments.check_kl_divergence(mu, logvar, prior_mu, prior_logvar, reduction)
    _check_posterior(mu, **posterior)
    return reduced(mu, reduction, accumulation_dtype(mu.dtype))


def _kl_divergence_backward(
    grad: Tensor,
    output_mask: Sequence[bool],
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    reduction: str,
    **posterior: Any,
) -> tuple[Tensor | None, ...]:
    present = (True, True, prior_mu is not None, prior_logvar is not None)
    return tuple(like_if(wanted and there, mu) for wanted, there in zip(output_mask, present, strict=True))


def _half(moments: Tensor, dim: int) -> Tensor:
    return moments.narrow(dim, 0, moments.shape[dim] // 2)


def _packed_reparameterize_with_kl(
    moments: Tensor, key: Tensor, *, dim: int, logvar_min: float, logvar_max: float
) -> tuple[Tensor, Tensor]:
    check_moments("moments", moments, dim, logvar_min, logvar_max)
    arguments.check_key_for(key, moments.shape[0], moments.device)
    return torch.empty_like(_half(moments, dim)), _new_kl(moments)


def _packed_reparameterize_with_kl_generator(
    moments: Tensor, *, dim: int, logvar_min: float, logvar_max: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    check_moments("moments", moments, dim, logvar_min, logvar_max)
    return torch.empty_like(_half(moments, dim)), _new_kl(moments), _new_key(moments)


def _packed_reparameterize_backward(
    grad_z: Tensor | None, grad_kl: Tensor | None, moments: Tensor, key: Tensor, *packing: Any
) -> Tensor:
    return torch.empty_like(moments)


def _packed_kl_divergence(
    moments: Tensor,
    prior_moments: Tensor | None,
    dim: int,
    logvar_min: float,
    logvar_max: float,
    prior_dim: int,
    prior_logvar_min: float,
    prior_logvar_max: float,
) -> Tensor:
    check_moments("moments", moments, dim, logvar_min, logvar_max)
    if prior_moments is not None:
        check_moments("prior_moments", prior_moments, prior_dim, prior_logvar_min, prior_logvar_max)
        check_prior_moments(prior_moments, prior_dim, moments, dim)
    return _new_kl(moments)


def _packed_kl_divergence_backward(
    grad: Tensor, moments: Tensor, prior_moments: Tensor | None, *packings_and_mask: Any
) -> tuple[Tensor | None, Tensor | None]:
    output_mask = packings_and_mask[-1]
    return like_if(output_mask[0], moments), like_if(output_mask[1], prior_moments)


_FAKES: dict[str, Callable[..., Any]] = {
    "standard_normal": _standard_normal,
    "reparameterize": _reparameterize,
    "reparameterize.generator": _reparameterize_generator,
    "reparameterize_with_kl": _reparameterize_with_kl,
    "reparameterize_with_kl.generator": _reparameterize_with_kl_generator,
    "reparameterize_backward": _reparameterize_backward,
    "kl_divergence": _kl_divergence,
    "kl_divergence_backward": _kl_divergence_backward,
    "packed_reparameterize_with_kl": _packed_reparameterize_with_kl,
    "packed_reparameterize_with_kl.generator": _packed_reparameterize_with_kl_generator,
    "packed_reparameterize_backward": _packed_reparameterize_backward,
    "packed_kl_divergence": _packed_kl_divergence,
    "packed_kl_divergence_backward": _packed_kl_divergence_backward,
    **OBJECTIVE_FAKES,
    **OUTPUT_LAYER_FAKES,
}


def register() -> None:
    """Give every operator its fake. Called once, after the operators are loaded."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"vae_fused::{name}", fake)
