"""Dictionary transforms and resampling: arrays in, arrays out."""

from midiff_monai.transforms.intensity import StretchIntensityd
from midiff_monai.transforms.resampling import resample_to_grid, restore_foreground, restore_to_grid
from midiff_monai.transforms.spatial import ResampleForegroundd, RestoreImaged, RestoreSegmentationd

__all__ = [
    "ResampleForegroundd",
    "RestoreImaged",
    "RestoreSegmentationd",
    "StretchIntensityd",
    "resample_to_grid",
    "restore_foreground",
    "restore_to_grid",
]
