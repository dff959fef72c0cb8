"""Joint training of a coarse segmenter and its detail branch: network, batches, loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import nn
from torch.nn import functional as F

from midiff_monai.training.prepare_batch import inner_slabs
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.tissue_means import tissue_means

IGNORED = 255
"""Label of voxels without a loss."""


class TwoScaleNetwork(nn.Module):
    """Run a body on a slab at half resolution, and a detail branch on patches at full resolution.

    The branch receives the probabilities of the body without their gradient.

    Args:
        body: maps (1, 2·context + 1, X, Y, Z) to logits (1, classes, X, Y, Z).
        detail: maps patches, probabilities and means of tissues to logits, see `DetailBranch`.
        context: number of neighbouring slices on either side.
        patch_size: size of a patch along each axis, in voxels at full resolution, even.
    """

    def __init__(self, body: nn.Module, detail: nn.Module, context: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.body, self.detail, self.context, self.patch_size = body, detail, context, tuple(patch_size)

    def forward(self, slab: torch.Tensor, corners: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute logits at both resolutions.

        Args:
            slab: (1, 1, X, Y, Z) at full resolution, or at half resolution without corners. The outer `context` coarse
                slices serve as neighbours only.
            corners: first voxels (N, 3) of the patches within the inner slab, in coarse voxels; None has no patches.

        Returns:
            Logits of the inner slab at half resolution, and of the patches (N, classes, *patch_size) or None.
        """
        coarse = slab if corners is None else masked_average(slab)
        logits = self.body(inner_slabs(coarse, self.context, self.context))
        if corners is None:
            return logits, None
        probabilities = logits.detach().softmax(dim=1)
        means = tissue_means(inner_slabs(coarse, 0, self.context), probabilities)
        inner = slab[..., 2 * self.context : slab.shape[-1] - 2 * self.context]
        patches = torch.cat([crop(inner, 2 * corner, self.patch_size) for corner in corners])
        priors, means = (
            torch.cat([self._interpolated(volume, corner) for corner in corners]) for volume in (probabilities, means)
        )
        return logits, self.detail(patches, priors, means)

    def _interpolated(self, volume: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
        """Interpolate a coarse volume (1, C, X, Y, Z) to one patch."""
        size = [length // 2 + 2 for length in self.patch_size]
        coarse = crop(F.pad(volume, [1] * 6, mode="replicate"), corner, size)
        return F.interpolate(coarse, scale_factor=2, mode="trilinear")[..., 2:-2, 2:-2, 2:-2]


class TwoScalePrepareBatch(PrepareBatch):
    """Draw patches of a slab, and make the labels of the slab at half resolution.

    A batch has the keys `image` and `label`, one slab (1, 1, X, Y, Z) each, and `coarse`: whether they are at half
    resolution, and no patches are drawn. Every second patch is centred on a random class.

    Args:
        context: as for `TwoScaleNetwork`.
        patch_size: as for `TwoScaleNetwork`.
        patches: number of patches of a slab.
    """

    def __init__(self, context: int, patch_size: Sequence[int], patches: int) -> None:
        self.context, self.patch_size, self.patches = context, tuple(patch_size), patches

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None], tuple, dict[str, Any]]:
        image, label = (as_plain_tensor(batchdata[key]).to(device) for key in ("image", "label"))
        if bool(batchdata["coarse"][0]):
            inner = label[..., self.context : label.shape[-1] - self.context]
            return image, (inner, None), (), {"corners": None}
        inner = label[..., 2 * self.context : label.shape[-1] - 2 * self.context]
        corners = torch.stack([self._corner(inner, number % 2 == 0) for number in range(self.patches)])
        patches = torch.cat([crop(inner, 2 * corner, self.patch_size) for corner in corners])
        return image, (majority(inner), patches), (), {"corners": corners}

    def _corner(self, label: torch.Tensor, random_class: bool) -> torch.Tensor:
        """Draw the first voxel (3,) of a patch around a voxel of a random class or of the brain, in coarse voxels."""
        present = label.unique()
        present = present[(present > 0) & (present != IGNORED)]
        if not len(present):
            wanted = torch.ones_like(label, dtype=torch.bool)
        elif random_class:
            wanted = label == present[int(torch.randint(len(present), ()))]
        else:
            wanted = torch.isin(label, present)
        voxels = wanted[0, 0].nonzero()
        centre = voxels[int(torch.randint(len(voxels), ()))]
        size = torch.tensor(self.patch_size, device=label.device)
        limit = torch.tensor(label.shape[2:], device=label.device) - size
        jitter = ((torch.rand(3, device=label.device) - 0.5) * size / 2).long()
        return (centre + jitter - size // 2).clamp(min=0).minimum(limit) // 2


class TwoScaleLoss(nn.Module):
    """Sum of the losses at both resolutions, each cross entropy plus Dice loss, without the voxels of `IGNORED`.

    Args:
        smoothing: smoothing of the Dice loss of the coarse slab and of the patches, in voxels.
        detail_weight: weight of the loss of the patches.
    """

    def __init__(self, smoothing: Sequence[float] = (20.0, 50.0), detail_weight: float = 1.0) -> None:
        super().__init__()
        self.smoothing, self.detail_weight = tuple(smoothing), detail_weight

    def forward(self, logits: Sequence[torch.Tensor | None], labels: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Compute the loss of logits (B, classes, …) and labels (B, 1, …), coarse slab and patches."""
        loss = dice_cross_entropy(logits[0], labels[0], self.smoothing[0])
        if logits[1] is None:
            return loss
        return loss + self.detail_weight * dice_cross_entropy(logits[1], labels[1], self.smoothing[1])


def dice_cross_entropy(logits: Any, labels: Any, smoothing: float) -> torch.Tensor:
    """Cross entropy plus Dice loss of a batch, as MONAI's `DiceCELoss(batch=True)`, without the voxels of `IGNORED`."""
    labels = labels[:, 0].long()
    known = labels != IGNORED
    truth = F.one_hot(labels * known, logits.shape[1]).movedim(-1, 1) * known[:, None]
    probabilities = logits.softmax(dim=1) * known[:, None]
    axes = (0, 2, 3, 4)
    overlap, total = (probabilities * truth).sum(axes), probabilities.sum(axes) + truth.sum(axes)
    dice = (2 * overlap + smoothing) / (total + smoothing)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED) + 1 - dice.mean()


def masked_average(slab: torch.Tensor) -> torch.Tensor:
    """Average blocks of 2×2×2 voxels of (B, 1, X, Y, Z), without those that are 0; 0 where at least half are 0."""
    weight = F.avg_pool3d((slab != 0).float(), 2)
    return torch.where(weight > 0.5, F.avg_pool3d(slab, 2) / weight.clamp(min=0.5), 0.0)


def majority(labels: torch.Tensor) -> torch.Tensor:
    """The most frequent label of blocks of 2×2×2 voxels of (B, 1, X, Y, Z)."""
    blocks = labels.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2)
    return blocks.flatten(-3).mode(dim=-1).values


def crop(volume: torch.Tensor, corner: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Cut a box out of (B, C, X, Y, Z)."""
    box = tuple(slice(start, start + length) for start, length in zip(corner.tolist(), size, strict=True))
    return volume[(slice(None), slice(None), *box)]
