"""What only a GPU can show: that nothing waits for it, launches, several streams, many runs, over 2^31 elements."""

from __future__ import annotations

import pytest
import torch
from helpers.inputs import images, key_of, keys_of, latents
from helpers.tolerances import normal_error
from torch.profiler import ProfilerActivity, profile

import vae_fused as vf

pytestmark = pytest.mark.gpu

WARM_UP = 3


@pytest.fixture
def usual_synchronization_afterwards():
    yield
    torch.cuda.set_sync_debug_mode("default")


def operands(batch=128, data=784, latent=20, dtype=torch.float32):
    made = (*images((batch, data), dtype, "cuda"), *latents((batch, latent), dtype, "cuda"))
    return [t.requires_grad_() for t in made]


def objective(recon, target, mu, logvar, **noise):
    z, kl = vf.reparameterize_with_kl(mu, logvar, **noise)
    loss = vf.elbo_loss(recon, target, kl=kl)
    gradients = torch.autograd.grad((loss, z), (recon, mu, logvar), (torch.ones_like(loss), torch.ones_like(z)))
    return z, kl, loss, *gradients


CALLS = {
    "objective": lambda r, t, m, v, beta: objective(r, t, m, v),
    "generator": lambda r, t, m, v, beta: objective(r, t, m, v, generator=torch.cuda.default_generators[0]),
    "beta": lambda r, t, m, v, beta: vf.elbo_loss(r, t, m, v, beta=beta).backward(),
    "scaled": lambda r, t, m, v, beta: (vf.elbo_loss(r, t, m, v) * beta).backward(),
    "terms": lambda r, t, m, v, beta: vf.elbo_loss(r, t, m, v, reduction="sample").sum().backward(),
    "log sigma": lambda r, t, m, v, beta: vf.elbo_loss(
        r, t, m, v, recon_loss="gaussian_nll", log_sigma=beta.detach().requires_grad_()
    ).backward(),
    "scale": lambda r, t, m, v, beta: (
        vf.reparameterize_with_kl(m, v, parameterization="softplus_std")[1].sum().backward()
    ),
    "divergence": lambda r, t, m, v, beta: vf.kl_divergence(m, v, m.detach(), v.detach()).backward(),
    "samples": lambda r, t, m, v, beta: vf.reparameterize(m, v, num_samples=3).sum().backward(),
    "in place": lambda r, t, m, v, beta: (vf.elbo_loss(r * 2, t, m, v, inplace=True) * beta).backward(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_waits_for_the_gpu(call, usual_synchronization_afterwards):
    recon, target, mu, logvar = operands()
    target = target.detach()
    beta = torch.tensor(0.5, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    call(recon, target, mu, logvar, beta)


def launches(function):
    """Kernels, copies and fills of one call, once it is warm."""
    for _ in range(WARM_UP):
        function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        function()
        torch.cuda.synchronize()
    return [event.name for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]


def test_the_objective_is_four_launches():
    recon, target, mu, logvar = operands()
    one, slope = torch.ones((), device="cuda"), torch.ones_like(mu)

    def step():
        z, kl = vf.reparameterize_with_kl(mu, logvar)
        loss = vf.elbo_loss(recon, target.detach(), kl=kl)
        torch.autograd.grad((loss, z), (recon, mu, logvar), (one, slope))

    names = launches(step)
    assert len(names) == 4, names
    assert all("vae_fused" in name for name in names), names


def test_several_streams_at_once():
    made = [(*images((64, 8192), device="cuda"), *latents((64, 1024), device="cuda")) for _ in range(4)]

    def score(index):
        r, t, m, v = (x.detach().requires_grad_() for x in made[index])
        z, kl = vf.reparameterize_with_kl(m, v, key=key_of(index, 0, "cuda"))
        total = vf.kl_divergence(m, v, reduction="sum") + vf.elbo_loss(r, t, m, v) + kl.sum()
        return [z.detach(), total.detach(), *torch.autograd.grad(total, (r, t, m, v))]

    alone = [score(index) for index in range(4)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    for _ in range(25):
        together = []
        for index, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                together.append(score(index))
        torch.cuda.synchronize()
        for found, expected in zip(together, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_graph_beside_its_like_and_beside_a_stream():
    recon, target, mu, logvar = (t.detach() for t in operands(64, 8192, 1024))

    def score():
        return torch.stack([vf.elbo_loss(recon, target, mu, logvar), vf.kl_divergence(mu, logvar)])

    expected = score()
    graphs = []
    for _ in range(2):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = score()
        graphs.append((graph, result, torch.cuda.Stream()))
    torch.cuda.synchronize()
    for _ in range(50):
        for graph, _, stream in graphs:
            with torch.cuda.stream(stream):
                graph.replay()
        beside = score()
        torch.cuda.synchronize()
        assert torch.equal(beside, expected)
        assert all(torch.equal(result, expected) for _, result, _ in graphs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_runs_are_the_same_to_the_bit(dtype):
    tensors = operands(64, 20_001, 515, dtype)
    key = key_of(3, 0, "cuda")
    first = objective(*tensors, key=key)
    for _ in range(99):
        assert all(torch.equal(a, b) for a, b in zip(objective(*tensors, key=key), first, strict=True))


@pytest.mark.parametrize("per_item", [False, True], ids=["one key", "key per item"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_normals_of_the_cpu(dtype, per_item):
    key = keys_of([1, 2**63, 5]) if per_item else key_of(2**64 - 1, 2**64 - 70_000)
    on_cpu = vf.standard_normal(key, (3, 100_003), dtype=dtype)
    on_gpu = vf.standard_normal(key.cuda(), (3, 100_003), dtype=dtype)
    assert (on_gpu.cpu() - on_cpu).abs().max().item() <= normal_error(dtype, "cuda")


# ---- beyond 2^31 elements ------------------------------------------------------------------------------------------

ROWS, COLUMNS = 2**15 + 3, 2**16  # 2^31 + 3 * 2^16
ELEMENTS = ROWS * COLUMNS
TAIL = 4 * COLUMNS


def needs_memory(tensors, bytes_of_element=2):
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    needed = tensors * ELEMENTS * bytes_of_element
    if free < 1.1 * needed:
        pytest.skip(f"needs {1.1 * needed / 1e9:.0f} GB of GPU memory, {free / 1e9:.0f} GB are free")


@pytest.fixture
def released():
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def test_more_elements_than_an_int_counts_are_sampled(released):
    needs_memory(5)
    mu = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16, device="cuda")
    logvar = torch.zeros_like(mu)
    z, kl = vf.reparameterize_with_kl(mu, logvar, key=key_of(1, 7, "cuda"))
    assert (kl == 0).all()
    # The last elements are those of a key that begins there.
    last = vf.standard_normal(key_of(1, 7 + (ELEMENTS - TAIL) // 4, "cuda"), (TAIL,), dtype=torch.bfloat16)
    assert torch.equal(z.view(-1)[-TAIL:], last)
    del z, kl
    grad = torch.full_like(mu, 1.0)
    (to_logvar,) = torch.ops.vae_fused.reparameterize_backward(
        grad, None, None, logvar, key_of(1, 7, "cuda"), None, (False, True)
    )[1:]
    assert torch.equal(to_logvar.view(-1)[-TAIL:], (0.5 * last.float()).bfloat16())


def test_more_elements_than_an_int_counts_are_scored(released):
    needs_memory(3)
    recon = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16, device="cuda")
    recon[-1] = 2.0
    target = torch.ones_like(recon)
    recon.requires_grad_()
    zero = torch.zeros(ROWS, 1, dtype=torch.bfloat16, device="cuda")
    loss = vf.elbo_loss(recon, target, zero, zero, reduction="mean")
    assert loss.item() == 1.0
    (gradient,) = torch.autograd.grad(loss, recon)
    slope = torch.tensor(2.0 / ELEMENTS).bfloat16().item()
    assert gradient[-1].eq(slope).all()
    assert gradient[-2].eq(-slope).all()
    assert gradient[0].eq(-slope).all()
