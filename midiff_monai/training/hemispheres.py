"""Training samples of the parcellation network: hemispheres of MUSE parcellations."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from midiff_monai.parcels import Region
from midiff_monai.training.muse import freesurfer_from_muse
from midiff_monai.transforms.hemispheres import (
    HEMISPHERE_SHAPE,
    REGION_COUNTS,
    REGIONS_OF_TISSUES,
    at_voxels,
    grid_affine,
    sample_labels,
    template_to_world,
    tissue_fractions,
)
from midiff_monai.transforms.meta import Data

REACH = 1.5
"""Distance in voxels up to which voxels beside a region have its label. Other protocols draw boundaries elsewhere."""

PRIOR_FLOOR = 1e-3
"""Frequency that every region has everywhere, at least."""


class HemisphereOfMUSEd(MapTransform):
    """Turn a MUSE parcellation into the tissue fractions and the regions of one hemisphere.

    The item `side` of a sample is "left" or "right".

    Args:
        keys: FreeSurfer labels or MUSE parcellations (1, X, Y, Z). They become the fractions of
            `transforms.hemispheres.tissue_fractions`.
        label_key: MUSE parcellation of the same person, in the same world. It becomes (2, *HEMISPHERE_SHAPE),
            uint8: region of the cortex and region of the white matter, counted from 1; 0 far from all of them.
    """

    def __init__(self, keys: KeysCollection, label_key: str) -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the volumes of a sample."""
        result, side = dict(data), data["side"]
        muse, muse_affine = _voxels(result[self.label_key])
        for key in self.key_iterator(result):
            tissues, affine = _voxels(result[key])
            if tissues.max() > 80:  # FreeSurfer ids of the structures end at 60
                tissues = freesurfer_from_muse(tissues)
            mapping = template_to_world(tissues, affine)
            result[key] = tissue_fractions(tissues, affine, mapping, side)
        regions = sample_labels(muse, muse_affine, mapping @ grid_affine(side), HEMISPHERE_SHAPE)
        result[self.label_key] = torch.from_numpy(
            np.stack([_region_indices(regions, kind, side) for kind in REGIONS_OF_TISSUES.values()])
        )
        return result


def _voxels(volume: Any) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    return np.asarray(volume[0]).astype(np.int16), np.asarray(volume.affine, dtype=np.float64)


def _region_indices(muse: NDArray[np.integer], regions: Sequence[Region], side: str) -> NDArray[np.uint8]:
    """Index, counted from 1, of the nearest of some regions of a side, 0 beyond `REACH`."""
    table = np.zeros(256, dtype=np.uint8)
    for index, region in enumerate(regions, start=1):
        table[region.left if side == "left" else region.right] = index
    indices = table[muse]
    distances, nearest = ndimage.distance_transform_edt(indices == 0, return_indices=True)
    return np.where(distances <= REACH, indices[tuple(nearest)], 0).astype(np.uint8)


class OneHotRegionsd(MapTransform):
    """Turn logits and region indices of a hemisphere into one-hot regions, each within its tissue.

    Args:
        keys: logits (regions, X', Y', Z'), on a coarser grid of the same extent. They become (regions,
            *HEMISPHERE_SHAPE).
        label_key: (2, *HEMISPHERE_SHAPE), as of `HemisphereOfMUSEd`. It becomes (regions, *HEMISPHERE_SHAPE).
        image_key: tissue fractions, of which the first two are cortex and white matter.
    """

    def __init__(self, keys: KeysCollection, label_key: str, image_key: str) -> None:
        super().__init__(keys)
        self.label_key, self.image_key = label_key, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the predictions and the labels of a sample."""
        result, tissues = dict(data), data[self.image_key][:2] > 0.5
        result[self.label_key] = one_hot_regions(result[self.label_key] * tissues)
        for key in self.key_iterator(result):
            logits = F.interpolate(result[key][None].float(), HEMISPHERE_SHAPE, mode="trilinear")[0]
            regions = [1 + part.argmax(dim=0) for part in logits.split(REGION_COUNTS)]
            result[key] = one_hot_regions(torch.stack(regions) * tissues)
        return result


def one_hot_regions(regions: torch.Tensor) -> torch.Tensor:
    """Region indices (2, X, Y, Z) → (regions, X, Y, Z), float32."""
    parts = zip(regions.long(), REGION_COUNTS, strict=True)
    return torch.cat([F.one_hot(part, count + 1).movedim(-1, 0)[1:] for part, count in parts]).float()


def start_from_prior(network: Any, hemispheres: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Give a network the frequencies of the regions as its prior, and let it start as this prior alone.

    Args:
        network: a `RegionNetwork` whose U-Net is a `DynUNet`.
        hemispheres: samples with "label", as of `HemisphereOfMUSEd`.
    """
    counts = sum((one_hot_regions(sample["label"]) for sample in hemispheres), torch.zeros(()))
    pooled = F.adaptive_avg_pool3d(counts / len(hemispheres), network.prior.shape[2:])
    network.prior.data.copy_((pooled + PRIOR_FLOOR).log()[None])
    nn.init.zeros_(network.network.output_block.conv.conv.weight)


class ParcelLoss(nn.Module):
    """Cross entropy of the regions of the cortex plus, with a weight, that of the regions of the white matter.

    Args:
        points: number of voxels, drawn at random, at which each of both is computed.
        white_matter_weight: weight of the second term.
    """

    def __init__(self, points: int = 20000, white_matter_weight: float = 0.5) -> None:
        super().__init__()
        self.points, self.white_matter_weight = points, white_matter_weight

    def forward(self, logits: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            logits: (B, regions of the cortex + of the white matter, X', Y', Z'), on a coarser grid of the same extent.
            regions: (B, 2, X, Y, Z), indices from 1 within each of both; voxels with 0 have no loss.
        """
        parts = logits.split(REGION_COUNTS, dim=1)
        losses = [
            self._cross_entropy(part[sample], regions[sample, kind])
            for kind, part in enumerate(parts)
            for sample in range(len(logits))
        ]
        cortex, white_matter = torch.stack(losses).unflatten(0, (2, -1)).mean(dim=1)
        return cortex + self.white_matter_weight * white_matter

    def _cross_entropy(self, logits: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        known = regions.nonzero()
        drawn = known[torch.randint(len(known), (self.points,), device=known.device)]
        return F.cross_entropy(at_voxels(logits, drawn, regions.shape).T, regions[tuple(drawn.T)].long() - 1)
