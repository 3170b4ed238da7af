"""The output layer fused into the loss against the layer followed by the loss: time and memory, both directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import vae_fused as vf
from memory import peak_bytes
from report import markdown_table, seconds
from test_against_rivals import recorded
from timing import Measurement, host_sampler, interleave

_SECONDS = 4.0
_MOST_ROUNDS = 500

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.benchmark(timer=recorded)
@pytest.mark.parametrize(("batch", "width_in", "width_out"), [(128, 400, 784), (4096, 512, 49_152)])
def test_forward_and_backward(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], batch: int, width_in: int, width_out: int
) -> None:
    """All rivals interleaved; one row each. pytest-benchmark is given the rounds of ours."""
    generator = torch.Generator().manual_seed(0)
    hidden, target, kl = (
        torch.randn(*size, generator=generator) for size in ((batch, width_in), (batch, width_out), (batch,))
    )
    weight = torch.randn(width_out, width_in, generator=generator) / width_in**0.5
    bias = torch.randn(width_out, generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    inputs = (*leaves, target, kl)
    torch._dynamo.reset()
    rivals: dict[str, Loss] = {
        "ours": _fused,
        "ours, in two steps": _two_steps,
        "eager": _eager,
        "compile": torch.compile(_eager, dynamic=False, fullgraph=True),
    }
    expected = torch.autograd.grad(_eager(*inputs), leaves)
    for got, value in zip(torch.autograd.grad(_fused(*inputs), leaves), expected, strict=True):
        error = ((got - value).abs().max() / value.abs().max()).item()
        assert error <= 1e-5, f"a gradient of ours is off by {error:.2g} of its largest value"
    del expected, got, value

    steps = {name: _step(loss, inputs) for name, loss in rivals.items()}
    steps["compile"]()  # compiles
    parameters = weight.nbytes + bias.nbytes
    peaks = {name: peak_bytes(step, torch.device("cpu")) - parameters for name, step in steps.items()}
    durations = interleave({name: host_sampler(step) for name, step in steps.items()}, _SECONDS, _MOST_ROUNDS)
    times = {name: Measurement.of(values) for name, values in durations.items()}
    lines = [
        [
            name,
            f"{seconds(time.minimum)} ({seconds(time.median)})",
            f"{time.minimum / times['ours'].minimum:.2f}x ({time.median / times['ours'].median:.2f}x)",
            f"{peaks[name] / 1e6:.4g}",
            f"{peaks[name] / peaks['ours']:.3g}x",
        ]
        for name, time in times.items()
    ]
    header = ["rival", "step", "of ours", "peak MB", "of ours"]
    with capsys.disabled():
        print(f"\noutput layer and loss, {batch}x{width_in} -> {width_out}, float32, {times['ours'].rounds} rounds")
        print(markdown_table(header, lines))
        print("peak MB: the most that one step holds beyond its inputs and the gradients of weight and bias.")
    benchmark.extra_info["peak_bytes"] = peaks["ours"]
    recorded.load(durations["ours"])
    benchmark.pedantic(lambda: None, rounds=len(durations["ours"]), iterations=1)
