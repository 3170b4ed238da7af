"""Python threads: each with a generator of its own, and all with the default one."""

from __future__ import annotations

import threading

import torch
from helpers.comparing import same_bits
from helpers.inputs import images, key_of, latents
from helpers.models import batch, gradients

import vae_fused as vf

TIMEOUT = 60.0
THREADS = 4


def in_threads(function, count=THREADS):
    """The results of function(0), function(1), ..., each from a thread of its own that starts with the others."""
    results, together = {}, threading.Barrier(count)

    def run(index):
        together.wait(TIMEOUT)
        try:
            results[index] = function(index)
        except Exception as error:
            results[index] = error

    # Daemons, so that a deadlock fails the test and does not keep the interpreter alive.
    workers = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIMEOUT)
    assert not any(worker.is_alive() for worker in workers), "deadlock"
    for result in results.values():
        if isinstance(result, Exception):
            raise result
    return [results[index] for index in range(count)]


def steps(index, device):
    """A few steps of sampling and scoring with thread `index`'s own generator, tensors large enough for OpenMP."""
    generator = torch.Generator(device).manual_seed(index)
    made = torch.Generator().manual_seed(100 + index)
    mu, logvar = (torch.randn(64, 1024, generator=made).to(device).requires_grad_() for _ in range(2))
    recon, target = (torch.rand(64, 8192, generator=made).to(device) for _ in range(2))
    recon.requires_grad_()
    results = []
    for _ in range(5):
        z, kl = vf.reparameterize_with_kl(mu, logvar, generator=generator)
        loss = vf.elbo_loss(recon, target, kl=kl) + z.square().mean()
        results += [z.detach(), loss.detach(), *torch.autograd.grad(loss, (mu, logvar, recon))]
    return results


def test_own_generators_give_what_they_give_alone(device):
    alone = [steps(index, device) for index in range(THREADS)]
    together = in_threads(lambda index: steps(index, device))
    assert all(same_bits(*pair) for pair in zip(together, alone, strict=True))


def test_default_generator_never_repeats_noise(device):
    mu, logvar = (torch.zeros(4, 3, device=device) for _ in range(2))
    drawn = in_threads(lambda index: [vf.reparameterize(mu, logvar) for _ in range(200)])
    rows = torch.stack([z.flatten() for samples in drawn for z in samples])
    assert rows.unique(dim=0).shape[0] == 200 * THREADS


def test_one_model_in_several_threads(device):
    model, x = vf.mlp_vae((1, 8, 8), 6, (32,)).to(device), batch(8, device)
    expected = [gradients(model.loss(x, key=key_of(index, 0, device)).loss, model) for index in range(THREADS)]
    found = in_threads(lambda index: gradients(model.loss(x, key=key_of(index, 0, device)).loss, model))
    assert all(same_bits(*pair) for pair in zip(found, expected, strict=True))


def test_backward_in_another_thread_than_the_forward(device):
    tensors = [t.requires_grad_() for t in (*images((64, 512), device=device), *latents((64, 32), device=device))]
    expected = torch.autograd.grad(vf.elbo_loss(*tensors), tensors)
    losses = [vf.elbo_loss(*tensors) for _ in range(THREADS)]
    found = in_threads(lambda index: torch.autograd.grad(losses[index], tensors))
    assert all(same_bits(gradient, expected) for gradient in found)


def test_grad_mode_and_inference_mode_are_each_threads_own(device):
    mu, logvar = (t.requires_grad_() for t in latents((4, 3), device=device))

    def recorded(index):
        with torch.set_grad_enabled(index % 2 == 0):
            return [vf.reparameterize(mu, logvar).requires_grad for _ in range(50)]

    assert in_threads(recorded) == [[index % 2 == 0] * 50 for index in range(THREADS)]
