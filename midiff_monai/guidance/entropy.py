"""Entropies of the patches of an image, and joint entropies of two: the estimators of local mutual information.

Ω are the offsets of a patch around each pixel. All entropies are in nats.

Parzen: a pixel of intensity v has the weight w_b(v) ∝ exp(−(v − c_b)² / 2h²) in the bin b with centre c_b; its weights
sum to 1. The joint histogram is p(a, b) = mean over k in Ω of w_a(S_k) w_b(X_k), and H = −Σ p log p.

Rényi: entropy of order two, H = −log IP, without a histogram. The information potential is IP = mean over i, j in Ω of
k(S_i − S_j)², with the Gaussian kernel k (Príncipe, Information Theoretic Learning, Springer 2010). The joint potential
averages the product k(S_i − S_j)² k(X_i − X_j)².

If numba is installed, `entropy_numba.py` accelerates the Parzen estimator on CPUs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LocalStatistics:
    """Statistics of one image that do not depend on the image that it is compared with.

    Attributes:
        features: (B, C, *spatial), per-pixel features, with the margin that patches and shifts need.
        entropy: (B, 1, *spatial), entropy in nats of the patch around each pixel, with the margin that shifts need.
    """

    features: torch.Tensor
    entropy: torch.Tensor

    def split(self, size: int, count: int) -> Iterator[LocalStatistics]:
        """Split `count` images into batches of `size`; a single image is repeated `count` times."""
        expanded = (tensor.expand(count, *tensor.shape[1:]) for tensor in (self.features, self.entropy))
        return map(LocalStatistics, *(tensor.split(size) for tensor in expanded))


class ParzenEntropy(nn.Module):
    """Shannon entropy, in nats, of the Parzen-window histogram of each patch.

    The features of a pixel are its bin weights w_b.

    Attributes:
        use_numba: use compiled code where possible. It requires numba, a CPU, two-dimensional float32 images, and no
            gradient.
    """

    centres: torch.Tensor
    use_numba = True

    def __init__(self, patch_size: int, spatial_dims: int, bandwidth: float | None, bins: int) -> None:
        super().__init__()
        self.patch_size, self.spatial_dims, self.bandwidth = patch_size, spatial_dims, bandwidth or 8 / 255
        centres = torch.linspace(0, 1, bins).reshape(1, -1, *[1] * spatial_dims)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, image: torch.Tensor) -> LocalStatistics:
        """Compute the statistics of an image (B, 1, *spatial) that is padded by its margins."""
        if compiled := self._compiled_backend(image):
            weights = compiled.bin_weights(image, self.centres.to(image), self.bandwidth)
            return LocalStatistics(weights, compiled.entropy(weights, self.patch_size))
        logits = -((image - self.centres.to(image)) ** 2) / (2 * self.bandwidth**2)
        # the lower bound keeps every weight above 0; at 0, log p is infinite and the gradient undefined
        weights = torch.softmax((logits - logits.amax(dim=1, keepdim=True)).clamp(min=-20), dim=1)
        return LocalStatistics(weights, self._entropy(weights).unsqueeze(1))

    def joint_entropy(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Entropy (B, 1, *spatial) of the joint histogram p(a, b) = mean over k in Ω of w_a(S_k) w_b(X_k)."""
        if compiled := self._compiled_backend(fixed, moving):
            return compiled.joint_entropy(fixed, moving, self.patch_size)
        return sum(self._entropy(weight * moving) for weight in fixed.split(1, dim=1)).unsqueeze(1)  # type: ignore[union-attr]

    def _entropy(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum (B, *spatial) of −p log p over the bins."""
        histogram = self._patch_mean(weights)
        # the logarithm dominates the cost; torch.special.entr takes twice as long
        return -(histogram * histogram.log()).sum(dim=1)

    def _patch_mean(self, maps: torch.Tensor) -> torch.Tensor:
        """Mean over the patch around each pixel, without the margin."""
        for axis in range(2, 2 + self.spatial_dims):
            length = maps.shape[axis] - self.patch_size + 1
            maps = sum(maps.narrow(axis, k, length) for k in range(self.patch_size))  # type: ignore[assignment]
        return maps / self.patch_size**self.spatial_dims

    def _compiled_backend(self, *tensors: torch.Tensor) -> ModuleType | None:
        """The compiled module, or None where it does not support these tensors."""
        suitable = all(t.ndim == 4 and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return _numba_backend() if self.use_numba and suitable and not gradient else None


@functools.cache
def _numba_backend() -> ModuleType | None:
    try:
        from midiff_monai.guidance import entropy_numba
    except (ImportError, RuntimeError):  # numba is missing, or has no writable cache folder
        return None
    return entropy_numba


class RenyiEntropy(nn.Module):
    """Rényi's entropy of order two of each patch, in nats.

    H = −log IP with IP = mean over i, j in Ω of k(S_i − S_j)². The pairs (i, j) are grouped by their displacement
    δ = j − i. One map of k² per δ serves all patches; these maps are the features. Each value is stored at the lower
    corner of the box that the pair spans. A patch of side p then contains the pairs whose corner lies within the first
    p − |δ| positions of the patch along each axis, for any sign of δ. Opposite displacements give the same pairs, so
    half of the displacements suffice.
    """

    def __init__(self, patch_size: int, spatial_dims: int, bandwidth: float | None, bins: int) -> None:
        super().__init__()
        self.patch_size, self.spatial_dims, self.bandwidth = patch_size, spatial_dims, bandwidth or 0.1
        reach = range(1 - patch_size, patch_size)
        self.displacements = [d for d in itertools.product(reach, repeat=spatial_dims) if d > (0,) * spatial_dims]

    def forward(self, image: torch.Tensor) -> LocalStatistics:
        """Compute the statistics of an image (B, 1, *spatial) that is padded by its margins."""
        # the values of the padding do not matter: no patch contains a pair that reaches it
        padded, shape = F.pad(image, (0, self.patch_size - 1) * self.spatial_dims), image.shape[2:]
        ends = [([max(-d, 0) for d in delta], [max(d, 0) for d in delta]) for delta in self.displacements]
        differences = (crop(padded, i, shape) - crop(padded, j, shape) for i, j in ends)
        kernels = (torch.exp(-((difference / self.bandwidth) ** 2)) for difference in differences)
        # patches of one pixel have no displacements; the empty first part keeps the concatenation valid
        features = torch.cat([image[:, :0], *kernels], dim=1)
        return LocalStatistics(features, self._entropy(features, features.unbind(dim=1)))

    def joint_entropy(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Joint entropy (B, 1, *spatial): the potential averages the product of both images' features."""
        return self._entropy(fixed, (a * b for a, b in zip(fixed.unbind(dim=1), moving.unbind(dim=1), strict=True)))

    def _entropy(self, reference: torch.Tensor, features: Iterable[torch.Tensor]) -> torch.Tensor:
        """Entropy (B, 1, *spatial) from one feature map (B, *spatial) per displacement, consumed one at a time."""
        # a pixel paired with itself has kernel 1; it counts once, all other displacements count twice
        by_extent = {(0,) * self.spatial_dims: reference.new_full((len(reference), *reference.shape[2:]), 0.5)}
        for delta, feature in zip(self.displacements, features, strict=True):
            extent = tuple(abs(d) for d in delta)
            by_extent[extent] = by_extent[extent] + feature if extent in by_extent else feature
        potential = 2 * self._sum_corners(by_extent) / self.patch_size ** (2 * self.spatial_dims)
        return -torch.log(potential).unsqueeze(1)

    def _sum_corners(self, by_extent: dict[tuple[int, ...], torch.Tensor], axis: int = 0) -> torch.Tensor:
        """Sum, for every patch, each map over the corners that its extent allows, axis by axis.

        Along an axis of p positions, a pair of extent a has its corner at a position j ≤ p − 1 − a. Position j
        therefore receives the sum of all maps with a ≤ p − 1 − j. These are running sums over a.
        """
        if axis == self.spatial_dims:
            return by_extent[()]
        running: torch.Tensor | None = None
        total: torch.Tensor | None = None
        for extent in range(self.patch_size):
            rest = {key[1:]: value for key, value in by_extent.items() if key[0] == extent}
            inner = self._sum_corners(rest, axis + 1)
            running = inner if running is None else running + inner
            length = running.shape[axis + 1] - self.patch_size + 1
            shifted = running.narrow(axis + 1, self.patch_size - 1 - extent, length)
            total = shifted if total is None else total + shifted
        return total  # type: ignore[return-value]


def crop(image: torch.Tensor, start: list[int], shape: torch.Size) -> torch.Tensor:
    """Crop (B, C, *spatial) to a spatial shape that begins at `start`."""
    for axis, (first, length) in enumerate(zip(start, shape, strict=True), start=2):
        image = image.narrow(axis, first, length)
    return image
