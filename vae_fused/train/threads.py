"""How many CPU threads a training step gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae_fused.models import VAE

# Multiply-adds of a step, forward and backward: about a millisecond of one core. Below it a second thread saves
# nothing, and on a busy machine every small operator of the step waits for it, so a run takes several times longer.
_ONE_CORE_IS_ENOUGH = 5e7


@contextmanager
def fitting_threads(model: VAE, batch_size: int) -> Iterator[None]:
    """Use one thread inside if the steps are too small to share; restores the number of threads afterwards.

    The choice depends on the model and the batch size alone, so that runs repeat bit for bit.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    if 3 * parameters * batch_size < _ONE_CORE_IS_ENOUGH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
