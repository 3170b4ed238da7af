"""A whole training step of a standard VAE: what part of it the objective is, and what a faster one is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import vae_fused as vf
from cases import FACES, MNIST, Case
from comparison import compare_apart
from results import TrainingStep
from rivals import EAGER
from timing import Measurement, interleave, steady_sampler

_MOST_ROUNDS = 1000
_OBJECTIVE = "objective"


@dataclass(frozen=True)
class Model:
    """A model, the shape of one item of its data, and the objective's case at its shapes."""

    name: str
    build: Callable[[], vf.VAE]
    item: tuple[int, ...]
    case: Case

    @property
    def batch(self) -> int:
        """Items in a batch."""
        return self.case.shapes.latents[0]


MODELS = (
    Model("MLP VAE 784-400-20", lambda: vf.mlp_vae(784, 20, (400,)), (784,), Case(_OBJECTIVE, MNIST)),
    Model(
        "convolutional VAE, 64x64 RGB",
        lambda: vf.conv_vae((3, 64, 64), latent_dim=64, channels=(32, 64, 128, 256)),
        (3, 64, 64),
        Case(_OBJECTIVE, FACES),
    ),
)


def _eager_loss(model: vf.VAE, x: Tensor) -> Tensor:
    mu, logvar = model.encode(x)
    std = torch.exp(0.5 * logvar)
    z = mu + std * torch.randn_like(std)
    return EAGER["loss"](model.decode(z), x, mu, logvar)[0]


def _our_loss(model: vf.VAE, x: Tensor) -> Tensor:
    return model.loss(x).loss


def _step(model: Model, loss: Callable[[vf.VAE, Tensor], Tensor], compiled: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    network = model.build()
    x = torch.rand(model.batch, *model.item)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    objective = torch.compile(loss, dynamic=False, fullgraph=True) if compiled else loss

    def step() -> None:
        optimizer.zero_grad()
        objective(network, x).backward()
        optimizer.step()

    step()
    return step


def measure_training_step(model: Model, seconds: float) -> TrainingStep:
    """The step with both objectives, eager and compiled as a whole, in turns; then the objective alone."""
    torch._dynamo.reset()
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    samplers = {
        "ours": steady_sampler(_step(model, _our_loss, compiled=False)),
        "eager": steady_sampler(_step(model, _eager_loss, compiled=False)),
        "compile": steady_sampler(_step(model, _eager_loss, compiled=True)),
        "compile, ours": steady_sampler(_step(model, _our_loss, compiled=True)),
    }
    times = {name: Measurement.of(values) for name, values in interleave(samplers, seconds, _MOST_ROUNDS).items()}
    row = compare_apart(model.case, seconds / 2).row
    objective = {name: row.time(name, "step") for name in ("ours", "eager", "compile")}
    return TrainingStep(
        model.name, model.batch, times, {name: value for name, value in objective.items() if value is not None}
    )
