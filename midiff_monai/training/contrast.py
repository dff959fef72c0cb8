"""Pseudo-sources: what an unseen modality might have made of the same anatomy, from the target modality alone."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, convert_to_dst_type
from torch import nn
from torch.nn import functional as F

from midiff_monai.transforms.foreground import foreground_percentiles
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE

#: Grey values of a T1w volume whose white matter is at 0.7: air, cerebrospinal fluid, cortex, deep grey matter,
#: white matter, and what is brighter (fat, vessels). The remapping has its knots here, so that a voxel between two
#: tissues lies between their new values, as partial volume does in a real scan.
T1_KNOTS = (0.0, 0.26, 0.50, 0.62, 0.70, 1.0)

#: Ranks, from dark to bright, of cerebrospinal fluid, cortex and white matter: as in T2w and PD, in FLAIR, in T1w; then
#: the rest.
ORDERS = ((2, 1, 0), (0, 2, 1), (0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2))


class ContrastRandomizer(nn.Module):
    """Give T1w slabs the look of another contrast: random tissue values, bias field, blur and noise.

    The remapping of grey values is smooth in between and in general not monotone: the levels of cerebrospinal fluid,
    grey and white matter are a random permutation of three well separated values. At times two remappings are mixed
    by a smooth random field, so that no global curve explains the result; outside the brain a third one applies, under
    which air stays dark. Where white matter borders on a ventricle, a grey value in between is a mixture of the two,
    not cortex: there the remapping leads straight from one to the other. The slab is then blurred (more along one axis,
    whichever: clinical scans have thick slices), given a bias field and noise, and stretched as `ScaleForegroundIntensityd`
    stretches a real source.

    Args:
        tissue_order_probs: how often each of `ORDERS` is drawn: most often those of PD, T2w, FLAIR and CT, in all of which
            cortex is brighter than white matter. Where either may be the brighter one at any time, fine detail of
            unknown sign averages out, and the network takes very much longer to learn any.
        csf_gm_overlap_prob: how often fluid moves towards cortex, up to the same value and a little beyond, as in many PD
            volumes.
        gm_wm_overlap_prob: how often else cortex moves towards white matter, by up to three quarters of the way: in T2w, FLAIR
            and CT the two lie close together and fluid stands apart.
        mixing: how often two remappings are mixed.
        jitter: standard deviation of the levels around their places.
        structures: standard deviation of the shift of the grey values of a structure, such as the putamen, which iron
            darkens in T2w and not in T1w.
        bias: largest logarithm of the bias field.
        blur: largest standard deviation of the blur along two of the axes, in voxels.
        thick: the same along the third, before the blur is cut off: see `gaussian_blur`.
        noise: largest standard deviation of the noise, once the contrast fills [0, 1].
    """

    def __init__(
        self,
        tissue_order_probs: Sequence[float] = (0.4, 0.27, 0.06, 0.23, 0.02, 0.02),
        csf_gm_overlap_prob: float = 0.45,
        gm_wm_overlap_prob: float = 0.8,
        mixing_prob: float = 0.1,
        level_std: float = 0.1,
        structures: float = 0.1,
        bias: float = 0.4,
        blur: float = 0.7,
        through_plane_blur: float = 1.2,
        noise: float = 0.07,
    ) -> None:
        super().__init__()
        self.tissue_order_probs = torch.tensor(tissue_order_probs)
        self.csf_gm_overlap_prob, self.gm_wm_overlap_prob, self.mixing_prob = (
            csf_gm_overlap_prob,
            gm_wm_overlap_prob,
            mixing_prob,
        )
        self.level_std, self.structures = level_std, structures
        self.bias, self.blur, self.through_plane_blur, self.noise = bias, blur, through_plane_blur, noise

    def forward(self, target: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Make one pseudo-source a slab.

        Args:
            target: (B, 1, X, Y, Z) in [0, 1], white matter at 0.7, air or stripped background at 0.
            brain: (B, 1, X, Y, Z), 0 outside the brain, 1 inside, 2 where white matter and a ventricle meet, and from
                3 on the number of a structure.

        Returns:
            (B, 1, X, Y, Z) in [0, 1], 0 wherever the target is.
        """
        pairs = zip(target.unbind(0), brain.unbind(0), strict=True)
        return torch.stack([self._remake(image[None], mask[None])[0] for image, mask in pairs])

    def _remake(self, target: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        mixture = torch.sigmoid(4 * smooth_field(target)) * (torch.rand(()) < self.mixing_prob)
        inside = torch.lerp(self._repaint(target, brain), self._repaint(target, brain), mixture.to(target))
        outer = self._levels()
        outer[0] = 0
        source = torch.where(brain > 0.5, inside, remap(target, outer))
        # what was cut away stays empty, and does not blur into what was not
        filled = target > 0
        sigmas = (self.blur * torch.rand(3)).tolist()
        sigmas[int(torch.randint(3, ()))] = float(self.through_plane_blur * torch.rand(()))
        weight = gaussian_blur(filled.to(target), sigmas).clamp(min=1e-3)
        source = gaussian_blur(source * filled, sigmas) / weight
        source = source * torch.exp(self.bias * torch.rand(()) * smooth_field(target))
        source = source.clamp(min=MIN_FOREGROUND_VALUE) * filled
        sampled = source[..., ::2, ::2, :]
        low, high = foreground_percentiles(sampled) if sampled.any() else (0.0, 1.0)
        noise = self.noise * torch.rand(()) ** 2 * torch.randn_like(source)
        return ((source - low) / (high - low) + noise).clamp(MIN_FOREGROUND_VALUE, 1) * filled

    def _repaint(self, target: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        levels = self._levels()
        painted = torch.where(brain == 2, remap(target, without_cortex(levels)), remap(target, levels))
        offsets = self.structures * torch.randn(int(brain.amax()) + 1, device=target.device)
        offsets[:3] = 0
        return painted + gaussian_blur(offsets[brain.long()], [0.6, 0.6, 0.6])

    def _levels(self) -> torch.Tensor:
        """New grey values of the knots: fluid, cortex and white matter as a jittered permutation."""
        order = torch.tensor(ORDERS)[self.tissue_order_probs.multinomial(1)[0]]
        fluid, cortex, white = torch.tensor([0.15, 0.5, 0.85])[order] + self.level_std * torch.randn(3)
        if torch.rand(()) < self.csf_gm_overlap_prob:
            fluid = torch.lerp(fluid, cortex, 1.4 * torch.rand(()))
        elif torch.rand(()) < self.gm_wm_overlap_prob:
            cortex = torch.lerp(cortex, white, 0.75 * torch.rand(()))
        contrast = torch.rand(()) * 0.8 + 0.2
        deep = torch.lerp(cortex, white, torch.rand(()) * 1.4 - 0.2)
        ends = torch.rand(2)
        levels = torch.stack([ends[0], fluid, cortex, deep, white, ends[1]]).clamp(0.02, 1)
        # a proton-density scan keeps all tissues within a narrow band, far above air
        return levels * contrast + (1 - contrast) * torch.rand(())


def remap(image: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Send the grey values of `T1_KNOTS` to the levels, linearly in between."""
    knots = torch.tensor(T1_KNOTS)
    result = torch.full_like(image, float(levels[0]))
    for (start, stop), step in zip(zip(knots, knots[1:], strict=False), levels.diff(), strict=True):
        result += ((image - start) / (stop - start)).clamp(0, 1) * step
    return result


def without_cortex(levels: torch.Tensor) -> torch.Tensor:
    """The levels under which all that lies between fluid and white matter is a mixture of these two."""
    knots = torch.tensor(T1_KNOTS)
    share = (knots[1:5] - knots[1]) / (knots[4] - knots[1])
    return torch.cat([levels[:1], torch.lerp(levels[1], levels[4], share), levels[5:]])


def smooth_field(like: torch.Tensor, knots: tuple[int, int, int] = (4, 4, 3)) -> torch.Tensor:
    """A smooth random field of the shape of `like` (1, 1, X, Y, Z), about uniform in [-1, 1] at its knots."""
    coarse = 2 * torch.rand(1, 1, *knots, device=like.device) - 1
    return F.interpolate(coarse, size=like.shape[2:], mode="trilinear", align_corners=True)


def gaussian_blur(image: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    """Blur (1, 1, X, Y, Z) along each axis by a Gaussian of the given standard deviation in voxels.

    It is cut off after two voxels: up to 1 it is what it should be to 4 %, but of 1.2 there are 1.08 left, of 1.5 1.2.
    """
    for axis, sigma in enumerate(sigmas, start=2):
        taps = torch.exp(-(torch.arange(-2.0, 3.0, device=image.device) ** 2) / (2 * max(sigma, 1e-3) ** 2))
        shape, padding = [1] * 5, [0] * 6
        shape[axis] = 5
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = 2
        image = F.conv3d(F.pad(image, padding, mode="replicate"), (taps / taps.sum()).reshape(shape))
    return image


class RandomizeContrastd(MapTransform):
    """Replace T1w volumes by pseudo-sources that depend on seed and file name alone: a validation set for any contrast.

    Args:
        keys: images (1, X, Y, Z) in [0, 1], white matter at 0.7.
        mask_key: brain masks.
        contrast_randomizer: makes them.
        seed: the same seed gives a file the same contrast, and every file one of its own.
    """

    def __init__(
        self, keys: KeysCollection, mask_key: str, contrast_randomizer: ContrastRandomizer, seed: int = 0
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.contrast_randomizer, self.seed = mask_key, contrast_randomizer, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        mask = torch.as_tensor(result[self.mask_key]).as_subclass(torch.Tensor)[None]
        for key in self.key_iterator(result):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed + zlib.crc32(_file_name(result[key]).encode()))
                image = torch.as_tensor(result[key]).as_subclass(torch.Tensor)[None]
                result[key] = convert_to_dst_type(self.contrast_randomizer(image, mask)[0], result[key])[0]
        return result


def _file_name(image: Any) -> str:
    """Of the file that a volume was read from, or nothing."""
    return Path(str(getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, ""))).name
