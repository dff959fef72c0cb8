"""Random contrasts of target volumes: a domain randomisation that stands for unseen modalities."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import nn
from torch.nn import functional as F

from midiff_monai.training.regions import Region
from midiff_monai.transforms.foreground import foreground_percentiles
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE
from midiff_monai.transforms.meta import file_of

T1_KNOTS = (0.0, 0.26, 0.50, 0.62, 0.70, 1.0)
"""Intensities of a T1w volume with white matter at 0.7: air, CSF, cortex, deep grey matter, white matter, and the
brightest tissues (fat, vessels). They are the knots of the remapping. A voxel between two tissues thus stays between
their new intensities, as partial volume does in a real scan."""

TISSUE_ORDERS = ((2, 1, 0), (0, 2, 1), (0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2))
"""Ranks of CSF, cortex and white matter, from dark to bright. The first three are T2w and PD, FLAIR, and T1w."""


class RandomContrast(nn.Module):
    """Base of the contrast randomisers: remap the intensities of each slab, then degrade it as scans are.

    A subclass draws the remapping. With `mixing_prob`, a smooth random field mixes two remappings, so that no global
    curve explains the result. Outside the anatomy another remapping applies, which keeps air dark.

    The slab is then blurred, with a larger width along one random axis (clinical scans have thick slices). It gets a
    bias field and noise. Its foreground percentiles are scaled to [0, 1], as `ScaleForegroundIntensityd` does for real
    sources.

    Args:
        mixing_prob: probability that two remappings are mixed.
        level_std: standard deviation of the new intensities around well separated values.
        bias: largest absolute logarithm of the bias field.
        blur: largest standard deviation of the blur along two of the axes, in voxels.
        through_plane_blur: the same along the third axis, before the kernel is truncated, see `gaussian_blur`.
        noise: largest standard deviation of the noise, relative to the intensity range.
    """

    def __init__(
        self, mixing_prob: float, level_std: float, bias: float, blur: float, through_plane_blur: float, noise: float
    ) -> None:
        super().__init__()
        self.mixing_prob, self.level_std = mixing_prob, level_std
        self.bias, self.blur, self.through_plane_blur, self.noise = bias, blur, through_plane_blur, noise

    def forward(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Draw a contrast for each slab.

        Args:
            target: slabs (B, 1, X, Y, Z) in [0, 1], air and stripped background at 0.
            regions: maps (B, 1, X, Y, Z) of what is where, 0 outside the anatomy; see the subclass.

        Returns:
            (B, 1, X, Y, Z) in [0, 1], 0 where the target is 0 and nowhere else.
        """
        pairs = zip(target.unbind(0), regions.unbind(0), strict=True)
        return torch.stack([self._randomize(image[None], labels[None])[0] for image, labels in pairs])

    def _randomize(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        mixture = torch.sigmoid(4 * smooth_field(target)) * (torch.rand(()) < self.mixing_prob)
        first, second = self._remap_inside(target, regions), self._remap_inside(target, regions)
        inside = torch.lerp(first, second, mixture.to(target))
        source = torch.where(regions != Region.OUTSIDE, inside, self._remap_outside(target, regions))
        return self._degrade(source, foreground_mask=target > 0)

    @abstractmethod
    def _remap_inside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Give a slab (1, 1, X, Y, Z) new intensities in the anatomy."""

    @abstractmethod
    def _remap_outside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Give a slab (1, 1, X, Y, Z) new intensities outside the anatomy, where air stays dark."""

    def _degrade(self, source: torch.Tensor, foreground_mask: torch.Tensor) -> torch.Tensor:
        """Blur an image (1, 1, X, Y, Z), add bias field and noise, scale it to [0, 1]; the background stays 0."""
        sigmas = (self.blur * torch.rand(3)).tolist()
        sigmas[int(torch.randint(3, ()))] = float(self.through_plane_blur * torch.rand(()))
        # normalised, so that the empty background does not blur into the foreground
        weight = gaussian_blur(foreground_mask.to(source), sigmas).clamp(min=1e-3)
        source = gaussian_blur(source * foreground_mask, sigmas) / weight
        source = source * torch.exp(self.bias * torch.rand(()) * smooth_field(source))
        source = source.clamp(min=MIN_FOREGROUND_VALUE) * foreground_mask
        subsampled = source[..., ::2, ::2, :]
        low, high = foreground_percentiles(subsampled) if subsampled.any() else (0.0, 1.0)
        noise = self.noise * torch.rand(()) ** 2 * torch.randn_like(source)
        return ((source - low) / (high - low) + noise).clamp(MIN_FOREGROUND_VALUE, 1) * foreground_mask


class ContrastRandomizer(RandomContrast):
    """Give T1w slabs with region maps the appearance of another contrast.

    The new intensities of CSF, grey matter and white matter are a random permutation of three well separated values.
    Between tissues the remapping is piecewise linear. It is not monotone in general. At the boundary between white
    matter and a ventricle, an intermediate T1w intensity is partial volume and not cortex. There the remapping is
    linear from CSF to white matter.

    The target has white matter at 0.7. The regions have the codes of `Region`.

    Args:
        tissue_order_probs: probabilities of `TISSUE_ORDERS`. The orders of PD, T2w, FLAIR and CT prevail: in these,
            cortex is brighter than white matter. If either tissue could be the brighter one, fine detail of unknown
            sign would average out, and training would take much longer.
        csf_gm_overlap_prob: probability that the intensity of CSF moves towards cortex, up to the same value and
            slightly beyond, as in many PD volumes.
        gm_wm_overlap_prob: otherwise, probability that cortex moves towards white matter, by at most three quarters of
            the difference. In T2w, FLAIR and CT these two are close together, and CSF is apart.
        mixing_prob: as for `RandomContrast`.
        level_std: as for `RandomContrast`.
        structure_std: standard deviation of a structure's own intensity offset. Iron, for example, darkens the putamen
            in T2w and not in T1w.
        lesion_region: value of the white matter lesions in the region maps. They get an intensity of their own, see
            `draw_lesion`. None changes nothing.
        bias: as for `RandomContrast`.
        blur: as for `RandomContrast`.
        through_plane_blur: as for `RandomContrast`.
        noise: as for `RandomContrast`.
    """

    def __init__(
        self,
        tissue_order_probs: Sequence[float] = (0.4, 0.27, 0.06, 0.23, 0.02, 0.02),
        csf_gm_overlap_prob: float = 0.45,
        gm_wm_overlap_prob: float = 0.8,
        mixing_prob: float = 0.1,
        level_std: float = 0.1,
        structure_std: float = 0.1,
        lesion_region: int | None = None,
        bias: float = 0.4,
        blur: float = 0.7,
        through_plane_blur: float = 1.2,
        noise: float = 0.07,
    ) -> None:
        super().__init__(mixing_prob, level_std, bias, blur, through_plane_blur, noise)
        self.tissue_order_probs = torch.tensor(tissue_order_probs)
        self.csf_gm_overlap_prob, self.gm_wm_overlap_prob = csf_gm_overlap_prob, gm_wm_overlap_prob
        self.structure_std, self.lesion_region = structure_std, lesion_region

    def _remap_inside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        levels = self.draw_levels()
        remapped = self._remap_structures(target, regions, levels)
        if self.lesion_region is None:
            return remapped
        share = gaussian_blur((regions == self.lesion_region).to(target), [0.6, 0.6, 0.6])
        return torch.lerp(remapped, draw_lesion(levels).to(target), share)

    def _remap_structures(self, target: torch.Tensor, regions: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        at_boundary = regions == Region.VENTRICLE_BOUNDARY
        remapped = torch.where(at_boundary, remap(target, without_cortex(levels)), remap(target, levels))
        offsets = self.structure_std * torch.randn(int(regions.amax()) + 1, device=target.device)
        offsets[: Region.FIRST_STRUCTURE] = 0
        return remapped + gaussian_blur(offsets[regions.long()], [0.6, 0.6, 0.6])

    def _remap_outside(self, target: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        levels = self.draw_levels()
        levels[0] = 0
        return remap(target, levels)

    def draw_levels(self) -> torch.Tensor:
        """Draw the new intensities (6,) of `T1_KNOTS`, in [0, 1]."""
        order = torch.tensor(TISSUE_ORDERS)[self.tissue_order_probs.multinomial(1)[0]]
        csf, cortex, white = torch.tensor([0.15, 0.5, 0.85])[order] + self.level_std * torch.randn(3)
        if torch.rand(()) < self.csf_gm_overlap_prob:
            csf = torch.lerp(csf, cortex, 1.4 * torch.rand(()))
        elif torch.rand(()) < self.gm_wm_overlap_prob:
            cortex = torch.lerp(cortex, white, 0.75 * torch.rand(()))
        contrast = torch.rand(()) * 0.8 + 0.2
        deep = torch.lerp(cortex, white, torch.rand(()) * 1.4 - 0.2)
        ends = torch.rand(2)
        levels = torch.stack([ends[0], csf, cortex, deep, white, ends[1]]).clamp(0.02, 1)
        # in proton density all tissues lie in a narrow band, far above air
        return levels * contrast + (1 - contrast) * torch.rand(())


def draw_lesion(levels: torch.Tensor) -> torch.Tensor:
    """Draw the intensity (1,) of white matter lesions, given those of `T1_KNOTS`.

    Its distance from white matter is a multiple of that of cortex: 0 to 1.4 if cortex is darker than white matter, as
    in T1w, and 0.8 to 3 otherwise, as in PD, T2w and FLAIR.
    """
    cortex, white = levels[2], levels[4]
    low, high = (0.0, 1.4) if cortex < white else (0.8, 3.0)
    return (white + torch.empty(1).uniform_(low, high) * (cortex - white)).clamp(0.02, 1)


@contextmanager
def torch_seeded_by(random: np.random.RandomState) -> Iterator[None]:
    """Seed torch's generator from that of a MONAI transform while the `with` body runs. Its state is then restored."""
    with torch.random.fork_rng():
        torch.manual_seed(int(random.randint(2**31)))
        yield


def remap(image: torch.Tensor, levels: torch.Tensor, knots: Sequence[float] = T1_KNOTS) -> torch.Tensor:
    """Map the intensities of the knots, in ascending order, to the levels, linearly between the knots."""
    ends = torch.tensor(knots)
    result = torch.full_like(image, float(levels[0]))
    for (start, stop), step in zip(zip(ends, ends[1:], strict=False), levels.diff(), strict=True):
        result += ((image - start) / (stop - start)).clamp(0, 1) * step
    return result


def without_cortex(levels: torch.Tensor) -> torch.Tensor:
    """Change the levels so that intensities between CSF and white matter map to mixtures of these two."""
    knots = torch.tensor(T1_KNOTS)
    share = (knots[1:5] - knots[1]) / (knots[4] - knots[1])
    return torch.cat([levels[:1], torch.lerp(levels[1], levels[4], share), levels[5:]])


def smooth_field(image: torch.Tensor, knots: tuple[int, int, int] = (4, 4, 3)) -> torch.Tensor:
    """Draw a smooth field of the shape of an image (1, 1, X, Y, Z), uniform in [-1, 1] at its knots."""
    coarse = 2 * torch.rand(1, 1, *knots, device=image.device) - 1
    return F.interpolate(coarse, size=image.shape[2:], mode="trilinear", align_corners=True)


def gaussian_blur(image: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    """Blur (1, 1, X, Y, Z) along each axis with a Gaussian of the given standard deviation in voxels.

    The kernel is truncated at two voxels, which reduces its standard deviation: by 4 % at most up to 1, from 1.2 to
    1.08, and from 1.5 to 1.2.
    """
    for axis, sigma in enumerate(sigmas, start=2):
        taps = torch.exp(-(torch.arange(-2.0, 3.0, device=image.device) ** 2) / (2 * max(sigma, 1e-3) ** 2))
        shape, padding = [1] * 5, [0] * 6
        shape[axis] = 5
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = 2
        image = F.conv3d(F.pad(image, padding, mode="replicate"), (taps / taps.sum()).reshape(shape))
    return image


class RandomizeContrastd(MapTransform):
    """Give volumes a random contrast that depends only on the seed and the file name, for validation.

    Args:
        keys: images (1, X, Y, Z) in [0, 1].
        region_key: region maps (1, X, Y, Z), as the contrast randomiser needs them.
        contrast_randomizer: draws the contrasts.
        seed: the same seed and file name give the same contrast.
    """

    def __init__(
        self, keys: KeysCollection, region_key: str, contrast_randomizer: RandomContrast, seed: int = 0
    ) -> None:
        super().__init__(keys)
        self.region_key, self.contrast_randomizer, self.seed = region_key, contrast_randomizer, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        regions = torch.as_tensor(result[self.region_key]).as_subclass(torch.Tensor)[None]
        for key in self.key_iterator(result):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed + zlib.crc32(file_of(result[key]).name.encode()))
                image = torch.as_tensor(result[key]).as_subclass(torch.Tensor)[None]
                result[key] = convert_to_dst_type(self.contrast_randomizer(image, regions)[0], result[key])[0]
        return result
