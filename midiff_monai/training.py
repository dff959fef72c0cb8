"""From batches of slabs to what the trainers feed the networks."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import PrepareBatch
from torch.utils.data import Dataset

from midiff_monai.slices import stack_slices


class SlabPrepareBatch(PrepareBatch):
    """Cut slabs (B, 1, X, Y, Z) into slices with neighbours as channels, labels into slices.

    The outer `context` slices of a slab serve as neighbours only: all that is trained on has real ones.

    Args:
        context: number of neighbouring slices on either side.
    """

    def __init__(self, context: int) -> None:
        self.context = context

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.as_tensor(batchdata["image"]).to(device, non_blocking=non_blocking)
        labels = torch.as_tensor(batchdata["label"]).to(device, non_blocking=non_blocking)
        return inner_slices(images, self.context, self.context), inner_slices(labels, 0, self.context)


def inner_slices(slabs: torch.Tensor, context: int, margin: int) -> torch.Tensor:
    """Slices (B·(Z − 2·margin), 2·context + 1, X, Y) of slabs (B, 1, X, Y, Z) without the outer `margin` slices."""
    slices = stack_slices(slabs, context).unflatten(0, (slabs.shape[0], slabs.shape[-1]))
    return slices[:, margin : slabs.shape[-1] - margin].flatten(0, 1).contiguous()


class ReseedHandler:
    """Seed everything random anew at the start of each epoch, so that a resumed run repeats an uninterrupted one.

    Args:
        dataset: the training data set; its random transforms are seeded.
        seed: the run's seed; epoch n uses seed + n.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that begins."""
        seed = self.seed + engine.state.epoch
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed)
