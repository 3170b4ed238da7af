"""Fused kernels for variational autoencoders: the reparameterized sample, and reconstruction + KL, in one pass each."""

from vae_fused import integrations, reference
from vae_fused._library import build_info, release_cpu_pool
from vae_fused._terms import ELBOTerms
from vae_fused._version import __version__
from vae_fused.bounds import importance_weighted_bound, log_weights
from vae_fused.distributions import DiagonalGaussian, Normal
from vae_fused.evaluation import Evaluation, evaluate
from vae_fused.functional import (
    elbo_loss,
    kl_divergence,
    reparameterize,
    reparameterize_with_kl,
    standard_normal,
)
from vae_fused.likelihoods import BernoulliLikelihood, GaussianLikelihood, LaplaceLikelihood
from vae_fused.linear_loss import FusedLinearELBOLoss, linear_elbo_loss
from vae_fused.marginal_likelihood import log_likelihood
from vae_fused.models import VAE, VAEOutput, conv_vae, mlp_vae
from vae_fused.modules import FusedELBOLoss
from vae_fused.presets import convert_beta
from vae_fused.schedules import ConstantSchedule, CyclicalSchedule, LinearSchedule
from vae_fused.shaping import Capacity, FreeBits, shape_kl

__all__ = [
    "VAE",
    "BernoulliLikelihood",
    "Capacity",
    "ConstantSchedule",
    "CyclicalSchedule",
    "DiagonalGaussian",
    "ELBOTerms",
    "Evaluation",
    "FreeBits",
    "FusedELBOLoss",
    "FusedLinearELBOLoss",
    "GaussianLikelihood",
    "LaplaceLikelihood",
    "LinearSchedule",
    "Normal",
    "VAEOutput",
    "__version__",
    "build_info",
    "conv_vae",
    "convert_beta",
    "elbo_loss",
    "evaluate",
    "importance_weighted_bound",
    "integrations",
    "kl_divergence",
    "linear_elbo_loss",
    "log_likelihood",
    "log_weights",
    "mlp_vae",
    "reference",
    "release_cpu_pool",
    "reparameterize",
    "reparameterize_with_kl",
    "shape_kl",
    "standard_normal",
]
