"""Preparation of slab batches for the trainers: slices with their neighbours, noise, timesteps and sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddim import DDIMPredictionType

from midiff_monai.inferers.slicewise import foreground_box, stack_slices
from midiff_monai.training.augmentation import MARGIN_RANGE
from midiff_monai.transforms.meta import as_plain_tensor


def inner_slabs(slabs: torch.Tensor, context: int, margin: int) -> torch.Tensor:
    """Compute `inner_slices` and restack them: (B, 2·context + 1, X, Y, Z − 2·margin).

    With a margin of `context`, every slice has real neighbours.
    """
    return inner_slices(slabs, context, margin).unflatten(0, (len(slabs), -1)).movedim(1, -1)


def inner_slices(slabs: torch.Tensor, context: int, margin: int) -> torch.Tensor:
    """Cut slabs (B, 1, X, Y, Z), without the outer `margin` slices, into (B·(Z − 2·margin), 2·context + 1, X, Y)."""
    slices = stack_slices(slabs, context).unflatten(0, (slabs.shape[0], slabs.shape[-1]))
    return slices[:, margin : slabs.shape[-1] - margin].flatten(0, 1).contiguous()


class LMIPrepareBatch(PrepareBatch):
    """Prepare T1w slabs for a training step of an `LMIGuidedInferer`.

    The source is the target under a random contrast, or the target itself, so no second modality is needed. Whole
    batches are skull-stripped at random, and cropped to the remaining foreground to save time. Each volume has its own
    margin, see `RandSkullStripd`. A batch has the keys `image`, `regions` for random contrasts, and `signed_distance`
    if brains are stripped.

    Args:
        scheduler: gives the number of timesteps. Its `prediction_type` determines the regression target: the image, the
            noise or the velocity (Salimans and Ho, ICLR 2022, arXiv 2202.00512).
        contrast_randomizer: turns targets and region maps (B, 1, X, Y, Z) into sources. None takes the target itself as
            the source, as published.
        context: number of neighbouring slices of the source on either side that the denoiser sees.
        skull_strip_prob: probability that a batch is skull-stripped.
        multiple: the sides of the crop are multiples of this.
        timestep_power: timesteps are T (1 − u^timestep_power) with a uniform u. A power of 1 is uniform. A power of 4
            draws more than half of the timesteps from the noisiest tenth, and few from the least noisy tenth. In the
            noisiest tenth the prediction is a regression on the guide, which all later steps depend on.
        self_conditioning_prob: probability that the network makes two passes and receives the conditional means of its
            first estimate (self-conditioning).
        image_range: values of the network's images that stand for the intensities 0 and 1.
        origin_key: the volume that the random contrasts are made from: the target, or a T1w on its grid.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        contrast_randomizer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
        context: int = 1,
        skull_strip_prob: float = 0.6,
        multiple: int = 16,
        timestep_power: float = 4.0,
        self_conditioning_prob: float = 0.7,
        image_range: Sequence[float] = (-1.0, 1.0),
        origin_key: str = "image",
    ) -> None:
        self.scheduler, self.contrast_randomizer, self.context = scheduler, contrast_randomizer, context
        self.skull_strip_prob, self.multiple = skull_strip_prob, multiple
        self.timestep_power, self.self_conditioning_prob = timestep_power, self_conditioning_prob
        self.image_range, self.origin_key = tuple(image_range), origin_key

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict[str, Any]]:
        def batch(key: str) -> torch.Tensor:
            return as_plain_tensor(batchdata[key]).to(device, non_blocking=non_blocking)

        target = batch("image")
        regions = batch("regions") if self.contrast_randomizer else target
        origin = batch(self.origin_key)
        if torch.rand(()) < self.skull_strip_prob:
            target = skull_strip(target, batch("signed_distance").to(target))
        origin = origin * (target > 0)
        target, origin, regions = crop_to_foreground(target, origin, regions, multiple=self.multiple)
        contrast = self.contrast_randomizer(origin, regions) if self.contrast_randomizer else origin
        source, (low, high) = inner_slices(contrast, self.context, self.context), self.image_range
        images = low + (high - low) * inner_slices(target, 0, self.context)
        noise = torch.randn_like(images)
        timesteps = self._draw_timesteps(images)
        regression_target = self._regression_target(images, noise, timesteps)
        options = {
            "noise": noise,
            "timesteps": timesteps,
            "source": source,
            "self_conditioning_passes": 1 + int(torch.rand(()) < self.self_conditioning_prob),
        }
        return images, regression_target, (), options

    def _draw_timesteps(self, images: torch.Tensor) -> torch.Tensor:
        total = self.scheduler.num_train_timesteps
        fractions = 1 - torch.rand(len(images), device=images.device) ** self.timestep_power
        return (total * fractions).long().clamp(max=total - 1)

    def _regression_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        match self.scheduler.prediction_type:
            case DDIMPredictionType.SAMPLE:
                return images
            case DDIMPredictionType.EPSILON:
                return noise
            case _:
                return self.scheduler.get_velocity(images, noise, timesteps)


def skull_strip(images: torch.Tensor, distances: torch.Tensor, cerebrum_only_prob: float = 0.3) -> torch.Tensor:
    """Skull-strip each image with its own random margin.

    Args:
        images: (B, 1, X, Y, Z).
        distances: (B, 2, X, Y, Z), signed distances to the surface of the brain and of the cerebrum, in voxels.
        cerebrum_only_prob: probability that the cerebellum is removed as well.
    """
    surface = (torch.rand(len(images)) < cerebrum_only_prob).long()
    margins = torch.empty(len(images), 1, 1, 1, 1).uniform_(*MARGIN_RANGE)
    chosen = distances[torch.arange(len(images)), surface][:, None]
    return images * (chosen > margins.to(distances))


def crop_to_foreground(target: torch.Tensor, *others: torch.Tensor, multiple: int) -> tuple[torch.Tensor, ...]:
    """Crop slabs (B, 1, X, Y, Z) within slices to the smallest common box of the first ones' foreground.

    The sides of the box are multiples.
    """
    rows, columns, _ = foreground_box(target.amax(dim=(0, 1)), multiple)
    if rows.start == rows.stop:
        rows = columns = slice(0, multiple)
    return tuple(slab[:, :, rows, columns].contiguous() for slab in (target, *others))
