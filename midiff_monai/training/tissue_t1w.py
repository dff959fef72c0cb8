"""T1w of clear tissues, from synthetic T1w and their segmentation, for the random contrasts of other targets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.errors import InputError
from midiff_monai.labels import FREESURFER_IDS, GROUPS, LESIONS
from midiff_monai.training.contrast import T1_KNOTS
from midiff_monai.training.simulated_t1 import MEANS, RIGHT_TO_LEFT
from midiff_monai.transforms.meta import Data, file_of, with_meta_of

FLUID, CORTEX, WHITE_MATTER = T1_KNOTS[1], T1_KNOTS[2], T1_KNOTS[4]

TISSUES = (GROUPS["cerebrospinal fluid"], GROUPS["cortex"], GROUPS["white matter"])
"""FreeSurfer ids of the tissues whose intensities are stretched, from dark to bright in T1w."""

MIN_FOREGROUND = 0.01

BLUR = 0.5
"""Standard deviation in voxels of the blur that gives the surfaces of labels partial volume."""


class TissueT1wd(MapTransform):
    """Give synthetic T1w the contrast of a real one, by their segmentation.

    The synthetic T1w of a scan with little contrast, such as a FLAIR, has little contrast between cortex and white
    matter too. Its intensities are stretched, so that the medians of fluid, cortex and white matter are those of
    `T1_KNOTS`. The result is averaged with a T1w in which each structure has its mean intensity. Lesions are white
    matter here; `ContrastRandomizer` gives them an intensity of their own.

    Args:
        keys: synthetic T1w (1, X, Y, Z) in [0, 1], 0 in the background.
        label_key: label map on the same grid, FreeSurfer ids; lesions have the id of `labels.LESIONS`.

    Raises:
        InputError: the label map lacks fluid, cortex or white matter.
    """

    def __init__(self, keys: KeysCollection, label_key: str) -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Replace the T1w of a sample."""
        result = dict(data)
        labels = np.asarray(result[self.label_key][0]).astype(np.int64)
        for key in self.key_iterator(result):
            volume = np.asarray(result[key][0], dtype=np.float32)
            medians = [_median(volume[np.isin(labels, ids)]) for ids in TISSUES]
            if not 0 < medians[0] < medians[1] < medians[2]:
                fault = "shows no fluid, cortex and white matter from dark to bright"
                hint = "Look at its picture, and leave the scan out of the training if its segmentation failed"
                raise InputError(file_of(result[key]), fault, hint)
            clear = clear_tissues(volume, labels, medians)
            result[key] = with_meta_of(torch.from_numpy(clear)[None], result[key])
        return result


def _median(values: NDArray[np.float32]) -> float:
    """The median, 0 of nothing."""
    return float(np.median(values)) if values.size else 0.0


def clear_tissues(volume: NDArray[np.float32], labels: NDArray[np.int64], medians: list[float]) -> NDArray[np.float32]:
    """Stretch a T1w (X, Y, Z) with these medians of fluid, cortex and white matter, and average it with its tissues."""
    stretched = np.interp(volume, [0, *medians, 1], [0, FLUID, CORTEX, WHITE_MATTER, 1])
    means = structure_means()[labels]
    share = ndimage.gaussian_filter((means > 0).astype(np.float32), BLUR)
    drawn = ndimage.gaussian_filter(means, BLUR) / np.maximum(share, MIN_FOREGROUND)
    mixed = np.where(share > 0.5, (stretched + drawn) / 2, stretched)
    return np.where(volume > 0, np.maximum(mixed, MIN_FOREGROUND), 0).astype(np.float32)


def structure_means() -> NDArray[np.float32]:
    """FreeSurfer id → mean intensity in T1w; 0 for what is not a structure. CSF is as bright as that of `T1_KNOTS`."""
    means = np.zeros(max(FREESURFER_IDS + (LESIONS.id,)) + 1, np.float32)
    for label in FREESURFER_IDS[1:]:
        means[label] = max(MEANS[RIGHT_TO_LEFT.get(label, label)], FLUID)
    means[LESIONS.id] = WHITE_MATTER
    return means
