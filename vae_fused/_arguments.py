"""Argument checks in Python: what the kernels check in C++, for the reference path and for tracing.

They are made of those of :mod:`vae_fused._checks`. ``csrc/checks.h`` holds the same checks with the same words for the
compiled operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_fused._checks import (
    FLOATING_DTYPES,
    check_batched,
    check_bool,
    check_choice,
    check_count,
    check_dense,
    check_expands,
    check_floating,
    check_number,
    check_same_device,
    shape_of,
    type_name,
)

REDUCTIONS = ("batchmean", "sum", "sample", "mean")
RECON_LOSSES = ("mse", "l1", "smooth_l1", "bce_with_logits", "bce", "gaussian_nll", "laplace_nll")


def accumulation_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic, losses and KL: float64 if any operand is float64, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def check_latent_pair(mu: Tensor, logvar: Tensor) -> None:
    """Raise unless mu and logvar are one posterior: same shape, dtype and device, with a batch dimension."""
    check_batched("mu", mu)
    check_dense("logvar", logvar)
    if logvar.dtype != mu.dtype:
        raise TypeError(f"logvar must have the dtype of mu, {mu.dtype}, got {logvar.dtype}")
    if logvar.shape != mu.shape:
        raise ValueError(f"logvar must have the shape of mu, {shape_of(mu)}, got {shape_of(logvar)}")
    check_same_device("logvar", logvar, "mu", mu)


def check_prior(name: str, prior: Tensor | None, mu: Tensor, mu_name: str = "mu") -> None:
    """Raise unless the prior parameter is absent or expands to the shape of mu with its dtype and device.

    ``mu_name`` is what the caller calls ``mu``.
    """
    if prior is None:
        return
    check_dense(name, prior)
    if prior.dtype != mu.dtype:
        raise TypeError(f"{name} must have the dtype of {mu_name}, {mu.dtype}, got {prior.dtype}")
    check_same_device(name, prior, mu_name, mu)
    check_expands(name, prior, mu_name, mu)


def check_key(key: Tensor) -> None:
    """Raise unless ``key`` is a uint64 tensor whose last dimension holds (seed, offset)."""
    check_dense("key", key)
    if key.dtype != torch.uint64:
        raise TypeError(f"key must be uint64, got {key.dtype}")
    if key.dim() not in (1, 2) or key.shape[-1] != 2:
        raise ValueError(f"key must have shape [2] or [batch, 2], got {shape_of(key)}")


def check_key_for(key: Tensor, batch: int, device: torch.device) -> None:
    """Raise unless ``key`` is one key, or one per batch item, on ``device``."""
    check_key(key)
    if key.dim() == 2 and key.shape[0] != batch:
        raise ValueError(f"key must have shape [2] or [batch, 2] with batch {batch}, got {shape_of(key)}")
    if key.device != device:
        raise ValueError(f"key must be on the device of the samples, {device}, got {key.device}")


def check_noise_source(generator: torch.Generator | None, key: Tensor | None, device: torch.device) -> None:
    """Raise if both sources of noise are given, or the generator is none, or of another device."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if key is not None:
        raise ValueError("generator and key are two sources of the same noise: give one of them, got both")
    if generator.device.type != device.type:
        raise ValueError(f"generator must be on the device of mu, {device}, got {generator.device}")


def check_beta(beta: float | Tensor, recon: Tensor, name: str = "recon") -> None:
    """Raise unless beta is a real number, or a 0-dim floating tensor on the CPU or on the device of recon.

    ``name`` is what the caller calls ``recon``.
    """
    if isinstance(beta, Tensor):
        check_floating("beta", beta)
        if beta.dim() != 0:
            raise ValueError(f"beta must be a float or a 0-dimensional tensor, got shape {shape_of(beta)}")
        if beta.device.type != "cpu" and beta.device != recon.device:
            raise ValueError(f"beta must be on the CPU or on the device of {name}, {recon.device}, got {beta.device}")
    elif isinstance(beta, bool) or not isinstance(beta, (int, float, torch.SymFloat, torch.SymInt)):
        hint = "; its .tensor is one" if isinstance(getattr(beta, "tensor", None), Tensor) else ""
        raise TypeError(f"beta must be a float or a 0-dimensional tensor, got {type_name(beta)}{hint}")


def check_target_shape(recon: Tensor, target: Tensor) -> None:
    """Raise unless target has the shape of recon."""
    if target.shape != recon.shape:
        hint = ", which target.view_as(recon) makes of it" if target.numel() == recon.numel() else ""
        raise ValueError(f"target must have the shape of recon, {shape_of(recon)}, got {shape_of(target)}{hint}")


def check_reconstruction(recon: Tensor, target: Tensor) -> None:
    """Raise unless recon is floating and batched, and target fits it: the same shape and device, floating or uint8."""
    check_batched("recon", recon)
    check_dense("target", target)
    if target.dtype not in (torch.uint8, *FLOATING_DTYPES):
        raise TypeError(f"target must be uint8, float16, bfloat16, float32 or float64, got {target.dtype}")
    check_target_shape(recon, target)
    check_same_device("target", target, "recon", recon)


def check_target_scale(target: Tensor, scale: float, shift: float) -> None:
    """Raise unless scale and shift are numbers that have bytes to read, or leave the target as it is."""
    check_number("target_scale", scale)
    check_number("target_shift", shift)
    if target.dtype != torch.uint8 and (scale != 1.0 or shift != 0.0):
        raise ValueError(
            f"target_scale and target_shift say how a uint8 target is read, got a target of {target.dtype}"
        )


def check_inplace(inplace: bool, reduction: str) -> None:
    """Raise unless ``inplace`` is a bool, and leaves a gradient that one number can correct where it is True."""
    check_bool("inplace", inplace)
    if inplace and reduction == "sample":
        raise ValueError(
            "reduction must not be sample with inplace=True: each item has an incoming gradient of its own, "
            "which is not known before the backward"
        )


def check_kl_source(
    recon: Tensor, mu: Tensor | None, logvar: Tensor | None, kl: Tensor | None, reduction: str, name: str = "recon"
) -> None:
    """Raise unless the KL comes from exactly one place: from mu and logvar, or from the per-item ``kl``.

    ``name`` is what the caller calls ``recon``, which has the batch size and the device.
    """
    if kl is None:
        if mu is None or logvar is None:
            one = "logvar without mu" if mu is None else "mu without logvar"
            got = "none of them" if mu is None and logvar is None else one
            raise ValueError(f"the KL needs both mu and logvar, or kl, got {got}")
        check_latent_pair(mu, logvar)
        check_same_device("mu", mu, name, recon)
        if mu.shape[0] != recon.shape[0]:
            raise ValueError(f"mu must have the batch size of {name}, {recon.shape[0]}, got {mu.shape[0]}")
        return
    if mu is not None or logvar is not None:
        raise ValueError("kl replaces mu and logvar: give kl, or mu and logvar, got both")
    check_floating("kl", kl)
    if reduction == "mean":
        raise ValueError(
            "kl cannot be given with reduction='mean': the number of latent elements is unknown; give mu and logvar"
        )
    if kl.dim() != 1 or kl.shape[0] != recon.shape[0]:
        hint = ": that of every item, as kl_divergence gives it with reduction='sample'" if kl.dim() == 0 else ""
        raise ValueError(f"kl must have the shape [batch] of {name}, [{recon.shape[0]}], got {shape_of(kl)}{hint}")
    check_same_device("kl", kl, name, recon)


# The whole check of each operator, in the order in which its arguments stand.


def check_normal_request(key: Tensor, size: Sequence[int], dtype: torch.dtype) -> None:
    """Everything that ``standard_normal`` asks of its arguments."""
    check_key(key)
    if not isinstance(size, Sequence):
        raise TypeError(f"size must be a sequence of integers, got {type_name(size)}")
    for length in size:
        if isinstance(length, bool) or not isinstance(length, (int, torch.SymInt)):
            raise TypeError(f"size must hold integers, got {type_name(length)}")
        if length < 0:
            raise ValueError(f"size must not be negative, got {list(size)}")
    if dtype not in FLOATING_DTYPES:
        raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
    if key.dim() == 2 and (not size or size[0] != key.shape[0]):
        raise ValueError(f"size must begin with the number of keys, {key.shape[0]}, got {list(size)}")


def check_sampling(
    mu: Tensor, logvar: Tensor, num_samples: int | None, generator: torch.Generator | None, key: Tensor | None
) -> None:
    """Everything that ``reparameterize`` and ``reparameterize_with_kl`` ask of their arguments."""
    check_latent_pair(mu, logvar)
    check_count("num_samples", num_samples, optional=True)
    check_noise_source(generator, key, mu.device)
    if key is not None:
        check_key_for(key, mu.shape[0], mu.device)


def check_kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | None, prior_logvar: Tensor | None, reduction: str
) -> None:
    """Everything that ``kl_divergence`` asks of its arguments."""
    check_latent_pair(mu, logvar)
    check_prior("prior_mu", prior_mu, mu)
    check_prior("prior_logvar", prior_logvar, mu)
    check_choice("reduction", reduction, (*REDUCTIONS, "none"))


def check_elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None,
    logvar: Tensor | None,
    kl: Tensor | None,
    beta: float | Tensor,
    recon_loss: str,
    reduction: str,
    target_scale: float,
    target_shift: float,
) -> None:
    """Everything that ``elbo_loss`` asks of its arguments."""
    check_reconstruction(recon, target)
    check_target_scale(target, target_scale, target_shift)
    check_choice("recon_loss", recon_loss, RECON_LOSSES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_kl_source(recon, mu, logvar, kl, reduction)
    check_beta(beta, recon)
