"""Network wrappers, a normalisation layer and few-step solvers, for the configurations of the bundles."""

from midiff_monai.networks.schedulers import DPMSolverScheduler, TrailingDDIMScheduler
from midiff_monai.networks.wrappers import AutocastWrapper, PixelUnshuffleWrapper, SliceInstanceNorm, has_fast_bfloat16

__all__ = [
    "AutocastWrapper",
    "DPMSolverScheduler",
    "PixelUnshuffleWrapper",
    "SliceInstanceNorm",
    "TrailingDDIMScheduler",
    "has_fast_bfloat16",
]
