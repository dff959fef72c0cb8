"""A GPU whose memory runs out: its volume is computed on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from midiff_monai.pipeline.models import Models, load_models
from midiff_monai.pipeline.options import Task

ON_CPU = "The memory of {device} did not suffice. The networks computed on the CPU."
SIGN = "out of memory"
"""What PyTorch says of CUDA, cuDNN and MPS. Of the memory of the CPU it says that there is not enough."""

Made = TypeVar("Made")

_logger = logging.getLogger(__name__)


def on_cpu_if_memory_runs_out(make: Callable[[Task, Models], Made], task: Task, models: Models) -> Made:
    """Process a volume, and a second time on the CPU if the memory of its device runs out.

    The models stay on the device for the next volume. On the CPU others are opened, with a warning for the manifest.

    Args:
        make: processes the volume and returns its result.
        task: what is done to the volume.
        models: the bundles of the task.

    Raises:
        RuntimeError: `make` fails for another reason, or on the CPU.
    """
    try:
        return make(task, models)
    except RuntimeError as error:
        if SIGN not in str(error).lower() or models.device.type == "cpu":
            raise
    # the error held the tensors of the device, and is gone here
    free_memory(models.device)
    warning = ON_CPU.format(device=models.device)
    _logger.debug(warning)
    on_cpu = replace(task, settings=replace(task.settings, device="cpu"))
    return make(on_cpu, replace(load_models(on_cpu), warnings=(warning,)))


def free_memory(device: torch.device) -> None:
    """Return the memory that PyTorch keeps of a device, for other processes."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
