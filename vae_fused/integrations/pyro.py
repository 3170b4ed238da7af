"""A normal distribution with fused sampling and KL for pyro's models and guides.

from vae_fused.integrations.pyro import Normal

z = pyro.sample("latent", Normal(loc, scale).to_event(1))  # was: pyro.distributions.Normal
"""

from __future__ import annotations

from vae_fused._normal_distribution import Normal as _Normal
from vae_fused.integrations._libraries import PYRO, require

__all__ = ["Normal"]

require("pyro", PYRO)
from pyro.distributions.torch_distribution import TorchDistributionMixin  # noqa: E402


class Normal(_Normal, TorchDistributionMixin):
    """:class:`vae_fused.Normal` with the methods that pyro asks of a distribution.

    What ``pyro.distributions.Normal`` is to ``torch.distributions.Normal``: ``to_event``, ``mask``, ``expand_by`` and
    the call that ``pyro.sample`` makes. In a guide, ``TraceMeanField_ELBO`` finds its fused KL.

    Example:
        >>> Normal(torch.zeros(3), torch.ones(3)).to_event(1).event_shape
        torch.Size([3])
    """
