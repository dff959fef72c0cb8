"""Local mutual information between two images, as a differentiable layer.

Wang et al., "Mutual Information Guided Diffusion for Zero-shot Cross-modality Medical Image Translation",
IEEE TMI 2024, doi 10.1109/TMI.2024.3382043. With patch offsets Ω and search offsets Q,

    LMI(S, X)(i) = max over d in Q of  NMI(S on i + Ω, X on i + d + Ω),    NMI = 2 (H_S + H_X − H_SX) / (H_S + H_X).

Two estimators of the entropies are offered. "parzen" is the published one: Shannon entropy of Parzen-window
histograms. "renyi" needs no histogram: Rényi's entropy of order two, H = −log IP, from the information potential
IP = mean over i, j in Ω of k(S_i − S_j)² of a Gaussian kernel k (Príncipe, Information Theoretic Learning, 2010),
the joint potential having the product of both images' kernels under the mean.

Where numba is installed, `lmi_numba.py` takes over what it can of "parzen"; torch does the same, more slowly.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

TINY = 1e-6

IMAGES_AT_ONCE = 8
"""Images that are compared at a time on a CPU: what is made of more of them on the way falls out of its caches."""


@dataclass(frozen=True)
class LocalStatistics:
    """What an estimator needs to know of one image, wherever it is compared.

    Attributes:
        features: per-pixel features; (B, C, *spatial) with the margin that patches and search need.
        entropy: (B, 1, *spatial) entropy of the patch around each pixel, with the margin that the search needs.
    """

    features: torch.Tensor
    entropy: torch.Tensor

    def split(self, size: int, count: int) -> Iterator[LocalStatistics]:
        """The statistics of `size` images at a time; those of a single image stand for `count`."""
        all_of_them = (tensor.expand(count, *tensor.shape[1:]) for tensor in (self.features, self.entropy))
        return map(LocalStatistics, *(tensor.split(size) for tensor in all_of_them))


class LocalMutualInformation(nn.Module):
    """Map of the normalised mutual information of the patches of two images, maximised over small shifts.

    The map lies in [0, 1]. It is 0 where either patch is flat, never NaN. Beyond the border the images repeat
    their edge; values outside [0, 1] are clamped, so that a noisy image keeps a meaningful histogram.

    Args:
        patch_size: side of the patches Ω, odd.
        search_size: side of the window of shifts Q, odd.
        estimator: "parzen" (the published formula) or "renyi" (closed form, no bins).
        spatial_dims: 2 or 3.
        bandwidth: standard deviation of the Gaussian kernel on the [0, 1] scale. Default: 8/255, as published,
            for "parzen"; 0.1 for "renyi".
        bins: number of histogram bins of "parzen", the first centred on 0 and the last on 1.
        reduction: "max" over the shifts, as published, or "none": one channel a shift, in the order of `shifts`.

    Raises:
        ValueError: for a size that is not positive and odd, or an unknown name.
    """

    estimator: ParzenEntropy | RenyiEntropy

    def __init__(
        self,
        patch_size: int = 3,
        search_size: int = 3,
        estimator: Literal["parzen", "renyi"] = "renyi",
        spatial_dims: int = 2,
        bandwidth: float | None = None,
        bins: int = 27,
        reduction: Literal["max", "none"] = "max",
    ) -> None:
        super().__init__()
        if any(size < 1 or size % 2 == 0 for size in (patch_size, search_size)):
            raise ValueError(f"patch_size and search_size must be positive and odd, got {patch_size} and {search_size}")
        if estimator not in ESTIMATORS or reduction not in ("max", "none"):
            raise ValueError(f"unknown estimator {estimator!r} or reduction {reduction!r}")
        self.patch_radius, self.search_radius = patch_size // 2, search_size // 2
        self.spatial_dims, self.reduction = spatial_dims, reduction
        self.estimator = ESTIMATORS[estimator](patch_size, spatial_dims, bandwidth, bins)

    @property
    def shifts(self) -> list[tuple[int, ...]]:
        """The search offsets Q, one tuple of pixels each."""
        window = range(-self.search_radius, self.search_radius + 1)
        return list(itertools.product(window, repeat=self.spatial_dims))

    def prepare(self, source: torch.Tensor) -> LocalStatistics:
        """Compute once what depends on the source (B, 1, *spatial) alone; `forward` takes it in its place."""
        return self.estimator(_extend(source, self.patch_radius))

    def forward(self, source: torch.Tensor | LocalStatistics, target: torch.Tensor) -> torch.Tensor:
        """Compare two images.

        Args:
            source: (B, 1, *spatial) in [0, 1], or what `prepare` made of it.
            target: (B, 1, *spatial) in [0, 1]; gradients flow to it. Of either, one may stand for all.

        Returns:
            (B, 1, *spatial), or (B, number of shifts, *spatial) without reduction.
        """
        fixed = source if isinstance(source, LocalStatistics) else self.prepare(source)
        count = max(len(fixed.features), len(target))
        size = IMAGES_AT_ONCE if target.device.type == "cpu" else count
        pairs = zip(fixed.split(size, count), target.expand(count, *target.shape[1:]).split(size), strict=True)
        return torch.cat([self._maps(*pair) for pair in pairs])

    def _maps(self, fixed: LocalStatistics, target: torch.Tensor) -> torch.Tensor:
        moving = self.estimator(_extend(target, self.patch_radius + self.search_radius))
        maps = (self._compare(fixed, shifted) for shifted in self._shifted(moving, fixed))
        return torch.cat(list(maps), dim=1) if self.reduction == "none" else functools.reduce(torch.maximum, maps)

    def _shifted(self, moving: LocalStatistics, fixed: LocalStatistics) -> Iterator[LocalStatistics]:
        for shift in self.shifts:
            start = [offset + self.search_radius for offset in shift]
            yield LocalStatistics(
                _window(moving.features, start, fixed.features.shape[2:]),
                _window(moving.entropy, start, fixed.entropy.shape[2:]),
            )

    def _compare(self, fixed: LocalStatistics, moving: LocalStatistics) -> torch.Tensor:
        total = fixed.entropy + moving.entropy
        information = total - self.estimator.joint_entropy(fixed.features, moving.features)
        return (2 * information / total.clamp(min=TINY)).clamp(min=0)


class ParzenEntropy(nn.Module):
    """Shannon entropy, in nats, of the Parzen-window histogram of each patch; features are the bins' weights.

    Attributes:
        use_numba: whether compiled code may be used, if there is any that serves: for images on a CPU in two
            dimensions and single precision, as long as no gradient is asked for.
    """

    centres: torch.Tensor
    use_numba = True

    def __init__(self, patch_size: int, spatial_dims: int, bandwidth: float | None, bins: int) -> None:
        super().__init__()
        self.patch_size, self.spatial_dims, self.bandwidth = patch_size, spatial_dims, bandwidth or 8 / 255
        centres = torch.linspace(0, 1, bins).reshape(1, -1, *[1] * spatial_dims)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, image: torch.Tensor) -> LocalStatistics:
        """Statistics of an image that has been extended by its margins."""
        if compiled := self._compiled(image):
            weights = compiled.bin_weights(image, self.centres.to(image), self.bandwidth)
            return LocalStatistics(weights, compiled.entropy(weights, self.patch_size))
        logits = -((image - self.centres.to(image)) ** 2) / (2 * self.bandwidth**2)
        # no weight underflows to 0, where p log p and its gradient are not finite
        weights = torch.softmax((logits - logits.amax(dim=1, keepdim=True)).clamp(min=-20), dim=1)
        return LocalStatistics(weights, self._entropy(weights).unsqueeze(1))

    def joint_entropy(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Entropy (B, 1, *spatial) of the joint histogram p(a, b) = mean over k in Ω of w_a(S_k) w_b(X_k)."""
        if compiled := self._compiled(fixed, moving):
            return compiled.joint_entropy(fixed, moving, self.patch_size)
        return sum(self._entropy(weight * moving) for weight in fixed.split(1, dim=1)).unsqueeze(1)  # type: ignore[union-attr]

    def _entropy(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum (B, *spatial) over the bins of −p log p."""
        shares = self._mean(weights)
        # the logarithm is nearly the whole cost, and takes half as long as in special.entr
        return -(shares * shares.log()).sum(dim=1)

    def _mean(self, maps: torch.Tensor) -> torch.Tensor:
        """Mean over the patch around each pixel; the result lacks the margin."""
        for axis in range(2, 2 + self.spatial_dims):
            length = maps.shape[axis] - self.patch_size + 1
            maps = sum(maps.narrow(axis, k, length) for k in range(self.patch_size))  # type: ignore[assignment]
        return maps / self.patch_size**self.spatial_dims

    def _compiled(self, *tensors: torch.Tensor) -> ModuleType | None:
        """The module that computes the same of these tensors, only faster, if there is one."""
        suitable = all(t.ndim == 4 and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return _lmi_numba() if self.use_numba and suitable and not gradient else None


@functools.cache
def _lmi_numba() -> ModuleType | None:
    try:
        from midiff_monai.guidance import mutual_information_numba as lmi_numba
    except (ImportError, RuntimeError):  # no numba, or no folder where it may keep what it compiles
        return None
    return lmi_numba


class RenyiEntropy(nn.Module):
    """Rényi's entropy of order two of each patch, in nats; features are squared kernels of pairs of pixels.

    The pairs (i, j) of a patch are grouped by their displacement δ = j − i: for each δ one map of k² serves every
    patch. It is kept at the lower corner of the box that the pair spans; then the pairs of a patch are those whose
    corner lies in the first p − |δ| places along each axis, whatever the signs of δ. Opposite displacements count
    the same pairs: half of them suffice.
    """

    def __init__(self, patch_size: int, spatial_dims: int, bandwidth: float | None, bins: int) -> None:
        super().__init__()
        self.patch_size, self.spatial_dims, self.bandwidth = patch_size, spatial_dims, bandwidth or 0.1
        reach = range(1 - patch_size, patch_size)
        self.displacements = [d for d in itertools.product(reach, repeat=spatial_dims) if d > (0,) * spatial_dims]

    def forward(self, image: torch.Tensor) -> LocalStatistics:
        """Statistics of an image that has been extended by its margins."""
        # what the padding holds is of no consequence: no patch of the image has a pair there
        padded, shape = F.pad(image, (0, self.patch_size - 1) * self.spatial_dims), image.shape[2:]
        ends = [([max(-d, 0) for d in delta], [max(d, 0) for d in delta]) for delta in self.displacements]
        differences = (_window(padded, i, shape) - _window(padded, j, shape) for i, j in ends)
        kernels = (torch.exp(-((difference / self.bandwidth) ** 2)) for difference in differences)
        # the empty first part is all there is for patches of one pixel
        features = torch.cat([image[:, :0], *kernels], dim=1)
        return LocalStatistics(features, self._entropy(features, features.unbind(dim=1)))

    def joint_entropy(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """Entropy (B, 1, *spatial) of the pairs of patches."""
        return self._entropy(fixed, (a * b for a, b in zip(fixed.unbind(dim=1), moving.unbind(dim=1), strict=True)))

    def _entropy(self, like: torch.Tensor, features: Iterable[torch.Tensor]) -> torch.Tensor:
        """The entropy (B, 1, *spatial) of one feature a displacement, each made only when its turn comes."""
        # a pixel paired with itself: kernel 1, and one pair where every other displacement stands for two
        by_extent = {(0,) * self.spatial_dims: like.new_full((len(like), *like.shape[2:]), 0.5)}
        for delta, feature in zip(self.displacements, features, strict=True):
            extent = tuple(abs(d) for d in delta)
            by_extent[extent] = by_extent[extent] + feature if extent in by_extent else feature
        potential = 2 * self._sum_corners(by_extent) / self.patch_size ** (2 * self.spatial_dims)
        return -torch.log(potential).unsqueeze(1)

    def _sum_corners(self, by_extent: dict[tuple[int, ...], torch.Tensor], axis: int = 0) -> torch.Tensor:
        """Sum, for every patch, each map over the corners that its extent allows, one axis after the other.

        With p places along an axis, a pair of extent a may have its corner at place j ≤ p − 1 − a. So place j takes
        the sum of all maps with a ≤ p − 1 − j: running sums over a, one for each place.
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
            place = running.narrow(axis + 1, self.patch_size - 1 - extent, length)
            total = place if total is None else total + place
        return total  # type: ignore[return-value]


ESTIMATORS: dict[str, type[ParzenEntropy] | type[RenyiEntropy]] = {"parzen": ParzenEntropy, "renyi": RenyiEntropy}


def standardize_locally(image: torch.Tensor, size: int = 7, floor: float = 0.04) -> torch.Tensor:
    """Bring every neighbourhood to the same mean and contrast, so that a faint edge counts as much as a strong one.

    Args:
        image: (B, 1, *spatial) in [0, 1].
        size: side of the neighbourhood, odd.
        floor: standard deviation below which contrast counts as noise and is not raised to full height.

    Returns:
        The same shape, in [0, 1]: 0.5 is the local mean, ±0.5 three local standard deviations.
    """
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    mean = pool(_extend(image, size // 2), size, stride=1)
    variance = (pool(_extend(image**2, size // 2), size, stride=1) - mean**2).clamp(min=0)
    return (0.5 + (image - mean) / (6 * (variance + floor**2).sqrt())).clamp(0, 1)


def _extend(image: torch.Tensor, margin: int) -> torch.Tensor:
    """Clamp to [0, 1] and repeat the edge `margin` times on every side."""
    return F.pad(image.clamp(0, 1), (margin,) * 2 * (image.ndim - 2), mode="replicate")


def _window(image: torch.Tensor, start: list[int], shape: torch.Size) -> torch.Tensor:
    for axis, (first, length) in enumerate(zip(start, shape, strict=True), start=2):
        image = image.narrow(axis, first, length)
    return image
