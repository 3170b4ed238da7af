"""Data parallelism through torchrun on gloo: one process's gradients on the whole batch, on any number of ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import distributed_worker
from helpers.comparing import assert_near

TIMEOUT = 120
WORKER = Path(distributed_worker.__file__)


def run(command, timeout=TIMEOUT):
    """Runs a command in a process group of its own, and ends the whole group if it does not finish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"no end after {timeout} seconds:\n{output}", pytrace=False)
    assert process.returncode == 0, output


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def results(request, tmp_path_factory):
    out_file = tmp_path_factory.mktemp("distributed") / "results.pt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    run([*torchrun, str(WORKER), str(out_file)])
    return torch.load(out_file, weights_only=True)


@pytest.fixture(scope="module")
def one_process():
    return distributed_worker.train(lambda objective: objective, 0, 1)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_gradients_are_those_of_the_whole_batch(results, one_process, wrapper):
    assert len(one_process["gradients"]) == len(one_process["parameters"])
    assert_near(results[wrapper]["gradients"], one_process["gradients"])


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_training_ends_at_the_same_parameters(results, one_process, wrapper):
    assert_near(results[wrapper]["parameters"], one_process["parameters"])
    start = list(distributed_worker.Objective().parameters())
    assert not any(torch.equal(a, b) for a, b in zip(results[wrapper]["parameters"], start, strict=True))


def test_parameters_were_sharded(results):
    assert results["sharded"]
    assert all(results["sharded"])
