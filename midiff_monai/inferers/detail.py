"""Labels at full resolution: a detail branch refines coarse class probabilities, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from midiff_monai.inferers.slicewise import Network, foreground_box
from midiff_monai.labels import FREESURFER_IDS
from midiff_monai.transforms.meta import Data, as_plain_tensor
from midiff_monai.transforms.resampling import MIN_WEIGHT, Observer, interpolate, resample_to_grid, source_indices
from midiff_monai.transforms.spatial import Grids, InvertMaskedSpacingd
from midiff_monai.transforms.tissue_means import tissue_means

EXCLUDED = 1e-12
"""Probability below which a class is impossible. The body excludes classes, such as brain in the neck, and the branch
must not bring them back."""

REACH_MM = 4.0
"""Distance from the brain of the coarse probabilities within which the branch may find brain."""


class DetailRefiner:
    """Refine coarse class probabilities by the image at full resolution, and label the voxels of a file.

    The branch runs on blocks of the image's grid. The probabilities of a block become labels before the next block is
    computed, because those of all classes at full resolution would need gigabytes. Voxels of the file that do not lie
    on the image's grid get the most probable class of the interpolated probabilities.

    Args:
        network: maps an image (1, 1, x, y, z), probabilities (1, C, x, y, z) and means of tissues (1, 3, x, y, z) to
            logits (1, C, x, y, z).
        block: side of a block in voxels. It does not change the result.
        halo: number of voxels around a block that its probabilities depend on, see `DetailBranch`.
        device: device of the network.
    """

    def __init__(self, network: Network, block: int = 64, halo: int = 7, device: torch.device | str = "cpu") -> None:
        self.network, self.block, self.halo, self.device = network, block, halo, device

    @torch.inference_mode()
    def __call__(
        self,
        probabilities: MetaTensor,
        image: MetaTensor,
        target_mask: torch.Tensor,
        target_affine: ArrayLike,
        observe: Observer | None = None,
    ) -> torch.Tensor:
        """Label the voxels of a file.

        Args:
            probabilities: (C, X, Y, Z) on the coarse grid, in the order of `labels.FREESURFER_IDS`.
            image: (1, X', Y', Z') in [0, 1] at full resolution, 0 in the background.
            target_mask: (X", Y", Z"), foreground of the file.
            target_affine: (4, 4), of the file.
            observe: gets the refined probabilities of the file's voxels, block by block.

        Returns:
            (X", Y", Z"), int16, FreeSurfer ids, 0 outside the target mask.
        """
        affines = (np.asarray(affine, float) for affine in (probabilities.affine, image.affine, target_affine))
        coarse_affine, image_affine, file_affine = affines
        to_coarse = np.linalg.inv(coarse_affine) @ image_affine
        to_image = np.linalg.inv(image_affine) @ file_affine
        coarse, fine = _with_means(probabilities, image), as_plain_tensor(image[0])
        labels = torch.zeros(target_mask.shape, dtype=torch.int16)
        for block in self._blocks(_near_brain(probabilities, image)):
            window = _target_window(to_image, block, target_mask.shape)
            if all(side.start < side.stop for side in window):
                refined, corner = self._refine(block, coarse, fine, to_coarse)
                inside, refined = _at_target(refined, corner, to_image, window, block)
                labels[window][inside] = refined.argmax(dim=0).to(torch.int16)
                if observe:
                    observe(window, inside, refined)
        return torch.tensor(FREESURFER_IDS, dtype=torch.int16)[labels.long()] * target_mask

    def _blocks(self, near_brain: torch.Tensor) -> Iterator[tuple[slice, ...]]:
        """Cut the box around the brain into blocks; those without brain are left out."""
        sides = [
            [slice(start, min(start + self.block, side.stop)) for start in range(side.start, side.stop, self.block)]
            for side in foreground_box(near_brain, 1)
        ]
        for block in itertools.product(*sides):
            if near_brain[block].any():
                yield block

    def _refine(
        self, block: Sequence[slice], coarse: torch.Tensor, fine: torch.Tensor, to_coarse: NDArray
    ) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """Refined probabilities of a block with one further voxel on each side, for interpolation; its first voxel."""
        outer, inner = (_grown(block, margin, fine.shape) for margin in (self.halo + 1, 1))
        interpolated = interpolate(coarse, source_indices(to_coarse, outer))
        prior, means = _normalized(interpolated[:-3]), interpolated[-3:]
        inputs = (volume.to(self.device) for volume in (fine[outer][None, None], prior[None], means[None]))
        logits = self.network(*inputs)[0].cpu().masked_fill_(prior < EXCLUDED, -torch.inf)
        cut = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
        return logits[(slice(None), *cut)].softmax(dim=0), np.array([side.start for side in inner])


def _with_means(probabilities: MetaTensor, image: MetaTensor) -> torch.Tensor:
    """Probabilities and, as three further channels, the means of the tissues in the image: (C + 3, X, Y, Z)."""
    coarse = as_plain_tensor(probabilities)
    grids = image.affine, coarse.shape[1:], probabilities.affine
    coarse_image = resample_to_grid(as_plain_tensor(image[0]), *grids, fill=0.0)
    return torch.cat([coarse, tissue_means(coarse_image[None, None], coarse[None])[0]])


def _normalized(probabilities: torch.Tensor) -> torch.Tensor:
    """Make probabilities (C, …) add up to 1 where they are known; elsewhere they are background."""
    total = probabilities.sum(dim=0)
    normalized = probabilities / total.clamp(min=MIN_WEIGHT)
    normalized[0] = torch.where(total > MIN_WEIGHT, normalized[0], 1.0)
    return normalized


def _near_brain(probabilities: MetaTensor, image: MetaTensor) -> torch.Tensor:
    """Mask (X', Y', Z') of the image's voxels that may be brain."""
    brain = (as_plain_tensor(probabilities).argmax(dim=0) > 0).float()
    reach = int(np.ceil(REACH_MM / float(probabilities.pixdim.min())))
    near = F.max_pool3d(brain[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    return (resample_to_grid(near, probabilities.affine, image.shape[1:], image.affine, fill=0.0) > 0) & (
        as_plain_tensor(image[0]) != 0
    )


def _grown(block: Sequence[slice], margin: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """A box with a margin, within a volume."""
    sides = zip(block, shape, strict=True)
    return tuple(slice(max(side.start - margin, 0), min(side.stop + margin, size)) for side, size in sides)


def _target_window(to_image: NDArray, block: Sequence[slice], shape: Sequence[int]) -> tuple[slice, ...]:
    """The box of the file's voxels that may lie in a block."""
    corners = np.array(list(itertools.product(*((side.start - 0.5, side.stop - 0.5) for side in block))))
    inverse = np.linalg.inv(to_image)
    mapped = corners @ inverse[:3, :3].T + inverse[:3, 3]
    lowest, highest = np.ceil(mapped.min(axis=0) - 1e-3), np.floor(mapped.max(axis=0) + 1e-3)
    limits = zip(lowest.astype(int), highest.astype(int), shape, strict=True)
    return tuple(slice(max(low, 0), min(high + 1, size)) for low, high, size in limits)


def _at_target(
    refined: torch.Tensor, corner: NDArray, to_image: NDArray, window: Sequence[slice], block: Sequence[slice]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask (x, y, z) of the window's voxels that lie in the block, and the probabilities (C, N) of these voxels."""
    positions = source_indices(to_image, window)
    start, stop = (torch.tensor([getattr(side, end) - 0.5 for side in block]) for end in ("start", "stop"))
    inside = ((positions >= start) & (positions < stop)).all(dim=-1)
    local = positions[inside] - torch.from_numpy(corner)
    if np.allclose(to_image, to_image.round(), atol=1e-4):
        x, y, z = local.round().long().unbind(-1)
        return inside, refined[:, x, y, z]
    return inside, interpolate(refined, local[:, None, None])[..., 0, 0]


class RefineProbabilitiesToLabelsd(InvertMaskedSpacingd):
    """Refine class probabilities by the image at full resolution, and label the voxels of the source file.

    Args:
        keys: keys of probabilities (C, X, Y, Z), in the order of `labels.FREESURFER_IDS`; they become (1, X', Y', Z').
        orig_keys: as for `InvertMaskedSpacingd`.
        fine_key: key of the image at full resolution.
        refiner: runs the detail branch.
    """

    def __init__(
        self, keys: KeysCollection, orig_keys: KeysCollection, fine_key: Hashable, refiner: DetailRefiner
    ) -> None:
        super().__init__(keys, orig_keys)
        self.fine_key, self.refiner = fine_key, refiner

    def _restore(self, image: torch.Tensor, grids: Grids, conformed: MetaTensor, data: Data) -> torch.Tensor:
        source_mask, source_affine, target_mask, target_affine = grids
        probabilities = MetaTensor(image * source_mask, affine=source_affine)
        return self.refiner(probabilities, data[self.fine_key].cpu(), target_mask, target_affine)[None]
