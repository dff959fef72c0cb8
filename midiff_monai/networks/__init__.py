"""Network wrappers and few-step solvers, named by the bundles' configurations."""

from midiff_monai.networks.schedulers import DPMSolverScheduler, TrailingDDIMScheduler
from midiff_monai.networks.wrappers import AutocastWrapper, PixelUnshuffleWrapper, SliceInstanceNorm, has_fast_bfloat16

__all__ = [
    "DPMSolverScheduler",
    "AutocastWrapper",
    "PixelUnshuffleWrapper",
    "SliceInstanceNorm",
    "TrailingDDIMScheduler",
    "has_fast_bfloat16",
]
