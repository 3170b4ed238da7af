"""The memory pool behind large CPU results: reuse, its limit, its release, and values that no reuse may touch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers.inputs import key_of

import vae_fused as vf

pytestmark = pytest.mark.skipif(not vf.build_info()["extension"], reason="the pool belongs to the extension")

MIB = 1 << 20
FOUR_MIB = (MIB,)  # float32 elements


@pytest.fixture(autouse=True)
def empty_pool():
    vf.release_cpu_pool()
    yield
    vf.release_cpu_pool()


def test_release_gives_back_what_a_tensor_has_left_and_says_how_much():
    noise = vf.standard_normal(key_of(1), FOUR_MIB)
    assert vf.release_cpu_pool() == 0  # a living tensor's memory is not the pool's to give
    del noise
    assert vf.release_cpu_pool() == 4 * MIB
    assert vf.release_cpu_pool() == 0


def test_a_later_result_takes_the_memory_of_an_earlier_one():
    earlier = vf.standard_normal(key_of(1), FOUR_MIB)
    address = earlier.data_ptr()
    del earlier
    later = vf.standard_normal(key_of(2), FOUR_MIB)
    assert later.data_ptr() == address
    assert vf.release_cpu_pool() == 0


def test_small_results_do_not_come_from_the_pool():
    noise = vf.standard_normal(key_of(1), (MIB // 4 - 1,))
    del noise
    assert vf.release_cpu_pool() == 0


def test_memory_that_a_view_still_holds_is_not_used_again():
    noise = vf.standard_normal(key_of(1), FOUR_MIB)
    tail = noise[-5:]
    expected = tail.clone()
    del noise
    vf.standard_normal(key_of(2), FOUR_MIB)
    assert torch.equal(tail, expected)


def run(limit, script):
    environment = {**os.environ, "VAE_FUSED_POOL_MIB": limit}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parent,  # not the root of the source, where "-c" would find the package unbuilt
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


KEPT = """
    import torch, vae_fused as vf
    key = torch.tensor([1, 2], dtype=torch.uint64)
    results = [vf.standard_normal(key, (1 << 20,)) for _ in range(5)]
    del results
    print(vf.release_cpu_pool() >> 20)
"""


@pytest.mark.parametrize(("limit", "kept"), [("0", 0), ("3", 0), ("9", 8), ("", 20)])
def test_the_limit_bounds_what_is_kept(limit, kept):
    finished = run(limit, KEPT)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) == kept


@pytest.mark.parametrize("limit", ["-1", "many", "1.5"])
def test_a_limit_that_is_no_number_of_mib_raises(limit):
    finished = run(limit, KEPT)
    assert finished.returncode != 0
    message = f"VAE_FUSED_POOL_MIB must be a number of MiB, 0 or more, got '{limit}'"
    assert f"ValueError: {message}" in finished.stderr


def test_the_profiler_sees_pooled_memory():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        noise = vf.standard_normal(key_of(1), FOUR_MIB)
        del noise
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert changes.count(4 * MIB) == 1
    assert changes.count(-4 * MIB) == 1
