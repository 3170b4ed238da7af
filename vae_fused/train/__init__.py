"""Training from the command line, ``vae-fused train``, and the checkpoints it writes; the extra ``[train]``."""

from vae_fused.train.checkpoint import load_checkpoint, save_checkpoint
from vae_fused.train.model_config import ModelConfig

__all__ = ["ModelConfig", "load_checkpoint", "save_checkpoint"]
