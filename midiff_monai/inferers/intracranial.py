"""The space inside the skull of a whole head of any contrast."""

from __future__ import annotations

import itertools

import torch
from torch.nn import functional as F

from midiff_monai.inferers.brain_mask import largest_component
from midiff_monai.inferers.slicewise import Network, VolumeInferer
from midiff_monai.transforms.brain_distance import SURFACE
from midiff_monai.transforms.spatial import MORE_LIKELY

BESIDE = 2
"""Distance in voxels from the mask up to which probabilities are kept: the grid of the scan is interpolated."""


class IntracranialSpace(VolumeInferer):
    """Compute the probability that a voxel lies inside the skull, from the head and from where its brain is.

    It is the mean over the volume and its mirror image, and over several scans of one person. Only the largest
    component of the mask is kept, with the voxels beside it.

    Args:
        multiple: the sides of the volume are padded to multiples of it.
        margin: voxels around the brain that the network sees.

    Example:
        >>> inferer = IntracranialSpace()
        >>> network = lambda volume: 20 * volume[:, 1:] - 10
        >>> inferer(torch.rand(1, 2, 40, 40, 40), network).shape
        torch.Size([1, 1, 40, 40, 40])
    """

    def __init__(self, multiple: int = 16, margin: int = 16) -> None:
        self.multiple, self.margin = multiple, margin

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:
        """Find the space in one person.

        Args:
            volume: (S + 1, X, Y, Z) in RAS with voxels of 2 mm: the scans in [0, 1], 0 in their background, and the
                `transforms.depth_in_brain`.
            network: maps a scan and the depth (1, 2, X', Y', Z') to logits (1, 1, X', Y', Z').
            coarse: the mirror image is left out.

        Returns:
            (1, X, Y, Z), probabilities.
        """
        *scans, depth = volume
        probability = torch.zeros_like(depth)
        box = self._box(depth)
        if box is None:
            return probability[None]
        pairs = [torch.stack([scan[box], depth[box]]) for scan in scans]
        views = itertools.product(pairs, (False,) if coarse else (False, True))
        probability[box] = torch.stack([self._view(pair, mirrored, network) for pair, mirrored in views]).mean(dim=0)
        mask = probability > MORE_LIKELY
        kept = F.max_pool3d(largest_component(mask)[None].float(), 2 * BESIDE + 1, stride=1, padding=BESIDE)
        return probability[None] * kept

    def _box(self, depth: torch.Tensor) -> tuple[slice, ...] | None:
        """The part of a volume (X, Y, Z) that holds the brain, with a margin; None without a brain."""
        inside = (depth > SURFACE).nonzero()
        if not len(inside):
            return None
        lowest, highest = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
        return tuple(
            slice(max(low - self.margin, 0), high + 1 + self.margin) for low, high in zip(lowest, highest, strict=True)
        )

    def _view(self, pair: torch.Tensor, mirrored: bool, network: Network) -> torch.Tensor:
        """The probabilities (X, Y, Z) of a scan and a depth (2, X, Y, Z), from these or from their mirror images."""
        seen, shape = pair.flip(1) if mirrored else pair, pair.shape[1:]
        ends = [(0, -side % self.multiple) for side in reversed(shape)]
        logits = network(F.pad(seen, list(itertools.chain(*ends)))[None])[0, 0]
        probability = logits[tuple(map(slice, shape))].float().sigmoid()
        return probability.flip(0) if mirrored else probability
