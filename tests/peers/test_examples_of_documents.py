"""The examples of the documentation that need another library."""

from __future__ import annotations

import pytest
import torch
from helpers.documents import PAGES, blocks_of, docstring_examples, failures_of, printed_by
from helpers.peers import need

import vae_fused as vf


@pytest.mark.parametrize("library", ["diffusers", "pyro"])
def test_docstrings(library):
    need(library)
    examples = list(docstring_examples([f"vae_fused.integrations.{library}"]))
    assert examples
    for example in examples:
        assert failures_of(example) == ""


def test_blocks_that_patch_diffusers():
    need("diffusers")
    import diffusers

    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    autoencoder = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, **blocks)
    namespace = {"vf": vf, "autoencoder": autoencoder, "images": torch.randn(2, 3, 16, 16)}
    found = [block for page in PAGES for block in blocks_of(page) if block.python and "diffusers.patch" in block.code]
    assert found
    try:
        for block in found:
            printed_by(block, namespace)
            assert vf.integrations.diffusers.is_patched()
    finally:
        vf.integrations.diffusers.unpatch()
    assert isinstance(namespace["posterior"], vf.DiagonalGaussian)
