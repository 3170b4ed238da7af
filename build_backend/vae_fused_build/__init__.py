"""How vae_fused is built: the PEP 517 hooks, the search for torch, the choice of kernels and the build commands."""
