"""Dictionary transforms and resampling: arrays in, arrays out."""

from midiff_monai.transforms.intensity import ScaleForegroundIntensityd
from midiff_monai.transforms.resampling import resample_to_grid, restore_foreground, restore_to_grid
from midiff_monai.transforms.spatial import InvertMaskedSpacingd, InvertProbabilitiesToLabelsd, MaskedSpacingd

__all__ = [
    "MaskedSpacingd",
    "InvertMaskedSpacingd",
    "InvertProbabilitiesToLabelsd",
    "ScaleForegroundIntensityd",
    "resample_to_grid",
    "restore_foreground",
    "restore_to_grid",
]
