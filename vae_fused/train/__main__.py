"""``python -m vae_fused.train`` is ``vae-fused``."""

import sys

from vae_fused.train.cli import main

sys.exit(main())
