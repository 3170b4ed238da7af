"""What a call costs beside its arithmetic: the whole objective on 4x4 tensors against as many native autograd nodes.

On so small tensors the kernels take no time, so what is measured is Python, the dispatcher and the autograd engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import vae_fused as vf
from timing import Measurement, host_sampler, interleave

MOST_TIMES_NATIVE = 1.5
_CALLS_A_ROUND = 200
_MOST_ROUNDS = 500

Objective = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _ours(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    z, kl = vf.reparameterize_with_kl(mu, logvar)
    return vf.elbo_loss(recon, target, kl=kl), z


def _native(recon: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    # Not the objective, but its graph: a node with edges to mu and logvar, and a loss with edges to it and to recon.
    z = torch.mul(mu, logvar)
    return torch.nn.functional.mse_loss(recon, z, reduction="sum"), z


def _steps(objective: Objective) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    recon, target, mu, logvar, grad_z = (torch.randn(4, 4, generator=generator) for _ in range(5))
    leaves = [t.requires_grad_() for t in (recon, mu, logvar)]

    def steps() -> None:
        for _ in range(_CALLS_A_ROUND):
            torch.autograd.backward(objective(recon, target, mu, logvar), (None, grad_z))
            for leaf in leaves:
                leaf.grad = None

    return steps


def measure_overhead(seconds: float) -> dict[str, Measurement]:
    """Seconds of one call, forward and backward: "ours" in turns with "native", the graph alone."""
    samplers = {name: host_sampler(_steps(objective)) for name, objective in (("ours", _ours), ("native", _native))}
    return {
        name: Measurement.of([seconds / _CALLS_A_ROUND for seconds in durations])
        for name, durations in interleave(samplers, seconds, _MOST_ROUNDS).items()
    }


def overhead_line(measured: Mapping[str, Measurement]) -> str:
    """The measurement in one line."""
    cells = [f"{name} {1e6 * m.minimum:.1f} us (median {1e6 * m.median:.1f})" for name, m in measured.items()]
    ratio = measured["ours"].minimum / measured["native"].minimum
    return (
        f"call overhead, objective on 4x4, forward + backward: {', '.join(cells)}; ours / native {ratio:.2f}, "
        f"to be at most {MOST_TIMES_NATIVE}"
    )
