"""Upsampling of a translated image with the detail of its source.

A network translates on a coarse grid. The source is often finer. In a small neighbourhood, the translated image is
nearly an affine function of the source. That function is fitted on the coarse grid and applied to the fine source. This
is the fast guided filter (He and Sun, "Fast Guided Filter", arXiv 1505.00996, 2015), weighted by the foreground.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes

from midiff_monai.transforms.foreground import fill_holes
from midiff_monai.transforms.intensity import INTENSITY_RANGE, MIN_FOREGROUND_VALUE
from midiff_monai.transforms.local_regression import local_slope
from midiff_monai.transforms.meta import as_plain_tensor
from midiff_monai.transforms.resampling import restore_foreground

SLAB_VOXELS = 2**22
"""Number of voxels of the fine grid that are computed at once."""

SPACING_TOLERANCE = 1e-3
"""Relative difference up to which two voxel sizes are the same."""


class GuidedUpsampling:
    """Resample the result of a network to the grid of the source file, with the detail of the source.

    The result is the linear interpolation of the image, plus a local slope times the part of the source that the coarse
    grid lacks. The slope is that of the regression of the image on the source in a box around each voxel of the coarse
    grid. `epsilon` is added to the variance of the source in the box. So the slope is near 0 where the source varies
    less than that, as noise in uniform tissue does.

    Where the source has the intensity of its coarse version, the result is the interpolated image.

    Args:
        radius: half the side of the box, in voxels of the coarse grid; the box has 2·radius + 1 voxels a side. 0 means
            linear interpolation.
        epsilon: variance of the source at which the slope is halved, for a source scaled to [0, 1].

    Example:
        >>> fine = torch.linspace(0.2, 0.8, 16).reshape(1, 16, 1, 1).expand(1, 16, 16, 16).contiguous()
        >>> source = MetaTensor(100 * fine, affine=torch.eye(4))
        >>> meta = {"intensity_range": torch.tensor([0.0, 100.0])}
        >>> conformed = MetaTensor(fine[:, ::2, ::2, ::2], affine=torch.diag(torch.tensor([2.0, 2, 2, 1])), meta=meta)
        >>> foreground = torch.ones(16, 16, 16, dtype=torch.bool)
        >>> upsampling = GuidedUpsampling(radius=2, epsilon=1e-3)
        >>> upsampling(1 - as_plain_tensor(conformed), conformed, source, foreground).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(self, radius: int, epsilon: float) -> None:
        self.radius, self.epsilon = radius, epsilon

    def __call__(
        self, image: torch.Tensor, conformed: MetaTensor, source: MetaTensor, foreground: torch.Tensor
    ) -> torch.Tensor:
        """Resample an image to the grid of its source.

        Args:
            image: (C, X, Y, Z) in [0, 1]. Channels after the first are interpolated linearly.
            conformed: (S, X, Y, Z), one or several sources on the grid of the image, 0 in the background, as
                `ScaleForegroundIntensityd` returns them, with the intensity range of each.
            source: (S, X', Y', Z'), the sources before they were scaled.
            foreground: (X', Y', Z'), true where the result is known.

        Returns:
            (C, X', Y', Z') in [0, 1], float32; 0 outside the foreground, and where no neighbouring voxel is known.
        """
        mask = (as_plain_tensor(conformed) != 0).any(dim=0)
        grids = mask, conformed.affine, foreground, source.affine
        restored = restore_foreground(image, *grids)
        if self.radius and is_finer(source, conformed):
            self._add_detail(restored[0], image[0], conformed, source, foreground)
        return restored

    def _add_detail(
        self,
        restored: torch.Tensor,
        image: torch.Tensor,
        conformed: MetaTensor,
        source: MetaTensor,
        foreground: torch.Tensor,
    ) -> None:
        """Add the mean detail of the sources to the interpolated image (X', Y', Z'), in place and slab by slab."""
        regressions = [*self._regressions(image, conformed, source, foreground)]
        for slab, affine in _slabs(source):
            count = torch.stack([regression.foreground[slab] for regression in regressions]).sum(dim=0)
            detail = sum(regression.detail(slab, affine) for regression in regressions) / count.clamp(min=1)
            known = restored[slab] != 0
            restored[slab] = torch.where(known, (restored[slab] + detail).clamp(MIN_FOREGROUND_VALUE, 1), 0)

    def _regressions(
        self, image: torch.Tensor, conformed: MetaTensor, source: MetaTensor, foreground: torch.Tensor
    ) -> Iterator[_Regression]:
        """The regression of an image (X, Y, Z) on each source."""
        windows = torch.as_tensor(conformed.meta[INTENSITY_RANGE]).reshape(-1, 2).tolist()
        for coarse, fine, window in zip(as_plain_tensor(conformed), as_plain_tensor(source), windows, strict=True):
            slope = local_slope(image, coarse, coarse != 0, self.radius, self.epsilon)
            own = foreground if len(source) == 1 else torch.from_numpy(fill_holes(fine.numpy() != 0))
            yield _Regression(slope, coarse, conformed.affine, fine, own, window)


class _Regression(NamedTuple):
    """The local regression of an image on one source.

    Attributes:
        slope: (X, Y, Z), on the grid of the image.
        coarse: (X, Y, Z), the source on that grid.
        affine: of that grid.
        fine: (X', Y', Z'), the source before it was scaled.
        foreground: (X', Y', Z'), true where the source is known.
        window: the intensities of `fine` that are 0 and 1 in `coarse`.
    """

    slope: torch.Tensor
    coarse: torch.Tensor
    affine: torch.Tensor
    fine: torch.Tensor
    foreground: torch.Tensor
    window: tuple[float, float]

    def detail(self, slab: slice, affine: torch.Tensor) -> torch.Tensor:
        """What the source adds to the interpolated image in a slab of its grid; 0 where it is not known."""
        low, high = self.window
        scaled = ((self.fine[slab] - low) / (high - low)).clamp(MIN_FOREGROUND_VALUE, 1)
        grids = self.coarse != 0, self.affine, self.foreground[slab], affine
        slope, product = restore_foreground(torch.stack([self.slope, self.slope * self.coarse]), *grids)
        return slope * scaled - product


def is_finer(source: MetaTensor, conformed: MetaTensor) -> bool:
    """Tell whether the voxels of a source are smaller along any axis than those of a grid along each axis."""
    smallest, coarse = (float(voxel_sizes(volume.affine.cpu().numpy()).min()) for volume in (source, conformed))
    return smallest < (1 - SPACING_TOLERANCE) * coarse


def _slabs(source: MetaTensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Divide the grid of sources (S, X, Y, Z) along its first axis: the ranges of the slabs, and their affines."""
    planes, rows, columns = source.shape[1:]
    thickness = max(1, SLAB_VOXELS // (rows * columns))
    for start in range(0, planes, thickness):
        affine = source.affine.clone()
        affine[:3, 3] += start * affine[:3, 0]
        yield slice(start, start + thickness), affine
