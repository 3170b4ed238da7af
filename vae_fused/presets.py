"""The losses of other projects, and what their betas mean beside each other; docs/scales.md derives both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vae_fused import _checks as checks
from vae_fused._terms import ELBOTerms
from vae_fused.modules import FusedELBOLoss

__all__ = ["PRESETS", "SCALES", "PeerELBOLoss", "Preset", "Scale", "convert_beta", "like"]


class Scale(NamedTuple):
    """What one item's loss is made of: ``recon * R + beta * kl * K``, R and K being sums over the item's elements.

    Attributes:
        recon: factor of the reconstruction.
        recon_mean: whether the reconstruction is divided by the number of data elements of an item.
        kl: factor of the KL.
        kl_mean: what the KL is divided by: nothing, the latent elements of an item, or its latent positions (the
            elements of one channel).
    """

    recon: float = 1.0
    recon_mean: bool = False
    kl: float = 1.0
    kl_mean: Literal["elements", "positions"] | None = None

    def recon_weight(self, event_numel: int) -> float:
        """The factor of the summed reconstruction of an item with so many data elements."""
        return _divided(self.recon, event_numel) if self.recon_mean else self.recon

    def kl_weight(self, latent_numel: int, latent_positions: int) -> float:
        """The factor of the summed KL of an item with so many latent elements, and so many in each channel."""
        if self.kl_mean is None:
            return self.kl
        return _divided(self.kl, latent_numel if self.kl_mean == "elements" else latent_positions)


def _divided(factor: float, count: int) -> float:
    return factor / count if count else math.nan  # the mean of nothing, as PyTorch has it


SCALES = MappingProxyType(
    {
        "sum": Scale(),
        "batchmean": Scale(),
        "half_mse": Scale(recon=0.5),
        "mean_recon": Scale(recon_mean=True),
        "mean": Scale(recon_mean=True, kl_mean="elements"),
        "per_position": Scale(recon_mean=True, kl=2.0, kl_mean="positions"),
    }
)


class Preset(NamedTuple):
    """The loss of a project.

    Attributes:
        scales: the scale of each reconstruction loss that the project has; the first is its default.
        reduction: over the batch, ``"sum"`` or ``"batchmean"``.
        beta: the project's own weight of the KL.
        settings: what else :class:`vae_fused.FusedELBOLoss` is given.
    """

    scales: Mapping[str, Scale]
    reduction: str = "batchmean"
    beta: float = 1.0
    settings: Mapping[str, Any] = MappingProxyType({})


_SUM, _MEAN_RECON, _MEAN, _PER_POSITION = (SCALES[name] for name in ("sum", "mean_recon", "mean", "per_position"))

_OPTIMAL_SIGMA = {"log_sigma": "optimal", "log_sigma_floor": -6.0, "full": True}

PRESETS = MappingProxyType(
    {
        "pytorch-examples": Preset({"bce": _SUM}, reduction="sum"),
        "pythae": Preset({"mse": SCALES["half_mse"], "bce": _SUM}),
        "pytorch-vae": Preset({"mse": _MEAN_RECON}, beta=0.00025),
        "latent-diffusion": Preset({"laplace_nll": _SUM}, beta=1e-6, settings={"log_sigma": "learned"}),
        "lightning-bolts": Preset({"mse": _MEAN}, beta=0.1),
        "disentangling-vae": Preset({"bce": _SUM, "mse": Scale(recon=255.0), "l1": Scale(recon=3.0)}, beta=4.0),
        "sigma-vae": Preset({"gaussian_nll": _SUM}, reduction="sum", settings=_OPTIMAL_SIGMA),
        "stable-audio": Preset({"l1": _PER_POSITION, "mse": _PER_POSITION}, beta=1e-4),
    }
)


class PeerELBOLoss(FusedELBOLoss):
    """The loss of another project, in one kernel call; made by :meth:`vae_fused.FusedELBOLoss.like`.

    ``beta`` is the weight of the KL on the project's own scale. With ``return_terms`` both terms are on that scale, so
    that ``loss == reconstruction + beta * kl`` holds and each is the number that the project logs.
    """

    def __init__(self, name: str, beta: float | Tensor, recon_loss: str, **settings: Any) -> None:
        preset = PRESETS[name]
        super().__init__(beta, recon_loss, preset.reduction, **settings)
        self.name = name
        self.scale = preset.scales[recon_loss]

    def forward(  # type: ignore[override]  # the signature is that of FusedELBOLoss
        self,
        recon: Tensor,
        target: Tensor,
        mu: Tensor | None = None,
        logvar: Tensor | None = None,
        **arguments_of_call: Any,
    ) -> Tensor | ELBOTerms:
        """As :meth:`vae_fused.FusedELBOLoss.forward`, on the scale of the project.

        Raises:
            ValueError: also for ``kl`` where the project's KL is a mean, since the number of elements is unknown.
        """
        checks.check_tensor("recon", recon)
        if mu is not None:
            checks.check_tensor("mu", mu)
        elif self.scale.kl_mean is not None and arguments_of_call.get("kl") is not None:
            raise ValueError(
                f"the KL of {self.name} is a mean over latent {self.scale.kl_mean}, whose number kl does not tell: "
                "give mu and logvar"
            )
        result = super().forward(recon, target, mu, logvar, **arguments_of_call)
        if isinstance(result, ELBOTerms) and (factor := self._kl_weight(mu)) != 1.0:
            return result._replace(kl=factor * result.kl)
        return result

    def _weights(self, recon: Tensor, mu: Tensor | None) -> tuple[float, Tensor]:
        recon_weight = self.recon_weight * self.scale.recon_weight(recon.shape[1:].numel())
        kl_weight = self._kl_weight(mu)
        return recon_weight, self._beta if kl_weight == 1.0 else self._beta * kl_weight

    def _kl_weight(self, mu: Tensor | None) -> float:
        # Shapes alone decide, so this is a constant of a trace and no work on a device.
        latent = torch.Size() if mu is None else mu.shape
        return self.scale.kl_weight(latent[1:].numel(), latent[2:].numel())

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"like={self.name!r}, {super().extra_repr()}"


def like(
    name: str, *, beta: float | Tensor | None = None, recon_loss: str | None = None, **settings: Any
) -> PeerELBOLoss:
    """See :meth:`vae_fused.FusedELBOLoss.like`."""
    checks.check_choice("name", name, tuple(PRESETS))
    preset = PRESETS[name]
    if recon_loss is None:
        recon_loss = next(iter(preset.scales))
    checks.check_choice("recon_loss", recon_loss, tuple(preset.scales))
    if "reduction" in settings:
        raise TypeError(f"reduction is the project's, {preset.reduction!r} for {name!r}: it cannot be given")
    settings = {**preset.settings, **settings}
    if isinstance(settings.get("log_sigma"), str) and settings["log_sigma"] == "learned":
        settings["log_sigma"] = torch.nn.Parameter(torch.zeros(()))
    return PeerELBOLoss(name, preset.beta if beta is None else beta, recon_loss, **settings)


def _scale_of(argument: str, name: str) -> Scale:
    checks.check_choice(argument, name, (*SCALES, *PRESETS))
    return SCALES[name] if name in SCALES else next(iter(PRESETS[name].scales.values()))


def convert_beta(
    beta: float,
    from_: str,
    to: str,
    event_numel: int,
    latent_numel: int,
    latent_positions: int | None = None,
) -> float:
    r"""The beta that weighs KL against reconstruction on one scale as the given one does on another.

    On every scale the loss of an item is :math:`a R + \beta b K`, with the reconstruction R and the KL K summed over
    its elements. Two losses have the same optimum when :math:`\beta b / a` is the same, so the result is
    ``beta * (b_from / a_from) / (b_to / a_to)``. The losses themselves, and their gradients, then differ by the factor
    ``a_to / a_from``, which a learning rate may have to make up for.

    Args:
        beta: the weight on the scale ``from_``.
        from_: a scale: ``"sum"`` or ``"batchmean"`` (both terms summed over an item: the ELBO's own scale, and that of
            :func:`vae_fused.elbo_loss`), ``"half_mse"`` (half the squared error, summed), ``"mean_recon"``
            (reconstruction a mean over the data elements, KL summed), ``"mean"`` (each a mean over its own elements),
            ``"per_position"`` (reconstruction a mean; KL without its factor ½, summed over channels, a mean over
            positions). Or a name of :meth:`vae_fused.FusedELBOLoss.like`, for the scale of that project's default loss.
        to: the scale to convert to, likewise.
        event_numel: data elements of one item: 784 for 28×28 pixels.
        latent_numel: latent elements of one item.
        latent_positions: latent elements of one channel, for ``"per_position"``.

    Returns:
        The weight on the scale ``to``.

    Raises:
        TypeError: ``beta`` is not a number, or a size is not an integer.
        ValueError: an unknown scale, a size below 1, or ``"per_position"`` without ``latent_positions``.

    Example:
        >>> convert_beta(1.0, "pythae", "sum", event_numel=784, latent_numel=20)
        2.0
    """
    checks.check_number("beta", beta)
    scales = _scale_of("from_", from_), _scale_of("to", to)
    positions = 1 if latent_positions is None else latent_positions
    for name, size in (("event_numel", event_numel), ("latent_numel", latent_numel), ("latent_positions", positions)):
        checks.check_count(name, size)
    if latent_positions is None and any(scale.kl_mean == "positions" for scale in scales):
        raise ValueError("latent_positions must be given for the scale per_position, got None")
    ours, theirs = (scale.kl_weight(latent_numel, positions) / scale.recon_weight(event_numel) for scale in scales)
    return beta * ours / theirs
