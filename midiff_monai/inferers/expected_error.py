"""The error that is to be expected of a synthetic volume, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes

from midiff_monai.transforms.local_regression import box_mean, unexplained_share
from midiff_monai.transforms.meta import as_plain_tensor

RADIUS = 2
"""Half the side of the boxes in which the source explains the synthetic volume, in voxels of the network's grid."""

LEAST_SHARE, LEAST_GRADIENT = 0.05, 0.01
"""Added before the logarithm of the unexplained share, and of the gradient in 1/mm."""


class ExpectedError:
    """Expects a larger error where the source explains a synthetic volume less, and at edges.

    The logarithm of the expected absolute error is a linear function of the six `predictors` of a voxel: it is a
    generalised linear model with a logarithmic link. Its coefficients were fitted to pairs of synthetic and real
    volumes. It holds for the brain, and for the steps and samples that the bundle takes by default.

    Args:
        coefficients: one for each of the predictors.
        interval: half the width of an interval that holds 90 % of the real intensities, by the expected error.

    Example:
        >>> scan = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.eye(4))
        >>> expected_error = ExpectedError([-3.0, 0.0, 0.0, 0.0, 0.0, 0.4], interval=2.0)
        >>> expected_error(torch.rand(1, 8, 8, 8), scan, whole_head=False).max()
        tensor(0.0498)
    """

    def __init__(self, coefficients: Sequence[float], interval: float) -> None:
        self.coefficients, self.interval = torch.tensor(coefficients, dtype=torch.float32), interval

    def __call__(self, synthetic: torch.Tensor, conformed: MetaTensor, whole_head: bool) -> torch.Tensor:
        """Compute the expected absolute error of a synthetic volume.

        Args:
            synthetic: (1, X, Y, Z) in [0, 1].
            conformed: (S, X, Y, Z), one or several sources on the same grid, 0 in the background.
            whole_head: whether the sources show a whole head.

        Returns:
            (1, X, Y, Z), in the intensities of the synthetic volume; 0 where no source is known.
        """
        logarithm = torch.tensordot(self.coefficients, predictors(synthetic, conformed, whole_head), dims=1)
        known = (as_plain_tensor(conformed) != 0).any(dim=0)
        return torch.where(known, logarithm.exp().clamp(max=1), 0)[None]


def predictors(synthetic: torch.Tensor, conformed: MetaTensor, whole_head: bool) -> torch.Tensor:
    """Return what the error of a synthetic volume is predicted by.

    Of several sources, the one counts that explains the surroundings of a voxel best.

    Args:
        synthetic: (1, X, Y, Z) in [0, 1].
        conformed: (S, X, Y, Z), its sources.
        whole_head: whether they show a whole head.

    Returns:
        (6, X, Y, Z): 1, the intensity, its square, the logarithm of the share of the local variance that the source
        does not explain, that of the gradient per mm, and 1 in a whole head.
    """
    image, sources = synthetic[0], as_plain_tensor(conformed)
    shares = torch.stack([unexplained_share(image, source, source != 0, RADIUS) for source in sources])
    share = torch.where(sources != 0, shares, 1).amin(dim=0)
    gradient = _gradient(image, (sources != 0).any(dim=0), voxel_sizes(conformed.affine.cpu().numpy()).tolist())
    logarithms = (share + LEAST_SHARE).log(), (gradient + LEAST_GRADIENT).log()
    head = torch.full_like(image, float(whole_head))
    return torch.stack([torch.ones_like(image), image, image.square(), *logarithms, head])


def _gradient(image: torch.Tensor, mask: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """Gradient magnitude per mm; the background continues the image, so that the surface of a brain is no edge."""
    weight = mask.float()
    around = box_mean(weight * image, 1) / box_mean(weight, 1).clamp(min=1e-6)
    filled = torch.where(mask, image, around)
    # an axis of one slice has no differences
    axes = [axis for axis, size in enumerate(image.shape) if size > 1]
    parts = torch.gradient(filled, spacing=[spacing[axis] for axis in axes], dim=axes)
    return torch.stack(parts).square().sum(dim=0).sqrt()
