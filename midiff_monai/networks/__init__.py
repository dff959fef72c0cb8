"""Network parts, a normalisation layer and samplers, for the configurations of the bundles."""

from midiff_monai.networks.detail import CoarseToFineSegmenter, DetailBranch
from midiff_monai.networks.parcellation import RegionNetwork
from midiff_monai.networks.schedulers import (
    AncestralScheduler,
    DPMSolverScheduler,
    SpacedDDIMScheduler,
    TrailingDDIMScheduler,
)
from midiff_monai.networks.wrappers import (
    AutocastWrapper,
    PixelUnshuffleWrapper,
    SliceInstanceNorm,
    VoxelUnshuffleWrapper,
    has_fast_bfloat16,
)

__all__ = [
    "AncestralScheduler",
    "AutocastWrapper",
    "CoarseToFineSegmenter",
    "DPMSolverScheduler",
    "DetailBranch",
    "PixelUnshuffleWrapper",
    "RegionNetwork",
    "SliceInstanceNorm",
    "SpacedDDIMScheduler",
    "TrailingDDIMScheduler",
    "VoxelUnshuffleWrapper",
    "has_fast_bfloat16",
]
