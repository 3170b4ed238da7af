"""Forked processes: DataLoader workers, and fork after the kernels have run on several threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from helpers.inputs import key_of
from torch.utils.data import DataLoader, Dataset

import vae_fused as vf

TIMEOUT = 60


class Noisy(Dataset):
    """Items that are sampled where they are loaded: with the item's key, or from the worker's default generator."""

    def __init__(self, keyed):
        self.keyed = keyed

    def __len__(self):
        return 12

    def __getitem__(self, index):
        mu = torch.full((1, 5), float(index))
        z, kl = vf.reparameterize_with_kl(mu, torch.zeros(1, 5), key=key_of(index) if self.keyed else None)
        # A result of a megabyte comes from the package's own pool, whose lock must survive the fork.
        large = vf.standard_normal(key_of(index), (300_000,))
        return torch.cat([z[0], kl, large[-3:]])


def loaded(keyed, workers, seed=0):
    options = {"timeout": TIMEOUT, "multiprocessing_context": "fork"} if workers else {}
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(list(DataLoader(Noisy(keyed), 3, num_workers=workers, generator=generator, **options)))


def used_before_the_fork():
    vf.elbo_loss(torch.rand(64, 8192, requires_grad=True), torch.rand(64, 8192), kl=torch.zeros(64)).backward()


def test_items_with_keys_do_not_depend_on_the_workers():
    used_before_the_fork()
    assert torch.equal(loaded(True, 2), loaded(True, 0))


def test_workers_draw_different_noise_that_follows_the_seed():
    used_before_the_fork()
    items = loaded(False, 2)
    noise = items[:, :5] - torch.arange(12.0)[:, None]
    assert noise.round(decimals=4).unique(dim=0).shape[0] == 12
    assert torch.equal(loaded(False, 2), items)
    assert not torch.equal(loaded(False, 2, seed=1), items)


def run(script):
    """Runs a script in a process of its own, which is killed if it hangs."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parent,  # not the root of the source, where "-c" would find the package unbuilt
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )


# Each child does what the parent did, on two threads as far as it knows: OpenMP's threads do not survive a fork.
FORK_AFTER_USE = """
    import os, signal, torch, vae_fused as vf
    torch.set_num_threads(2)
    key = torch.tensor([1, 2], dtype=torch.uint64)
    logvar = torch.zeros(64, 8192)
    def work():
        mu = logvar.detach().requires_grad_()
        z, kl = vf.reparameterize_with_kl(mu, logvar, key=key)
        loss = vf.elbo_loss(z, logvar, kl=kl)
        loss.backward()
        return z.detach(), loss.detach(), mu.grad
    def same(found):
        return all(map(torch.equal, found, expected))
    expected = work()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs outlives the script otherwise
            found = work()
            torch.set_num_threads(1)  # for the comparison: PyTorch's own operators would hang
            os._exit(0 if same(found) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(work())
"""


def test_fork_after_use():
    finished = run(FORK_AFTER_USE)
    assert finished.returncode == 0, finished.stderr
