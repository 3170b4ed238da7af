"""The objective: one call, one fused kernel."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused._arguments_reconstruction import check_term
from vae_fused._library import calls_operators, may_overwrite, ops
from vae_fused._otherwise import otherwise
from vae_fused._sigma import resolved_log_sigma
from vae_fused._terms import ELBOTerms

__all__ = ["elbo_loss"]


@overload
def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: Literal[False] = ...,
    target_scale: float = ...,
    target_shift: float = ...,
    inplace: bool = ...,
    weight: Tensor | None = ...,
    log_sigma: float | Tensor | str | None = ...,
    recon_weight: float = ...,
    full: bool = ...,
    smooth_l1_beta: float = ...,
    log_sigma_floor: float | None = ...,
) -> Tensor: ...
@overload
def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: Literal[True],
    target_scale: float = ...,
    target_shift: float = ...,
    inplace: bool = ...,
    weight: Tensor | None = ...,
    log_sigma: float | Tensor | str | None = ...,
    recon_weight: float = ...,
    full: bool = ...,
    smooth_l1_beta: float = ...,
    log_sigma_floor: float | None = ...,
) -> ELBOTerms: ...
@overload
def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor | None = ...,
    logvar: Tensor | None = ...,
    *,
    kl: Tensor | None = ...,
    beta: float | Tensor = ...,
    recon_loss: str = ...,
    reduction: str = ...,
    return_terms: bool,
    target_scale: float = ...,
    target_shift: float = ...,
    inplace: bool = ...,
    weight: Tensor | None = ...,
    log_sigma: float | Tensor | str | None = ...,
    recon_weight: float = ...,
    full: bool = ...,
    smooth_l1_beta: float = ...,
    log_sigma_floor: float | None = ...,
) -> Tensor | ELBOTerms: ...
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
    target_scale: float = 1,  # 1.0 would be made an input under dynamic=True, found to be none, and traced again
    target_shift: float = 0,
    inplace: bool = False,
    weight: Tensor | None = None,
    log_sigma: float | Tensor | str | None = None,
    recon_weight: float = 1,
    full: bool = False,
    smooth_l1_beta: float = 1,
    log_sigma_floor: float | None = None,
) -> Tensor | ELBOTerms:
    r"""The negative ELBO, reconstruction + beta * KL, in nats: one pass that also computes the gradients.

    :math:`\sum (x - \hat x)^2 + \beta\,\tfrac12 \sum (\mu^2 + \sigma^2 - 1 - \log\sigma^2)`, or another
    reconstruction term in place of the squared error, which is summed without a factor ½. Sums are bitwise the same
    from run to run and on any number of threads.

    Args:
        recon: the reconstruction, ``[B, ...]``; float16, bfloat16, float32 or float64, any strides.
        target: the data, same shape and device; its dtype may differ from that of ``recon``. Images may stay the
            bytes that they are: of a ``uint8`` target each byte is read as ``target_scale * byte + target_shift``
            inside the kernel, and no float copy of the batch is made.
        mu: posterior mean, ``[B, ...]``.
        logvar: posterior log-variance, same shape, dtype and device as ``mu``.
        kl: the per-item KL ``[B]`` of :func:`reparameterize_with_kl`, in place of ``mu`` and ``logvar``.
        beta: weight of the KL (Higgins et al. 2017); a float, or a 0-dim tensor that is read when the kernel runs.
        recon_loss: the reconstruction term, summed over the elements; with :math:`d = \hat x - x`,

            - ``"mse"``: :math:`d^2`;
            - ``"l1"``: :math:`|d|`;
            - ``"smooth_l1"``: :math:`d^2 / 2\beta_1` where :math:`|d| < \beta_1`, else :math:`|d| - \beta_1 / 2`;
            - ``"bce_with_logits"``: binary cross entropy of logits ``recon``;
            - ``"bce"``: the same of probabilities ``recon``, with logarithms of at least -100, as in PyTorch;
            - ``"gaussian_nll"``: :math:`d^2 / 2\sigma^2 + \log\sigma`;
            - ``"laplace_nll"``: :math:`|d| / \sigma + \log\sigma`.
        reduction: ``"batchmean"`` (sum over events, mean over the batch: the ELBO's own scale), ``"sum"``,
            ``"sample"`` (``[B]``) or ``"mean"`` (each term over its own elements; not with ``kl``).
        return_terms: also return the two terms, from the same launch.
        target_scale: of a ``uint8`` target; ``1 / 255`` makes bytes the unit interval.
        target_shift: of a ``uint8`` target; ``-1.0`` with a scale of ``2 / 255`` makes them -1 to 1.
        inplace: let the gradient of ``recon`` take the place of ``recon``, so that no memory is allocated for it. A
            permission: after the call the content of ``recon`` is undefined, it is rounded to its own dtype before it
            is multiplied by the incoming gradient, and the backward runs once. Use it where ``recon`` comes straight
            from a layer that does not keep its output, such as ``nn.Linear`` or ``nn.Conv2d``; autograd refuses the
            backward of one that does, such as ``nn.Sigmoid``. It changes nothing where ``recon`` needs no gradient,
            without grad mode, in ``torch.compile`` and other traces, in the transforms of ``torch.func``, and on
            devices without kernels.
        weight: a factor of every element of the reconstruction term, broadcastable to ``recon``: floating, or bool for
            a mask. A constant: it has no gradient. An element of weight 0 still has to be finite.
        log_sigma: of ``"gaussian_nll"`` and ``"laplace_nll"``, which need it: a number; a floating tensor that
            broadcasts to ``recon``, with gradient (one element: a learned scale; ``[C, 1, 1]``: one a channel; the
            shape of ``recon``: one an element); or for ``"gaussian_nll"`` ``"optimal"``, the scale that is best for
            this batch, the root of its mean squared error. That and the gradient of a log sigma of several elements
            that is smaller than ``recon`` take a second pass.
        recon_weight: a factor of the whole reconstruction term.
        full: add the constant of the likelihood, ½ log 2π or log 2 an element.
        smooth_l1_beta: :math:`\beta_1`, positive.
        log_sigma_floor: the softplus bound ``floor + softplus(log_sigma - floor)`` takes the place of ``log_sigma``;
            -6 for ``"optimal"``, else none. ``-inf`` is no bound.

    Returns:
        The loss, float32 (float64 if an operand is float64), differentiable in ``recon``, ``target``, ``mu``,
        ``logvar``, ``kl``, ``log_sigma`` and a tensor ``beta``; or with ``return_terms`` an :class:`ELBOTerms`.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or devices that do not fit, an unknown ``recon_loss`` or ``reduction``, both or neither of
            ``kl`` and the latent pair, ``kl`` with ``reduction="mean"``, a scale or shift for a floating target; a
            ``weight`` that requires a gradient; a ``log_sigma``, ``full`` or ``smooth_l1_beta`` for a term that has
            none, no ``log_sigma`` for one that has, a ``smooth_l1_beta`` that is not positive;
            ``"optimal"`` for another term than ``"gaussian_nll"`` or with ``inplace``;
            ``inplace`` with ``reduction="sample"``, with a ``recon`` that is a leaf, overlaps itself or shares memory
            with another operand, or with a ``target`` that requires a gradient.
        RuntimeError: in the backward, with ``inplace``: a second one, one with ``create_graph=True``, or one of a
            ``recon`` that was modified in place after the call.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> elbo_loss(x + 1, x, torch.zeros(2, 1), torch.zeros(2, 1))
        tensor(3.)

    Source: Kingma and Welling 2013 (arXiv:1312.6114), equation 10; ``docs/reconstruction-terms.md`` for the terms.
    """
    checks.check_tensor("recon", recon)
    checks.check_tensor("target", target)
    if return_terms is not False:
        checks.check_bool("return_terms", return_terms)
    if not calls_operators(recon):
        return otherwise(recon).elbo_loss(
            recon,
            target,
            mu,
            logvar,
            kl=kl,
            beta=beta,
            recon_loss=recon_loss,
            reduction=reduction,
            return_terms=return_terms,
            target_scale=target_scale,
            target_shift=target_shift,
            inplace=inplace,
            weight=weight,
            log_sigma=log_sigma,
            recon_weight=recon_weight,
            full=full,
            smooth_l1_beta=smooth_l1_beta,
            log_sigma_floor=log_sigma_floor,
        )
    for name, value in (("mu", mu), ("logvar", logvar), ("kl", kl)):
        if value is not None:
            checks.check_tensor(name, value)
    # What differs from the defaults; every check and every argument of an operator costs a call on small tensors.
    is_squared_error = type(recon_loss) is str and recon_loss == "mse"
    squared_error_alone = is_squared_error and weight is None and log_sigma is None and log_sigma_floor is None
    numbers_are_default = type(recon_weight) is type(smooth_l1_beta) is int and recon_weight == smooth_l1_beta == 1
    settings_are_default = numbers_are_default and full is False
    if not (squared_error_alone and settings_are_default):
        check_term(recon, recon_loss, weight, log_sigma, log_sigma_floor, recon_weight, full, smooth_l1_beta, inplace)
    checks.check_choice("reduction", reduction, arguments.REDUCTIONS)
    arguments.check_beta(beta, recon)
    target_is_as_it_is = type(target_scale) is type(target_shift) is int and (target_scale, target_shift) == (1, 0)
    if not target_is_as_it_is:
        checks.check_number("target_scale", target_scale)
        checks.check_number("target_shift", target_shift)
    if inplace is not False:
        arguments.check_inplace(inplace, reduction)
    beta_value, beta_tensor = 1.0, None
    if isinstance(beta, Tensor):
        beta_tensor = beta
    elif torch.compiler.is_compiling():
        # A product is what Dynamo traces without taking the float's value, so that another beta does not recompile.
        beta_tensor = torch.ones((), dtype=torch.float64, device=recon.device) * beta
    else:
        beta_value = float(beta)
    operands = (recon, target, mu, logvar, kl, beta_value, beta_tensor, recon_loss, reduction)
    settings: dict[str, Any] = {}
    if not target_is_as_it_is:
        settings |= {"target_scale": target_scale, "target_shift": target_shift}
    if not (squared_error_alone and settings_are_default):
        settings |= {"weight": weight, "recon_weight": recon_weight, "full": full, "smooth_l1_beta": smooth_l1_beta}

        def squared_error() -> Tensor:
            no_kl = recon.new_zeros(1, dtype=torch.float32).expand(recon.shape[0])
            return elbo_loss(
                recon,
                target,
                kl=no_kl,
                reduction="sum",
                target_scale=target_scale,
                target_shift=target_shift,
                weight=weight,
            )

        sigma = resolved_log_sigma(log_sigma, log_sigma_floor, squared_error, recon, weight)
        settings["log_sigma" if isinstance(sigma, Tensor) else "log_sigma_value"] = sigma
    if inplace and may_overwrite(recon, target):
        terms = ops.elbo_loss_.default((False,) * 4, *operands, **settings)[:3]
    else:
        terms = ops.elbo_loss.default(*operands, **settings)
    return ELBOTerms(*terms) if return_terms else terms[0]
