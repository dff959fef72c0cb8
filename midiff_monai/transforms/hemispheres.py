"""Hemispheres of a segmentation on the grid of the parcellation network, and back.

The grid lies in a template space. A closed form maps a brain to it: a rotation that brings the centroids of its
structures to those of the template (Kabsch, Acta Crystallographica A32:922, 1976), and a translation and three scales
that give the cerebrum the mean position and the standard deviations of the template. Right hemispheres are mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from midiff_monai.labels import FREESURFER_IDS, MIRRORED
from midiff_monai.parcels import CORTEX_REGIONS, WHITE_MATTER_REGIONS, Region
from midiff_monai.transforms.resampling import source_indices

SIDES = ("left", "right")

CORTEX, WHITE_MATTER = 3, 2
"""FreeSurfer ids on the left side."""

REGIONS_OF_TISSUES: Mapping[int, tuple[Region, ...]] = MappingProxyType(
    {CORTEX: CORTEX_REGIONS, WHITE_MATTER: WHITE_MATTER_REGIONS}
)
"""Tissue → the regions that divide it, in the order of `parcels.REGIONS`."""

REGION_COUNTS = [len(regions) for regions in REGIONS_OF_TISSUES.values()]
"""Number of regions of each tissue: where logits of all regions are split."""

TISSUES: tuple[tuple[int, ...], ...] = (
    (CORTEX,),
    (WHITE_MATTER,),
    (4, 5),  # lateral ventricle
    (11, 26),  # caudate and accumbens
    (12, 13),  # putamen and pallidum
    (10, 28),  # thalamus and ventral DC
    (17,),  # hippocampus
    (18,),  # amygdala
)
"""FreeSurfer ids on the left side of the channels of a hemisphere. The last channel is the other hemisphere.

Cerebrospinal fluid, cerebellum and brain stem have no channel: not every scan and not every protocol shows them.
"""

HEMISPHERE_SHAPE = (40, 96, 64)
"""Shape of the grid of a hemisphere."""

SPACING_MM = 2.0

BLOCK = 2**16
"""Number of voxels whose logits are interpolated at once."""

ORIGIN_MM = (-9.0, -93.0, -61.0)
"""Centre of the first voxel. The axes point away from the other hemisphere, to anterior and to superior."""

TEMPLATE_STD_MM = (32.2, 37.7, 23.2)
"""Standard deviations of the positions of the cerebrum in the template, along its axes."""

TEMPLATE_CENTROIDS: Mapping[int, tuple[float, float, float]] = MappingProxyType(
    {
        2: (-25.8, 0.1, 1.8),
        3: (-29.8, -0.1, -1.8),
        4: (-12.7, 2.4, -0.7),
        5: (-29.0, 9.6, -26.6),
        7: (-17.0, -21.4, -50.4),
        8: (-22.1, -29.8, -53.6),
        10: (-11.2, 1.5, -8.7),
        11: (-12.7, 25.7, 1.4),
        12: (-23.6, 20.8, -8.7),
        13: (-18.7, 17.1, -11.0),
        14: (0.0, 10.6, -14.1),
        15: (0.0, -14.7, -47.6),
        16: (0.0, -1.9, -44.0),
        17: (-24.5, 2.6, -25.3),
        18: (-20.3, 19.3, -26.1),
        26: (-8.9, 31.5, -11.7),
        28: (-9.6, 9.5, -20.9),
    }
)
"""Centroids of the structures in the template, in mm from the centre of the cerebrum; on the left and in the midline.

They are means over the training subjects of the bundle `cortical_parcellation`, after rotation to their mean, and over
both sides.
"""


def ids_of_side(ids: Sequence[int], side: str) -> list[int]:
    """FreeSurfer ids of the left side → those of a side."""
    return list(ids) if side == "left" else [_mirrored(label) for label in ids]


def _mirrored(label: int) -> int:
    return FREESURFER_IDS[MIRRORED[FREESURFER_IDS.index(label)]]


def template_to_world(labels: NDArray[np.integer], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the map from the template space of a brain to its world coordinates.

    Args:
        labels: (X, Y, Z), FreeSurfer ids, with a voxel of the cerebrum at least.
        affine: voxel to RAS mm.

    Returns:
        (4, 4), millimetres to millimetres.
    """
    voxels = np.argwhere(np.isin(labels, list(_CENTROIDS)))
    ids = labels[tuple(voxels.T)]
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    cerebrum = points[np.isin(ids, CEREBRUM)]
    centre = cerebrum.mean(axis=0)
    rotation = _rotation(ids, points - centre)
    scales = ((cerebrum - centre) @ rotation).std(axis=0) / TEMPLATE_STD_MM
    mapping = np.eye(4)
    mapping[:3, :3], mapping[:3, 3] = rotation * np.maximum(scales, 0.1), centre
    return mapping


_CENTROIDS = {
    label: np.multiply(centroid, mirror)
    for left, centroid in TEMPLATE_CENTROIDS.items()
    for label, mirror in ((_mirrored(left), (-1, 1, 1)), (left, (1, 1, 1)))
}

CEREBRUM = [*ids_of_side((CORTEX, WHITE_MATTER), "left"), *ids_of_side((CORTEX, WHITE_MATTER), "right")]


def _rotation(ids: NDArray[np.integer], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation from the template to the centred points (N, 3) of the structures `ids` (N)."""
    present = np.unique(ids)
    centroids = np.array([points[ids == label].mean(axis=0) for label in present])
    template = np.array([_CENTROIDS[label] for label in present.tolist()])
    left, _, right = np.linalg.svd(centroids.T @ template)
    handedness = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1, 1, handedness]) @ right


def grid_affine(side: str, spacing_mm: float = SPACING_MM) -> NDArray[np.float64]:
    """The affine (4, 4) from voxels of the grid of a hemisphere to template space; a finer grid has the same faces."""
    origin = np.array(ORIGIN_MM) + (spacing_mm - SPACING_MM) / 2
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = origin
    mirror = np.diag([-1.0 if side == "left" else 1.0, 1, 1, 1])
    return mirror @ affine


def sample_labels(
    labels: NDArray[np.integer], affine: NDArray[np.float64], to_world: NDArray[np.float64], shape: Sequence[int]
) -> NDArray[np.integer]:
    """Look up labels (X, Y, Z) at the nearest voxels of a grid, 0 outside.

    Args:
        labels: (X, Y, Z).
        affine: their affine.
        to_world: (4, 4), from voxels of the grid to the same world.
        shape: shape of the grid.
    """
    to_voxels = np.linalg.inv(affine) @ to_world
    nearest = source_indices(to_voxels, [slice(0, size) for size in shape]).round().long().numpy()
    inside = ((nearest >= 0) & (nearest < labels.shape)).all(axis=-1)
    nearest[~inside] = 0
    return np.where(inside, labels[tuple(np.moveaxis(nearest, -1, 0))], 0)


def tissue_fractions(
    labels: NDArray[np.integer], affine: NDArray[np.float64], mapping: NDArray[np.float64], side: str
) -> torch.Tensor:
    """The share of each tissue in the voxels of the grid of a hemisphere.

    Args:
        labels: (X, Y, Z), FreeSurfer ids.
        affine: voxel to RAS mm.
        mapping: `template_to_world`.
        side: "left" or "right".

    Returns:
        (channels, *HEMISPHERE_SHAPE), float32, between 0 and 1. Each is the mean of the labels at eight points.
    """
    shape = [2 * size for size in HEMISPHERE_SHAPE]
    fine = sample_labels(labels, affine, mapping @ grid_affine(side, SPACING_MM / 2), shape)
    channels = torch.from_numpy(np.take(_channel_table(side), fine, mode="clip"))
    return torch.stack([_halved((channels == channel).float()) for channel in range(1, len(TISSUES) + 2)])


def _channel_table(side: str) -> NDArray[np.uint8]:
    """FreeSurfer id → channel, counted from 1; 0 for ids without a channel, and at the end for all higher ids."""
    table = np.zeros(max(FREESURFER_IDS) + 2, dtype=np.uint8)
    other = SIDES[side == "left"]
    for channel, ids in enumerate(TISSUES, start=1):
        table[ids_of_side(ids, side)], table[ids_of_side(ids, other)] = channel, len(TISSUES) + 1
    return table


def _halved(mask: torch.Tensor) -> torch.Tensor:
    return F.avg_pool3d(mask[None], 2)[0]


def tissues_of_hemispheres(
    labels: NDArray[np.integer], affine: NDArray[np.float64], mapping: NDArray[np.float64]
) -> torch.Tensor:
    """The `tissue_fractions` of both sides: (2, channels, *HEMISPHERE_SHAPE), in the order of `SIDES`."""
    return torch.stack([tissue_fractions(labels, affine, mapping, side) for side in SIDES])


def assign_parcels(
    labels: NDArray[np.integer], affine: NDArray[np.float64], mapping: NDArray[np.float64], logits: torch.Tensor
) -> NDArray[np.uint8]:
    """Give each voxel of cortex and white matter the most probable region of its tissue and side.

    Args:
        labels: (X, Y, Z), FreeSurfer ids.
        affine: voxel to RAS mm.
        mapping: `template_to_world`.
        logits: (2, regions, X', Y', Z') in the order of `SIDES` and of `parcels.REGIONS`, on a grid of the extent of
            that of a hemisphere. They are interpolated.

    Returns:
        (X, Y, Z), ids of `parcels.PARCELS`, 0 outside cortex and white matter.
    """
    parcels = np.zeros(labels.shape, dtype=np.uint8)
    for side, of_side in zip(SIDES, logits, strict=True):
        to_grid = np.linalg.inv(mapping @ grid_affine(side)) @ affine
        parts = of_side.split(REGION_COUNTS)
        for (tissue, regions), part in zip(REGIONS_OF_TISSUES.items(), parts, strict=True):
            ids = np.array([getattr(region, side) for region in regions], dtype=np.uint8)
            voxels = np.argwhere(labels == ids_of_side([tissue], side))
            for block in np.array_split(voxels, 1 + len(voxels) // BLOCK):
                points = torch.from_numpy(block @ to_grid[:3, :3].T + to_grid[:3, 3])
                parcels[tuple(block.T)] = ids[at_voxels(part, points).argmax(dim=0).numpy()]
    return parcels


def at_voxels(logits: torch.Tensor, voxels: torch.Tensor, shape: Sequence[int] = HEMISPHERE_SHAPE) -> torch.Tensor:
    """Interpolate logits trilinearly at voxels of a finer grid of the same extent.

    Args:
        logits: (C, X', Y', Z'). Outside, the values of the border are repeated.
        voxels: (N, 3), indices of the finer grid; they may lie between voxels.
        shape: shape of the finer grid.

    Returns:
        (C, N).
    """
    points = ((2 * voxels + 1) / torch.tensor(shape, device=voxels.device) - 1).to(logits.dtype)
    sampled = F.grid_sample(
        logits[None], points.flip(-1)[None, :, None, None], padding_mode="border", align_corners=False
    )
    return sampled[0, :, :, 0, 0]
