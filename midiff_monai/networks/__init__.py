"""Network parts, a normalisation layer and few-step solvers, for the configurations of the bundles."""

from midiff_monai.networks.detail import CoarseToFineSegmenter, DetailBranch
from midiff_monai.networks.schedulers import DPMSolverScheduler, TrailingDDIMScheduler
from midiff_monai.networks.wrappers import AutocastWrapper, PixelUnshuffleWrapper, SliceInstanceNorm, has_fast_bfloat16

__all__ = [
    "AutocastWrapper",
    "CoarseToFineSegmenter",
    "DPMSolverScheduler",
    "DetailBranch",
    "PixelUnshuffleWrapper",
    "SliceInstanceNorm",
    "TrailingDDIMScheduler",
    "has_fast_bfloat16",
]
