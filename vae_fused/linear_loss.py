"""The decoder's last Linear and the objective as one module, beside the function that it calls."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from vae_fused import _checks as checks
from vae_fused._arguments_linear import LINEAR_RECON_LOSSES
from vae_fused._terms import ELBOTerms
from vae_fused.linear_objective import linear_elbo_loss
from vae_fused.modules import ObjectiveModule

__all__ = ["FusedLinearELBOLoss", "linear_elbo_loss"]


class FusedLinearELBOLoss(ObjectiveModule):
    """A decoder's last Linear and the negative ELBO of its output, in one: see :func:`linear_elbo_loss`.

    Takes the place of ``nn.Linear(in_features, out_features)`` followed by :class:`FusedELBOLoss`. ``weight`` and
    ``bias`` have the names, shapes and initialisation of ``nn.Linear``, so its ``state_dict`` fits.

    Args:
        in_features: H, the width of ``hidden``.
        out_features: D, the width of the reconstruction.
        bias: whether there is one, True by default.
        beta: weight of the KL, a float or a 0-dim tensor; ``criterion.beta`` may be set at any time.
        recon_loss: ``"mse"``, ``"l1"``, ``"smooth_l1"`` or ``"bce_with_logits"``, as for :func:`elbo_loss`.
        reduction: ``"batchmean"``, ``"sum"``, ``"sample"`` or ``"mean"``, as for :func:`elbo_loss`.
        chunk: rows in a chunk, as for :func:`linear_elbo_loss`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        TypeError: ``beta`` is not a number or a floating tensor, a size or ``chunk`` is not an integer, ``bias`` is not
            a bool, or ``dtype`` is not floating.
        ValueError: ``beta`` is not a scalar, a size is negative, ``chunk`` is below 1, or ``recon_loss`` or
            ``reduction`` is unknown; in a call, also a ``hidden`` that is not ``[B, ..., in_features]``.

    Example:
        >>> output = FusedLinearELBOLoss(400, 784)
        >>> hidden, x, mu, logvar = torch.rand(8, 400), torch.rand(8, 784), torch.zeros(8, 20), torch.zeros(8, 20)
        >>> output(hidden, x, mu, logvar).backward()
        >>> output.reconstruct(hidden).shape
        torch.Size([8, 784])
    """

    recon_losses: tuple[str, ...] = LINEAR_RECON_LOSSES
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        beta: float | Tensor = 1.0,
        recon_loss: str = "mse",
        reduction: str = "batchmean",
        chunk: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(beta, recon_loss, reduction)
        checks.check_count("in_features", in_features, 0)
        checks.check_count("out_features", out_features, 0)
        checks.check_bool("bias", bias)
        checks.check_count("chunk", chunk, optional=True)
        if dtype is not None and dtype not in checks.FLOATING_DTYPES:
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.chunk = chunk
        linear = nn.Linear(in_features, out_features, bias, device, dtype)
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def reset_parameters(self) -> None:
        """Initialise weight and bias again, as ``nn.Linear`` does."""
        nn.Linear.reset_parameters(self)  # type: ignore[arg-type]

    @overload
    def forward(
        self,
        hidden: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: Literal[False] = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        hidden: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: Literal[True],
    ) -> ELBOTerms: ...
    @overload
    def forward(
        self,
        hidden: Tensor,
        target: Tensor,
        mu: Tensor | None = ...,
        logvar: Tensor | None = ...,
        *,
        kl: Tensor | None = ...,
        return_terms: bool,
    ) -> Tensor | ELBOTerms: ...
    def forward(
        self,
        hidden: Tensor,
        target: Tensor,
        mu: Tensor | None = None,
        logvar: Tensor | None = None,
        *,
        kl: Tensor | None = None,
        return_terms: bool = False,
    ) -> Tensor | ELBOTerms:
        """The loss of a batch, or with ``return_terms`` its :class:`ELBOTerms`; see :func:`linear_elbo_loss`."""
        self._check_hidden(hidden)
        return linear_elbo_loss(
            hidden,
            self.weight,
            self.bias,
            target,
            mu,
            logvar,
            kl=kl,
            beta=self._beta,
            recon_loss=self.recon_loss,
            reduction=self.reduction,
            return_terms=return_terms,
            chunk=self.chunk,
        )

    def reconstruct(self, hidden: Tensor) -> Tensor:
        """The layer's output itself, ``F.linear(hidden, weight, bias)``, ``[B, ..., out_features]``."""
        self._check_hidden(hidden)
        return nn.functional.linear(hidden, self.weight, self.bias)

    def _check_hidden(self, hidden: Tensor) -> None:
        checks.check_tensor("hidden", hidden)
        if hidden.shape[-1:] != (self.in_features,):
            raise ValueError(f"hidden must have shape [batch, ..., {self.in_features}], got {list(hidden.shape)}")

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        layer = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{layer}, {super().extra_repr()}, chunk={self.chunk}"
