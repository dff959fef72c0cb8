"""Dictionary transforms that MONAI lacks, and resampling between grids: arrays in, arrays out."""

from midiff_monai.transforms.background import ClearBackgroundd
from midiff_monai.transforms.brain_distance import DepthInBraind, depth_in_brain
from midiff_monai.transforms.foreground import fill_holes, foreground_percentiles
from midiff_monai.transforms.guided_upsampling import GuidedUpsampling
from midiff_monai.transforms.hemispheres import HEMISPHERE_SHAPE, SIDES
from midiff_monai.transforms.intensity import ScaleForegroundIntensityd
from midiff_monai.transforms.resampling import resample_labels, resample_to_grid, restore_foreground
from midiff_monai.transforms.spatial import (
    GuidedUpsamplingd,
    InvertMaskedSpacingd,
    InvertProbabilitiesToLabelsd,
    InvertProbabilityToMaskd,
    MaskedSpacingd,
)

__all__ = [
    "HEMISPHERE_SHAPE",
    "SIDES",
    "ClearBackgroundd",
    "DepthInBraind",
    "GuidedUpsampling",
    "GuidedUpsamplingd",
    "InvertMaskedSpacingd",
    "InvertProbabilitiesToLabelsd",
    "InvertProbabilityToMaskd",
    "MaskedSpacingd",
    "ScaleForegroundIntensityd",
    "depth_in_brain",
    "fill_holes",
    "foreground_percentiles",
    "resample_labels",
    "resample_to_grid",
    "restore_foreground",
]
