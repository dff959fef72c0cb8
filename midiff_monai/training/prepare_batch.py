"""From batches of slabs to what the trainers feed the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddim import DDIMPredictionType

from midiff_monai.inferers.slicewise import foreground_box, stack_slices
from midiff_monai.training.augmentation import MARGIN_RANGE
from midiff_monai.transforms.meta import as_plain_tensor


class SlabPrepareBatch(PrepareBatch):
    """Give slabs (B, 1, X, Y, Z) the neighbours of every slice as channels.

    The outer `context` slices of a slab serve as neighbours only: all that is trained on has real ones.

    Args:
        context: number of neighbouring slices on either side.
    """

    def __init__(self, context: int) -> None:
        self.context = context

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = as_plain_tensor(batchdata["image"]).to(device, non_blocking=non_blocking)
        labels = as_plain_tensor(batchdata["label"]).to(device, non_blocking=non_blocking)
        return inner_slabs(images, self.context, self.context), inner_slabs(labels, 0, self.context)


def inner_slabs(slabs: torch.Tensor, context: int, margin: int) -> torch.Tensor:
    """`inner_slices`, put together again: (B, 2·context + 1, X, Y, Z − 2·margin)."""
    return inner_slices(slabs, context, margin).unflatten(0, (len(slabs), -1)).movedim(1, -1)


def inner_slices(slabs: torch.Tensor, context: int, margin: int) -> torch.Tensor:
    """Slices (B·(Z − 2·margin), 2·context + 1, X, Y) of slabs (B, 1, X, Y, Z) without the outer `margin` slices."""
    slices = stack_slices(slabs, context).unflatten(0, (slabs.shape[0], slabs.shape[-1]))
    return slices[:, margin : slabs.shape[-1] - margin].flatten(0, 1).contiguous()


class LMIPrepareBatch(PrepareBatch):
    """From slabs of T1w volumes to everything one training step of an `LMIGuidedInferer` takes.

    The source is made from the target itself: no second modality is ever seen. Whole batches are stripped of all
    but the brain, at random, and cropped to what is left, which makes them cheaper; every volume is cut at a depth
    of its own, see `augmentation.RandSkullStripd`.

    Args:
        scheduler: gives the number of timesteps, and by its `prediction_type` what the network learns: the image, the
            noise or the velocity (Salimans and Ho, ICLR 2022, arXiv 2202.00512).
        contrast_randomizer: turns targets and brain masks (B, 1, X, Y, Z) into sources.
        context: neighbouring slices on either side that the denoiser sees of the source.
        skull_strip_prob: how often a batch is stripped.
        multiple: the crop's sides are multiples of this.
        timestep_power: timesteps are drawn as T (1 − u^timestep_power), u uniform: 1 is uniform, 4 draws more than half
            of them from the noisiest tenth, where the prediction is a regression on the guide, on which all later
            steps rest, and few from the least noisy one, where the image is nearly known.
        self_conditioning_prob: how often the network is told of its own estimate.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        contrast_randomizer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        context: int = 1,
        skull_strip_prob: float = 0.6,
        multiple: int = 16,
        timestep_power: float = 4.0,
        self_conditioning_prob: float = 0.7,
    ) -> None:
        self.scheduler, self.contrast_randomizer, self.context = scheduler, contrast_randomizer, context
        self.skull_strip_prob, self.multiple = skull_strip_prob, multiple
        self.timestep_power, self.self_conditioning_prob = timestep_power, self_conditioning_prob

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict[str, Any]]:
        target = as_plain_tensor(batchdata["image"]).to(device, non_blocking=non_blocking)
        brain = as_plain_tensor(batchdata["mask"]).to(device, non_blocking=non_blocking)
        if torch.rand(()) < self.skull_strip_prob:
            target = skull_strip(target, as_plain_tensor(batchdata["depth"]).to(target))
        target, brain = crop_to_foreground(target, brain, self.multiple)
        source = inner_slices(self.contrast_randomizer(target, brain), self.context, self.context)
        images = 2 * inner_slices(target, 0, self.context) - 1
        noise = torch.randn_like(images)
        height = 1 - torch.rand(len(images), device=images.device) ** self.timestep_power
        timesteps = (
            (self.scheduler.num_train_timesteps * height).long().clamp(max=self.scheduler.num_train_timesteps - 1)
        )
        regression_target = self._regression_target(images, noise, timesteps)
        self_conditioning_passes = 1 + int(torch.rand(()) < self.self_conditioning_prob)
        return (
            images,
            regression_target,
            (),
            {
                "noise": noise,
                "timesteps": timesteps,
                "source": source,
                "self_conditioning_passes": self_conditioning_passes,
            },
        )

    def _regression_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        match self.scheduler.prediction_type:
            case DDIMPredictionType.SAMPLE:
                return images
            case DDIMPredictionType.EPSILON:
                return noise
            case _:
                return self.scheduler.get_velocity(images, noise, timesteps)


def skull_strip(images: torch.Tensor, depths: torch.Tensor, cerebrum_only_prob: float = 0.3) -> torch.Tensor:
    """Cut each image (B, 1, X, Y, Z) at a random depth, of the whole brain or of the cerebrum (B, 2, X, Y, Z)."""
    which = (torch.rand(len(images)) < cerebrum_only_prob).long()
    margin_range = torch.empty(len(images), 1, 1, 1, 1).uniform_(*MARGIN_RANGE)
    chosen = depths[torch.arange(len(images)), which][:, None]
    return images * (chosen > margin_range.to(depths))


def crop_to_foreground(target: torch.Tensor, brain: torch.Tensor, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop slabs (B, 1, X, Y, Z) within their slices to the smallest common box, sides multiples of `multiple`."""
    across, along, _ = foreground_box(target.amax(dim=(0, 1)), multiple)
    if across.start == across.stop:
        across = along = slice(0, multiple)
    return target[:, :, across, along].contiguous(), brain[:, :, across, along].contiguous()
