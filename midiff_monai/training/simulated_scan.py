"""Scans of random contrasts simulated from label maps of whole heads at 1 mm, to be translated to synthetic T1w.

The segmenter learns from these synthetic T1w with the labels of the map. It thus meets what the translation makes of
lesions, thick slices and tissues without contrast.
"""

from __future__ import annotations

import torch

from midiff_monai.training.contrast import T1_KNOTS, ContrastRandomizer, remap
from midiff_monai.training.simulated_lesions import LESION_OF
from midiff_monai.training.simulated_t1 import OUTSIDE_BRAIN, RandSimulateT1wd

FLUID_KNOT = T1_KNOTS[1]

DARKEST = 0.01


class RandSimulateScand(RandSimulateT1wd):
    """Simulate a scan of a random contrast: PD, T2w, FLAIR or anything between.

    The mean of each structure in T1w is remapped by the curve that `ContrastRandomizer` draws. Each structure has an
    offset of its own. Tissues outside the brain have another curve. Lesions are brighter than cortex where cortex is
    brighter than white matter, and darker where it is darker. Air around a head has noise.

    Args:
        contrast_randomizer: draws the intensities of tissues.
        lesion_contrast: range of the difference between lesion and cortex.
        options: those of `RandSimulateT1wd`. `structure_std` is the standard deviation of a structure's offset.
    """

    def __init__(
        self,
        *args: object,
        contrast_randomizer: ContrastRandomizer,
        lesion_contrast: tuple[float, float] = (0.05, 0.4),
        **options: object,
    ) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.contrast_randomizer, self.lesion_contrast = contrast_randomizer, lesion_contrast

    def _simulate(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stripped, foreground_mask = self._draw_foreground(labels)
        means = self._draw_contrast()
        image = self._acquire(means[labels] * foreground_mask, foreground_mask).clamp(min=DARKEST) * foreground_mask
        if not stripped:
            air = DARKEST * torch.randn_like(image).abs()
            image = torch.where(foreground_mask, image, air)
        return image, foreground_mask

    def _draw_contrast(self) -> torch.Tensor:
        """Draw the intensity of every label."""
        t1 = self._draw_means()
        levels, outer_levels = (self.contrast_randomizer.draw_levels() for _ in range(2))
        outer_levels[0] = 0
        means = remap(t1.clamp(min=FLUID_KNOT), levels)
        outside = torch.tensor(OUTSIDE_BRAIN)
        means[outside] = remap(t1[outside], outer_levels)
        cortex, white = levels[2], levels[4]
        lesion = cortex + torch.sign(cortex - white) * torch.empty(()).uniform_(*self.lesion_contrast)
        for label in LESION_OF.values():
            means[label] = lesion
        return means.clamp(DARKEST, 1.2) * (t1 != 0)
