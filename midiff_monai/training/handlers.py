"""Ignite handlers and a learning-rate schedule that MONAI lacks."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset


class ExtendableOneCycleLR(OneCycleLR):
    """torch's `OneCycleLR`, except that a checkpoint restores the position in the cycle and not the cycle's length.

    A run resumed with more epochs thus follows its own, longer cycle. With `OneCycleLR` it would end with the cycle of
    the checkpoint. The arguments are those of `OneCycleLR`.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position from the state of a cycle of any length."""
        super().load_state_dict({name: state_dict[name] for name in ("last_epoch", "_step_count", "_last_lr")})


class GradientClipHandler:
    """Clip the gradient norm of a trainer's network, so that a single bad batch cannot ruin the run.

    Args:
        max_norm: largest Euclidean norm over all parameters.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Clip between the backward pass and the optimiser's step."""
        nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)


class ReseedHandler:
    """Reseed all random generators at the start of each epoch, so that a resumed run repeats an uninterrupted one.

    Args:
        dataset: the training data set, whose random transforms are seeded too.
        seed: seed of the run. Epoch n uses seed + n.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        seed = self.seed + engine.state.epoch
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed)
