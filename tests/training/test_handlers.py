"""The handlers, the learning-rate schedule and the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import RandomSampler

from midiff_monai.training.handlers import ExtendableOneCycleLR, GradientClipHandler, ReseedHandler
from midiff_monai.training.losses import SobolevLoss


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_large_gradients_are_clipped_and_small_ones_are_not_changed(scale: float) -> None:
    """A step of SGD with a learning rate of 1 subtracts the gradient from the weights."""
    network = torch.nn.Linear(3, 1, bias=False)
    before = network.weight.detach().clone()
    batch = {"image": torch.tensor([[1.0, 2.0, 2.0]]), "label": torch.zeros(1, 1)}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, label: scale * (prediction - label).sum(),
    )
    GradientClipHandler(0.5).attach(trainer)
    trainer.run()
    moved = (before - network.weight.detach()).norm().item()
    assert moved == pytest.approx(min(0.5, 3 * scale), rel=1e-4)


# --- resuming ---


def rates(total: int, steps: int, state: dict[str, Any] | None = None) -> tuple[list[float], dict[str, Any]]:
    """The learning rates of some steps of a new or resumed cycle, and its final state."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    scheduler = ExtendableOneCycleLR(optimizer, max_lr=1.0, total_steps=total)
    if state:
        scheduler.load_state_dict(state)
    found = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found, scheduler.state_dict()


@pytest.mark.parametrize("total", [10, 40])
def test_a_resumed_run_follows_its_own_cycle_whatever_the_checkpoints_length(total: int) -> None:
    whole, _ = rates(40, 39)
    _, state = rates(total, 8)
    resumed, _ = rates(40, 31, state)
    assert resumed == pytest.approx(whole[8:])


def drawing_engine(reseed: bool) -> tuple[Engine, DataLoader, dict[int, list[torch.Tensor]]]:
    """A trainer with random batches, transforms and steps, and the numbers that it drew in each epoch."""
    draws: dict[int, list[torch.Tensor]] = {}

    def step(engine: Engine, batch: Any) -> None:
        draws.setdefault(engine.state.epoch, []).append(torch.cat([batch["image"].flatten(), torch.randn(2)]))

    volumes = [{"image": torch.full((1, 2), float(index))} for index in range(5)]
    dataset = CacheDataset(volumes, Compose([RandGaussianNoised("image", prob=0.7)]), progress=False)
    sampler = RandomSampler(dataset, replacement=True, num_samples=6)
    engine = Engine(step)
    if reseed:
        ReseedHandler(dataset, seed=7).attach(engine)
    return engine, DataLoader(dataset, batch_size=2, sampler=sampler), draws


@pytest.mark.parametrize("reseed", [True, False])
def test_a_resumed_run_repeats_an_uninterrupted_one(reseed: bool) -> None:
    torch.manual_seed(0)
    whole, loader, expected = drawing_engine(reseed)
    whole.run(loader, max_epochs=4, epoch_length=3)

    torch.manual_seed(1)
    interrupted, loader, _ = drawing_engine(reseed)
    interrupted.run(loader, max_epochs=2, epoch_length=3)
    torch.manual_seed(2)
    resumed, loader, drawn = drawing_engine(reseed)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.run(loader, max_epochs=4)

    assert set(drawn) == {3, 4} and all(len(steps) == 3 for steps in expected.values())
    for epoch, steps in drawn.items():
        assert torch.equal(torch.stack(steps), torch.stack(expected[epoch])) == reseed
    assert not torch.equal(torch.stack(expected[1]), torch.stack(expected[2]))


# --- the loss ---


def test_the_loss_of_an_edge_follows_the_formula() -> None:
    """One wrong pixel of nine changes two differences along each axis. Each term is a mean over its own number."""
    target = torch.zeros(1, 1, 3, 3)
    wrong = target.clone()
    wrong[0, 0, 1, 1] = 2.0
    assert SobolevLoss(0.5)(wrong, target) == pytest.approx(4 / 9 + 0.5 * (2 * 2 * 4 / 6))
    assert SobolevLoss(0.5)(target + 2, target) == pytest.approx(4)


def test_the_mean_is_the_optimal_prediction() -> None:
    """The network of a diffusion model must learn the mean of the possible images."""
    possible = torch.rand(5, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    best = torch.zeros(1, 1, 6, 7, requires_grad=True)
    loss = SobolevLoss(3.0)(best.expand_as(possible), possible)
    (slope,) = torch.autograd.grad(loss, best)
    assert slope.abs().max() > 1e-3
    mean = possible.mean(dim=0, keepdim=True).requires_grad_()
    (slope,) = torch.autograd.grad(SobolevLoss(3.0)(mean.expand_as(possible), possible), mean)
    assert slope.abs().max() < 1e-6
