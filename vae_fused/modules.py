"""The objective as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from vae_fused import _arguments as arguments
from vae_fused import _checks as checks
from vae_fused import functional
from vae_fused._arguments_reconstruction import HAVE_SIGMA, check_log_sigma, check_optimal, check_settings
from vae_fused._shaped_loss import shaped_elbo_loss
from vae_fused._terms import ELBOTerms
from vae_fused.shaping import KLShaping, as_shapings

__all__ = ["FusedELBOLoss"]


class ObjectiveModule(nn.Module):
    """What the loss modules share: beta, the reconstruction loss and the reduction."""

    # The reconstruction terms that the module knows.
    recon_losses: tuple[str, ...] = arguments.RECON_LOSSES

    def __init__(self, beta: float | Tensor = 1.0, recon_loss: str = "mse", reduction: str = "batchmean") -> None:
        super().__init__()
        checks.check_choice("recon_loss", recon_loss, self.recon_losses)
        checks.check_choice("reduction", reduction, arguments.REDUCTIONS)
        self.beta = beta
        self.recon_loss = recon_loss
        self.reduction = reduction

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module registers a parameter instead of calling the setter, and refuses a float in its place later.
        if name in ("beta", "_beta"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def beta(self) -> float | Tensor:
        """Weight of the KL: the float that was set, or the tensor."""
        return self._beta.item() if self._beta_is_float else self._beta

    @beta.setter
    def beta(self, value: float | Tensor) -> None:
        arguments.check_beta(value, value if isinstance(value, Tensor) else torch.empty(0))
        # A tensor either way, read when the kernel runs: setting it does not recompile a compiled step. float64, and no
        # buffer, so that neither rounding nor module.half() changes the number.
        self._beta_is_float = not isinstance(value, Tensor)
        self._beta = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"beta={self.beta}, recon_loss={self.recon_loss!r}, reduction={self.reduction!r}"


class FusedELBOLoss(ObjectiveModule):
    """The negative ELBO, reconstruction + beta * KL, as a drop-in for a hand-written VAE loss.

    Args:
        beta: weight of the KL, a float or a 0-dim tensor; ``criterion.beta`` may be set at any time. A tensor stays the
            caller's: the module registers none, be it an ``nn.Parameter``.
        recon_loss: the reconstruction term, ``"mse"`` (the squared error, summed without a factor ½), ``"l1"``,
            ``"smooth_l1"``, ``"bce_with_logits"``, ``"bce"``, ``"gaussian_nll"`` or ``"laplace_nll"``, as for
            :func:`vae_fused.elbo_loss`.
        reduction: ``"batchmean"``, ``"sum"``, ``"sample"`` or ``"mean"``, as for :func:`vae_fused.elbo_loss`.
        target_scale: a ``uint8`` target is read as ``target_scale * byte + target_shift``; ``1 / 255`` makes bytes
            the unit interval.
        target_shift: see ``target_scale``.
        inplace: let the gradient of ``recon`` take the place of ``recon``, whose content is undefined after the call;
            what that asks for is said at :func:`vae_fused.elbo_loss`.
        recon_weight: a factor of the whole reconstruction term.
        full: add the constant of the likelihood.
        smooth_l1_beta: of ``"smooth_l1"``, positive.
        log_sigma: of the likelihoods: a number, ``"optimal"``, or a tensor that the module registers: an
            ``nn.Parameter`` is learned with the model, any other tensor is a buffer. Without it every call has to
            give one.
        log_sigma_floor: a soft bound below, as for :func:`vae_fused.elbo_loss`.
        kl_shaping: :class:`vae_fused.FreeBits`, :class:`vae_fused.Capacity`, or a sequence of them from left to right:
            ``loss`` is then ``reconstruction + beta * shape_kl(kl)``. The terms still report the KL as it is, so that
            ``loss == reconstruction + beta * kl`` holds no more.

    Raises:
        TypeError: ``beta`` is not a number or a floating tensor, a setting that is a number is none, ``inplace`` or
            ``full`` is not a bool, or ``kl_shaping`` is none.
        ValueError: ``beta`` is not a scalar, ``recon_loss`` or ``reduction`` is unknown, ``inplace`` comes with
            ``reduction="sample"`` or ``log_sigma="optimal"``, or a setting is for a term that ``recon_loss`` is not; in
            a call, ``log_sigma`` is missing or given twice.

    Example:
        >>> criterion = FusedELBOLoss(beta=0.5)
        >>> x = torch.zeros(2, 3)
        >>> criterion(x + 1, x, torch.zeros(2, 1), torch.zeros(2, 1))
        tensor(3.)
    """

    log_sigma: float | Tensor | str | None

    def __init__(
        self,
        beta: float | Tensor = 1.0,
        recon_loss: str = "mse",
        reduction: str = "batchmean",
        *,
        target_scale: float = 1,
        target_shift: float = 0,
        inplace: bool = False,
        recon_weight: float = 1,
        full: bool = False,
        smooth_l1_beta: float = 1,
        log_sigma: float | Tensor | str | None = None,
        log_sigma_floor: float | None = None,
        kl_shaping: KLShaping | Sequence[KLShaping] | None = None,
    ) -> None:
        super().__init__(beta, recon_loss, reduction)
        checks.check_number("target_scale", target_scale)
        checks.check_number("target_shift", target_shift)
        arguments.check_inplace(inplace, reduction)
        self.target_scale = target_scale
        self.target_shift = target_shift
        self.inplace = inplace
        check_settings(recon_loss, recon_weight, full, smooth_l1_beta)
        # A log sigma of the calls is not known yet.
        later = log_sigma is None and recon_loss in HAVE_SIGMA
        check_log_sigma(0.0 if later else log_sigma, recon_loss, log_sigma_floor)
        check_optimal(log_sigma, inplace)
        self.recon_weight = recon_weight
        self.full = full
        self.smooth_l1_beta = smooth_l1_beta
        self.log_sigma_floor = log_sigma_floor
        if isinstance(log_sigma, Tensor) and not isinstance(log_sigma, nn.Parameter):
            self.register_buffer("log_sigma", log_sigma)
        else:
            self.log_sigma = log_sigma
        self.kl_shaping = kl_shaping

    @staticmethod
    def like(
        name: str, *, beta: float | Tensor | None = None, recon_loss: str | None = None, **settings: Any
    ) -> FusedELBOLoss:
        """The loss of another project, to the same number: its reconstruction, its scale, its weight of the KL.

        Args:
            name: ``"pytorch-examples"``, ``"pythae"``, ``"pytorch-vae"``, ``"latent-diffusion"``,
                ``"lightning-bolts"``, ``"disentangling-vae"``, ``"sigma-vae"`` or ``"stable-audio"``; docs/scales.md
                has their formulas.
            beta: the weight of the KL on the project's own scale; by default the project's.
            recon_loss: one of the project's reconstruction losses; by default the project's.
            settings: what else the module takes, except for the reduction: ``inplace``, ``target_scale``.

        Returns:
            A :class:`FusedELBOLoss` that gives the project's number; ``kl`` instead of ``mu`` and ``logvar`` is an
            error where the project takes a mean of the KL.

        Raises:
            TypeError: an argument of a wrong type, or one that the module does not have.
            ValueError: an unknown name, or a reconstruction loss that the project does not have.

        Example:
            >>> x = torch.zeros(2, 3)
            >>> FusedELBOLoss.like("pythae")(x + 1, x, torch.zeros(2, 1), torch.zeros(2, 1))
            tensor(1.5000)
        """
        from vae_fused import presets  # which is built upon this module

        return presets.like(name, beta=beta, recon_loss=recon_loss, **settings)

    @property
    def kl_shaping(self) -> tuple[KLShaping, ...]:
        """The shapings from left to right, none where the KL is taken as it is; may be set as in the constructor."""
        return self._kl_shaping

    @kl_shaping.setter
    def kl_shaping(self, value: KLShaping | Sequence[KLShaping] | None) -> None:
        self._kl_shaping = () if value is None else as_shapings("kl_shaping", value)

    def _weights(self, recon: Tensor, mu: Tensor | None) -> tuple[float, Tensor]:
        """The factors of the reconstruction and of the KL that the kernel is given."""
        return self.recon_weight, self._beta

    @overload
    def forward(
        self,
        recon: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: Literal[False] = ...,
        weight: Tensor | None = ...,
        log_sigma: float | Tensor | str | None = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        recon: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: Literal[True],
        weight: Tensor | None = ...,
        log_sigma: float | Tensor | str | None = ...,
    ) -> ELBOTerms: ...
    @overload
    def forward(
        self,
        recon: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: bool,
        weight: Tensor | None = ...,
        log_sigma: float | Tensor | str | None = ...,
    ) -> Tensor | ELBOTerms: ...
    def forward(
        self,
        recon: Tensor,
        target: Tensor,
        mu: Tensor | None = None,
        logvar: Tensor | None = None,
        *,
        kl: Tensor | None = None,
        return_terms: bool = False,
        weight: Tensor | None = None,
        log_sigma: float | Tensor | str | None = None,
    ) -> Tensor | ELBOTerms:
        """The loss of a batch, or with ``return_terms`` its :class:`ELBOTerms`; see :func:`vae_fused.elbo_loss`."""
        if log_sigma is None:
            log_sigma = self.log_sigma
        elif self.log_sigma is not None:
            raise ValueError("log_sigma was given to the module: give it to the module or to the call, got both")
        recon_weight, beta = self._weights(recon, mu)
        settings: dict[str, Any] = {
            "beta": beta,
            "recon_loss": self.recon_loss,
            "reduction": self.reduction,
            "target_scale": self.target_scale,
            "target_shift": self.target_shift,
            "inplace": self.inplace,
            "weight": weight,
            "log_sigma": log_sigma,
            "recon_weight": recon_weight,
            "full": self.full,
            "smooth_l1_beta": self.smooth_l1_beta,
            "log_sigma_floor": self.log_sigma_floor,
        }
        if self._kl_shaping:
            checks.check_bool("return_terms", return_terms)
            terms = shaped_elbo_loss(recon, target, mu, logvar, kl=kl, shaping=self._kl_shaping, **settings)
            return terms if return_terms else terms.loss
        return functional.elbo_loss(recon, target, mu, logvar, kl=kl, return_terms=return_terms, **settings)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        settings = super().extra_repr()
        if (self.target_scale, self.target_shift) != (1.0, 0.0):
            settings += f", target_scale={self.target_scale}, target_shift={self.target_shift}"
        if self.log_sigma is not None and not isinstance(self.log_sigma, Tensor):
            settings += f", log_sigma={self.log_sigma!r}"
        for name, default in (("recon_weight", 1), ("full", False), ("smooth_l1_beta", 1), ("log_sigma_floor", None)):
            if getattr(self, name) != default:
                settings += f", {name}={getattr(self, name)}"
        if self._kl_shaping:
            settings += f", kl_shaping={list(self.kl_shaping)}"
        return f"{settings}, inplace=True" if self.inplace else settings
