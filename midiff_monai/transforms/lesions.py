"""White matter lesions of FLAIR, which shows them bright and CSF dark. No network is trained for them.

A lesion is a region of the white matter that is brighter than normal white matter around it, and brighter than nearly
all of the cortex. The segmenter does not know lesions, and may take one for cortex, deep grey matter or CSF. Such a
lesion is found too, where white matter encloses it or where it continues a lesion in the white matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.white_matter import CORTEX, WHITE_MATTER, TissueZ, fit_white_matter, tissue_z

OUTER = (0, *CORTEX, 24)
"""What lies around the white matter, or in it by mistake: no structure, cortex, CSF outside the ventricles."""

MISTAKEN = (*OUTER[1:], 11, 50, 12, 51, 4, 43)
"""What a lesion beside it can be taken for: cortex, CSF, caudate, putamen, lateral ventricles."""

REACH_MM = 3.0
"""How far a lesion may reach from its brightest part into `MISTAKEN` structures."""

MIN_MM3 = 14.0
"""Smallest lesion: a ball of 3 mm diameter, as in the protocol of Kuijf et al. (IEEE TMI 38:2556, 2019)."""

SEED_Z, EDGE_Z = 6.5, 5.0
"""Lowest z-scores at the brightest part of a lesion, and at its edge. Chosen on FLAIR of five people: see "Lesions" in
evaluation/PROTOCOL.md. From 4.5 to 5.5 at the edge, the mean Dice differs by 0.02."""

CORTEX_PERCENTILE = 95.0
"""Percentile of the z-scores of cortex that a lesion exceeds at its edge. Not the median: in thick slices, most of the
cortex is darkened by CSF."""

MAX_CORTEX_SHARE = 0.25
"""Contrast of cortex and white matter, relative to that of CSF and white matter, up to which a scan with dark CSF is a
FLAIR. It is 0.0 to 0.15 in FLAIR of old people, and 0.4 to 0.6 in T1w."""

NO_TISSUE = "white matter, cortex or ventricles were not found in the scan"
DARK_CORTEX = "cortex is darker than white matter, as in T1w"
BRIGHT_CSF = "CSF is bright, as in T2w and PD, where white matter that touches it looks like a lesion"

CONNECTED = ndimage.generate_binary_structure(3, 3)
"""Voxels that share a face, an edge or a corner."""


class FoundLesions(NamedTuple):
    """The lesions of a scan.

    Attributes:
        mask: (X, Y, Z), or None if the scan cannot show them.
        reason: why it cannot, as a clause; empty if it can.
    """

    mask: NDArray[np.bool_] | None
    reason: str = ""


def find_lesions(image: NDArray[np.float32], labels: NDArray[np.integer], spacing: Sequence[float]) -> FoundLesions:
    """Find the white matter lesions of the cerebrum.

    Whether the scan is a FLAIR is told from the order of its tissues: CSF is by far the darkest, and cortex is nearly
    as bright as white matter, or brighter. It is not told from names or headers.

    Args:
        image: (X, Y, Z), any MR contrast, any scale.
        labels: FreeSurfer ids on the same grid.
        spacing: voxel size in mm.
    """
    if not np.isin(labels, CORTEX).any():
        return FoundLesions(None, NO_TISSUE)
    (box,) = ndimage.find_objects((labels > 0).astype(np.uint8))
    image, segmented = image[box], labels[box]
    model = fit_white_matter(image, segmented, spacing)
    if model is None:
        return FoundLesions(None, NO_TISSUE)
    z = model.z_scores(image)
    tissues = tissue_z(z, segmented)
    if reason := _not_flair(tissues):
        return FoundLesions(None, reason)
    mask = np.zeros(labels.shape, dtype=bool)
    mask[box] = _bright_regions(z, segmented, spacing)
    return FoundLesions(mask)


def _not_flair(tissues: TissueZ) -> str:
    """Why the order of the tissues is not that of a FLAIR; empty if it is."""
    if isnan(tissues.csf):
        return NO_TISSUE
    if tissues.csf >= 0:
        return BRIGHT_CSF
    return "" if tissues.cortex > MAX_CORTEX_SHARE * tissues.csf else DARK_CORTEX


def label_as_white_matter(labels: NDArray[np.integer], lesions: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Return labels (X, Y, Z) in which lesions are white matter, of the side of the nearest white matter.

    Args:
        labels: FreeSurfer ids with cerebral white matter, if there are lesions.
        lesions: the mask of `find_lesions`.
    """
    white = np.isin(labels, WHITE_MATTER)
    mistaken = lesions & ~white
    if not mistaken.any():
        return labels
    nearest = ndimage.distance_transform_edt(~white, return_distances=False, return_indices=True)
    return np.where(mistaken, labels[tuple(nearest)], labels)


def count_lesions(lesions: NDArray[np.bool_]) -> int:
    """Count the connected regions of a mask (X, Y, Z). Voxels that share a corner are connected."""
    return int(ndimage.label(lesions, CONNECTED)[1])


def _bright_regions(z: NDArray[np.float32], labels: NDArray[np.integer], spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Hysteresis: connected regions above the lower threshold that contain a voxel above the upper one."""
    edge = max(EDGE_Z, float(np.percentile(z[np.isin(labels, CORTEX)], CORTEX_PERCENTILE)))
    within = _within_white_matter(labels)
    seeds = within & (z > edge + SEED_Z - EDGE_Z)
    reached = ndimage.distance_transform_edt(~seeds, sampling=spacing) <= REACH_MM
    bright = (within | (reached & np.isin(labels, MISTAKEN))) & (z > edge)
    return _regions_with(seeds, bright, MIN_MM3 / prod(spacing))


def _within_white_matter(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Cerebral white matter with its holes, and the holes of all within the cortex that are labelled cortex or CSF."""
    white, outer = np.isin(labels, WHITE_MATTER), np.isin(labels, OUTER)
    return fill_holes(white) | (outer & fill_holes(~outer))


def _regions_with(seeds: NDArray[np.bool_], mask: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    """Keep the connected regions of a mask that contain a seed and have `smallest` voxels at least."""
    regions, count = ndimage.label(mask, CONNECTED)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    kept = np.zeros(count + 1, dtype=bool)
    kept[np.unique(regions[seeds])] = True
    kept &= sizes >= smallest
    kept[0] = False
    return kept[regions]
