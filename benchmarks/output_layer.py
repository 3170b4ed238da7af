"""The output layer fused into the loss against the layer followed by the loss: time and memory, both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import vae_fused as vf
from memory import peak_bytes
from results import OutputLayer
from timing import Measurement, host_sampler, interleave

_MOST_ROUNDS = 500
_LARGEST_ERROR = 1e-5

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """A batch of hidden vectors and the Linear that makes the reconstruction of them."""

    batch: int
    width_in: int
    width_out: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.width_in} -> {self.width_out}"


SMALL = Layer(128, 400, 784)
LARGE = Layer(4096, 512, 49_152)


def _two_steps(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, kl: Tensor) -> Tensor:
    return vf.elbo_loss(F.linear(hidden, weight, bias), target, kl=kl)


def _eager(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, kl: Tensor) -> Tensor:
    recon = F.linear(hidden, weight, bias)
    return F.mse_loss(recon, target, reduction="sum") / recon.shape[0] + kl.mean()


def _fused(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, kl: Tensor) -> Tensor:
    return vf.linear_elbo_loss(hidden, weight, bias, target, kl=kl)


def _step(loss: Loss, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def step() -> None:
        loss(*inputs).backward()
        for leaf in inputs[:3]:
            leaf.grad = None

    return step


def _check(inputs: tuple[Tensor, ...]) -> None:
    expected = torch.autograd.grad(_eager(*inputs), inputs[:3])
    for got, value in zip(torch.autograd.grad(_fused(*inputs), inputs[:3]), expected, strict=True):
        error = ((got - value).abs().max() / value.abs().max()).item()
        assert error <= _LARGEST_ERROR, f"a gradient of ours is off by {error:.2g} of its largest value"


def measure_output_layer(layer: Layer, seconds: float) -> tuple[OutputLayer, Mapping[str, list[float]]]:
    """All rivals in turns, after a comparison of the gradients; also the durations of every round."""
    generator = torch.Generator().manual_seed(0)
    hidden, target, kl = (
        torch.randn(*size, generator=generator)
        for size in ((layer.batch, layer.width_in), (layer.batch, layer.width_out), (layer.batch,))
    )
    weight = torch.randn(layer.width_out, layer.width_in, generator=generator) / layer.width_in**0.5
    bias = torch.randn(layer.width_out, generator=generator)
    inputs = (*(tensor.requires_grad_() for tensor in (hidden, weight, bias)), target, kl)
    torch._dynamo.reset()
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    rivals: dict[str, Loss] = {
        "ours": _fused,
        "ours, in two steps": _two_steps,
        "eager": _eager,
        "compile": torch.compile(_eager, dynamic=False, fullgraph=True),
    }
    _check(inputs)
    steps = {name: _step(loss, inputs) for name, loss in rivals.items()}
    steps["compile"]()  # compiles
    # The gradients of weight and bias are wanted, whoever computes them.
    wanted = weight.nbytes + bias.nbytes
    peaks = {name: peak_bytes(step, torch.device("cpu")) - wanted for name, step in steps.items()}
    durations = interleave({name: host_sampler(step) for name, step in steps.items()}, seconds, _MOST_ROUNDS)
    times = {name: Measurement.of(values) for name, values in durations.items()}
    return OutputLayer(str(layer), times, peaks), durations
