"""The gradients made in the forward are handed over once: later backwards, and what others hold, stay right."""

from __future__ import annotations

import pytest
import torch
from helpers import eager
from helpers.inputs import images, latents

import vae_fused as vf

REDUCTIONS = eager.REDUCTIONS


def leaves_of(device, dtype=torch.float64):
    return eager.leaves(*images((4, 3, 5), dtype, device), *latents((4, 6), dtype, device))


def expected_gradients(leaves, reduction, factor=1.0):
    copies = eager.leaves(*leaves)
    return torch.autograd.grad(factor * eager.elbo_terms(*copies, reduction=reduction)[0].sum(), copies)


def assert_gradients(leaves, expected, times=1.0):
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, times * gradient, rtol=1e-12, atol=1e-14)


def clear(leaves):
    for leaf in leaves:
        leaf.grad = None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factors", [(1, 1), (1, 3), (3, 1), (2, 2)], ids=str)
def test_second_backward_is_right_and_leaves_the_first_alone(device, reduction, factors):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, reduction)
    loss = vf.elbo_loss(*leaves, reduction=reduction).sum()
    (factors[0] * loss).backward(retain_graph=True)
    first = [leaf.grad for leaf in leaves]
    kept = [gradient.clone() for gradient in first]
    assert_gradients(leaves, expected, factors[0])
    clear(leaves)
    (factors[1] * loss).backward()
    assert_gradients(leaves, expected, factors[1])
    assert all(torch.equal(gradient, copy) for gradient, copy in zip(first, kept, strict=True))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_accumulation_over_backwards(device, reduction):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, reduction)
    loss = vf.elbo_loss(*leaves, reduction=reduction).sum()
    for times in (1, 2, 3):
        # In-place accumulation writes into whatever .grad was handed over.
        loss.backward(retain_graph=True)
        assert_gradients(leaves, expected, times)


def test_accumulation_over_losses(device):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, "batchmean")
    for times in (1, 2, 3):
        vf.elbo_loss(*leaves).backward()
        assert_gradients(leaves, expected, times)


def test_gradient_handed_over_belongs_to_the_caller(device):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, "batchmean")
    loss = vf.elbo_loss(*leaves)
    loss.backward(retain_graph=True)
    for leaf in leaves:
        leaf.grad.mul_(-7.0)  # gradient clipping works in place, too
    clear(leaves)
    loss.backward()
    assert_gradients(leaves, expected)


def test_backward_frees_the_graph(device):
    loss = vf.elbo_loss(*leaves_of(device))
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_graph_first_then_plain_backward(device):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, "batchmean")
    loss = vf.elbo_loss(*leaves)
    graphed = torch.autograd.grad(loss, leaves, create_graph=True)
    loss.backward(retain_graph=True)
    assert_gradients(leaves, expected)
    clear(leaves)
    loss.backward(retain_graph=True)
    assert_gradients(leaves, expected)
    for gradient, true in zip(graphed, expected, strict=True):
        torch.testing.assert_close(gradient.detach(), true, rtol=1e-12, atol=1e-14)


def test_gradients_of_some_inputs_first(device):
    leaves = leaves_of(device)
    expected = expected_gradients(leaves, "batchmean")
    loss = vf.elbo_loss(*leaves)
    (of_mu,) = torch.autograd.grad(loss, leaves[2], retain_graph=True)
    (of_recon,) = torch.autograd.grad(loss, leaves[0], retain_graph=True)
    torch.testing.assert_close(of_mu, expected[2])
    torch.testing.assert_close(of_recon, expected[0])
    loss.backward()
    assert_gradients(leaves, expected)


def test_one_tensor_in_two_places(device):
    (x, _, mu, logvar) = leaves_of(device)
    vf.elbo_loss(x, x, mu, mu).backward()
    assert (x.grad == 0).all()
    torch.testing.assert_close(mu.grad, (mu.detach() + 0.5 * torch.expm1(mu.detach())) / 4)
    assert logvar.grad is None


def test_inputs_are_left_alone(device):
    leaves = leaves_of(device)
    copies = [leaf.detach().clone() for leaf in leaves]
    versions = [leaf._version for leaf in leaves]
    vf.elbo_loss(*leaves, beta=0.5).backward()
    vf.reparameterize_with_kl(*leaves[2:])[0].sum().backward()
    assert all(torch.equal(leaf, copy) for leaf, copy in zip(leaves, copies, strict=True))
    assert [leaf._version for leaf in leaves] == versions


def test_results_of_one_step_survive_the_next(device):
    # 4 MB each: large results may be given the memory of earlier ones, but only of those that nobody holds.
    operands = (*images((8, 131_072), torch.float32, device), *latents((8, 131_072), torch.float32, device))
    held = []
    for _ in range(4):
        leaves = eager.leaves(*operands)
        z, kl = vf.reparameterize_with_kl(*leaves[2:])
        (vf.elbo_loss(*leaves) + z.sum() + kl.sum()).backward()
        views = [leaf.grad[1:] for leaf in leaves]  # a view keeps the memory alive as well
        held.append([(t, t.detach().clone()) for t in (z, *views)])
        del leaves, z, kl, views
    for step in held:
        assert all(torch.equal(tensor, copy) for tensor, copy in step)
