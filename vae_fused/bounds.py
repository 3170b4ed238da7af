"""Importance weighting: log-weights of posterior samples, the bounds made of them, and log p(x)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._arguments import accumulation_dtype
from vae_fused._philox import draw_key
from vae_fused.likelihoods import SQUARED_ERROR, Likelihood

__all__ = ["importance_weighted_bound", "log_weights"]

_KINDS = ("iwae", "miwae", "ciwae", "renyi")
_ESTIMATORS = ("standard", "dreg")
_REDUCTIONS = ("batchmean", "sum", "sample")


def _half_square_sums(samples: Tensor) -> Tensor:
    """½ Σ z² of every sample and item, ``[K, B]``: the KL of N(z, 1), in one fused pass over ``[K, B, ...]``."""
    rows = samples.flatten(0, 1)
    return functional.kl_divergence(rows, rows.new_zeros(()).expand(rows.shape), reduction="sample").view(
        samples.shape[:2]
    )


def _item_sums(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.float64) if values.dim() > 1 else values.double()


def log_likelihoods(decode: Callable[[Tensor], Tensor], likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """Log p(x | z) of samples ``[K, B, ...]`` and data ``[B, ...]``, ``[K, B]``."""
    count = z.shape[0] * z.shape[1]
    values = likelihood(decode(z.flatten(0, 1)), x.expand(z.shape[0], *x.shape).flatten(0, 1))
    if not isinstance(values, Tensor):
        raise TypeError(f"likelihood must give a tensor, got {checks.type_name(values)}")
    if values.shape != (count,):
        raise ValueError(f"likelihood must give one number for each of {count} rows, got {list(values.shape)}")
    return values.view(z.shape[:2])


def log_density_ratios(z: Tensor, noise: Tensor, logvar: Tensor) -> Tensor:
    """Log p(z) - log q(z | x) of samples ``[K, B, ...]``, float64 ``[K, B]``.

    z = mu + sigma * noise, so log q is a function of the noise and logvar: the distance from z to mu, which loses its
    digits where sigma is small, is not taken. With the noise held fixed its gradient in mu and logvar is the total
    one, through z and through the density.
    """
    return _half_square_sums(noise).double() - _half_square_sums(z) + 0.5 * _item_sums(logvar)


def _ratios_of_fixed_posterior(z: Tensor, noise: Tensor, logvar: Tensor) -> Tensor:
    # The same value, with gradients through z alone: the density's own mu and logvar are constants. z - z is zero in
    # value and carries the gradient.
    logvar = logvar.detach().to(noise.dtype)
    distance = noise + (z - z.detach()).to(noise.dtype) * torch.exp(-0.5 * logvar)
    return _half_square_sums(distance).double() - _half_square_sums(z) + 0.5 * _item_sums(logvar)


def log_weights(
    decode: Callable[[Tensor], Tensor],
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: int,
    likelihood: Likelihood = SQUARED_ERROR,
    estimator: str = "standard",
    generator: torch.Generator | None = None,
    key: Tensor | None = None,
) -> Tensor:
    r"""Log importance weights, :math:`\log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x)` with K samples of z.

    Args:
        decode: the decoder, from latents ``[K * B, ...]`` to what ``likelihood`` takes: ``model.decode``.
        x: the data, ``[B, ...]``, floating.
        mu: posterior mean, ``[B, ...]``; float16, bfloat16, float32 or float64.
        logvar: log-variance, same shape, dtype and device.
        num_samples: K.
        likelihood: log p(x | z): :class:`vae_fused.GaussianLikelihood` (default, of variance ½),
            :class:`vae_fused.BernoulliLikelihood`, or a function of decoder output and data, both ``[K * B, ...]``,
            that gives ``[K * B]``.
        estimator: ``"standard"``, the gradient of the weights; or ``"dreg"``, the doubly reparameterized gradient of
            the encoder for ``importance_weighted_bound(..., kind="iwae")`` and for no other kind. Its expectation is
            the same, and its signal-to-noise ratio grows with K instead of falling. First derivatives only;
            ``torch.compile`` takes it from torch 2.13 on, because it uses a hook.
        generator: as for :func:`vae_fused.reparameterize`.
        key: as for :func:`vae_fused.reparameterize`.

    Returns:
        ``[K, B]`` in nats, float32 (float64 if an operand is), differentiable in ``mu``, ``logvar``, ``x`` and what
        ``decode`` uses.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that do not fit, ``num_samples`` below 1, an unknown ``estimator``, both
            ``generator`` and ``key``, or a likelihood that does not give one number for each row.

    Example:
        >>> model = mlp_vae(6, latent_dim=2, hidden_dims=(8,))
        >>> x = torch.rand(4, 6)
        >>> weights = log_weights(model.decode, x, *model.encode(x), num_samples=5)
        >>> (-importance_weighted_bound(weights, "iwae")).backward()

    Source: Burda et al. 2015 (arXiv:1509.00519), section 3; ``"dreg"``: Tucker et al. 2018 (arXiv:1810.04152).
    """
    checks.check_callable("decode", decode)
    checks.check_batched("x", x)
    checks.check_count("num_samples", num_samples)
    checks.check_callable("likelihood", likelihood)
    checks.check_choice("estimator", estimator, _ESTIMATORS)
    arguments.check_sampling(mu, logvar, num_samples, generator, key)
    if x.shape[0] != mu.shape[0]:
        raise ValueError(f"x must have the batch size of mu, {mu.shape[0]}, got {x.shape[0]}")
    if key is None:
        key = draw_key(mu.device, generator)
    z = functional.reparameterize(mu, logvar, num_samples=num_samples, key=key)
    noise = _noise_of(z, key)
    if estimator == "standard":
        ratios = log_density_ratios(z, noise, logvar)
    else:
        ratios = _ratios_of_fixed_posterior(z, noise, logvar)
    likelihoods = log_likelihoods(decode, likelihood, x, z)
    weights = (likelihoods + ratios).to(accumulation_dtype(likelihoods.dtype, mu.dtype))
    if estimator == "dreg" and z.requires_grad:
        # The bound brings the normalized weight to the gradient of z once; the doubly reparameterized gradient has it
        # squared. The decoder's own gradient does not pass here.
        normalized = weights.detach().softmax(0).view(*z.shape[:2], *[1] * (z.dim() - 2))
        z.register_hook(lambda gradient: (gradient * normalized).to(gradient.dtype))
    return weights


def _noise_of(z: Tensor, key: Tensor) -> Tensor:
    """The noise that ``reparameterize(num_samples=K, key=key)`` used for z, ``[K, B, ...]``, not rounded to halves."""
    dtype = accumulation_dtype(z.dtype)
    if key.dim() == 1:
        return functional.standard_normal(key, z.shape, dtype=dtype)
    return functional.standard_normal(key, (z.shape[1], z.shape[0], *z.shape[2:]), dtype=dtype).transpose(0, 1)


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def _log_power_mean(log_weights: Tensor, exponent: float) -> Tensor:
    """1/e log mean w^e for any e; of e = 0 its limit, the mean of log w."""
    if exponent == 0.0:
        return log_weights.mean(0)
    # Relative to the largest w^e, and with expm1 and log1p: the limit e -> 0 divides a difference by e.
    log_weights_detached = log_weights.detach()
    largest = log_weights_detached.amax(0) if exponent > 0 else log_weights_detached.amin(0)
    largest = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    return largest + torch.log1p(torch.expm1(exponent * (log_weights - largest)).mean(0)) / exponent


def _check_option(name: str, value: float | int | None, kind: str, belongs_to: str) -> None:
    if kind == belongs_to and value is None:
        raise ValueError(f"kind={kind!r} needs {name}")
    if kind != belongs_to and value is not None:
        raise ValueError(f"{name} belongs to kind={belongs_to!r}, got kind={kind!r}")


def importance_weighted_bound(
    log_weights: Tensor,
    kind: str = "iwae",
    *,
    groups: int | None = None,
    elbo_weight: float | None = None,
    alpha: float | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    r"""A bound of log p(x) from log importance weights; its negative is a loss.

    With :math:`w_k` the K weights of an item:

    - ``"iwae"``: :math:`\log \frac1K \sum_k w_k`;
    - ``"miwae"``: the mean of M IWAE bounds, of K/M samples each;
    - ``"ciwae"``: :math:`\beta \frac1K \sum_k \log w_k + (1 - \beta) \log \frac1K \sum_k w_k`;
    - ``"renyi"``: :math:`\frac1{1-\alpha} \log \frac1K \sum_k w_k^{1-\alpha}`; of α = 1 the limit, the ELBO. α = 0 is
      IWAE; below 0 it is no lower bound of log p(x).

    Args:
        log_weights: ``[K, B]``, as from :func:`log_weights`.
        kind: ``"iwae"``, ``"miwae"``, ``"ciwae"`` or ``"renyi"``.
        groups: of ``"miwae"``: M, which divides K; consecutive samples are a group.
        elbo_weight: of ``"ciwae"``: β, from 0 (IWAE) to 1 (the ELBO).
        alpha: of ``"renyi"``: α, any finite number.
        reduction: ``"batchmean"`` (default), ``"sum"``, or ``"sample"`` (``[B]``).

    Returns:
        The bound in nats, float32 (float64 for float64), differentiable; computed in float64.

    Raises:
        TypeError: ``log_weights`` is not a floating tensor, or an option of a wrong type.
        ValueError: ``log_weights`` is not ``[K, B]`` or has no sample, an unknown ``kind`` or ``reduction``, an option
            that is missing, out of range or of another kind.

    Example:
        >>> importance_weighted_bound(torch.tensor([[0.0], [math.log(3.0)]])).exp()
        tensor(2.)

    Source: Burda et al. 2015 (arXiv:1509.00519), equation 8; Rainforth et al. 2018 (arXiv:1802.04537), section 5;
    Li and Turner 2016 (arXiv:1602.02311), section 4.1.
    """
    checks.check_floating("log_weights", log_weights)
    if log_weights.dim() != 2:
        raise ValueError(f"log_weights must have shape [samples, batch], got {list(log_weights.shape)}")
    if log_weights.shape[0] < 1:
        raise ValueError(f"log_weights must hold at least one sample, got {list(log_weights.shape)}")
    checks.check_choice("kind", kind, _KINDS)
    checks.check_choice("reduction", reduction, _REDUCTIONS)
    _check_option("groups", groups, kind, "miwae")
    _check_option("elbo_weight", elbo_weight, kind, "ciwae")
    _check_option("alpha", alpha, kind, "renyi")
    weights = log_weights.double()
    if groups is not None:
        _check_groups(groups, log_weights.shape[0])
        items = _log_mean_exp(weights.unflatten(0, (groups, -1)).transpose(0, 1)).mean(0)
    elif elbo_weight is not None:
        checks.check_number("elbo_weight", elbo_weight)
        if not 0.0 <= elbo_weight <= 1.0:
            raise ValueError(f"elbo_weight must be from 0 to 1, got {elbo_weight}")
        items = _log_mean_exp(weights)
        if elbo_weight != 0:  # times 0, the mean of a weight of zero would be no number
            items = elbo_weight * weights.mean(0) + (1.0 - elbo_weight) * items
    elif alpha is not None:
        checks.check_number("alpha", alpha)
        if not -math.inf < alpha < math.inf:  # Dynamo traces comparisons, and no isfinite
            raise ValueError(f"alpha must be finite, got {alpha}")
        items = _log_power_mean(weights, 1.0 - alpha)
    else:
        items = _log_mean_exp(weights)
    total = items if reduction == "sample" else items.sum() if reduction == "sum" else items.mean()
    return total.to(accumulation_dtype(log_weights.dtype))


def _check_groups(groups: int, num_samples: int) -> None:
    checks.check_count("groups", groups)
    if num_samples % groups:
        raise ValueError(f"groups must divide the number of samples, {num_samples}, got {groups}")
