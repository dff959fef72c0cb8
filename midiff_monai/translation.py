"""Whole volumes, translated slice by slice."""

from __future__ import annotations

from typing import Any

import torch

from midiff_monai.conditional_mean import ConditionalMean
from midiff_monai.diffusion import LMIGuidedInferer, middle
from midiff_monai.slices import Network, SlicewiseInferer
from midiff_monai.transforms import DARKEST


class SlicewiseTranslation(SlicewiseInferer):
    """Translate volumes in [0, 1] slice by slice with an `LMIGuidedInferer`; answers volumes in [0, 1].

    Args:
        inferer: samples the slices.
        steps: number of denoising steps.
        samples: number of samples whose mean is returned; with several, their standard deviation is the second channel.
        seed: the same seed gives the same voxels, whatever the batch size.
        shared_noise: 1 starts every slice from the same noise, so that neighbours come out alike; 0 gives each slice
            noise of its own; in between, the variance is split.
        mirror: average every sample with the one of the slices mirrored along their first axis, left and right.
        conditional_mean: pulls every sample towards a function of the source's grey values; None leaves it as it is.
        slicing: arguments of `SlicewiseInferer`.
    """

    def __init__(
        self,
        inferer: LMIGuidedInferer,
        steps: int = 10,
        samples: int = 1,
        seed: int = 0,
        shared_noise: float = 1.0,
        mirror: bool = False,
        conditional_mean: ConditionalMean | None = None,
        **slicing: Any,
    ) -> None:
        super().__init__(**slicing)
        self.inferer, self.steps, self.samples, self.seed = inferer, steps, samples, seed
        self.shared_noise, self.mirror, self.conditional_mean = shared_noise, mirror, conditional_mean

    def predict(self, slices: torch.Tensor, network: Network, positions: torch.Tensor) -> torch.Tensor:
        """The mean of the samples, and their standard deviation as a second channel if there are several."""
        draws = torch.stack([self._draw(slices, network, positions, index) for index in range(self.samples)])
        if self.samples == 1:
            return draws[0]
        return torch.cat([draws.mean(dim=0), draws.std(dim=0)], dim=1)

    def _draw(self, slices: torch.Tensor, network: Network, positions: torch.Tensor, index: int) -> torch.Tensor:
        noise = torch.stack([self._noise(slices, int(position), index) for position in positions])
        image = self._sample(noise, network, slices)
        if self.mirror:
            image = (image + self._sample(noise.flip(2), network, slices.flip(2)).flip(2)) / 2
        if self.conditional_mean:
            image = self.conditional_mean.pull(self.conditional_mean.prepare(middle(slices), True), image)
        return ((image + 1) / 2).clamp(DARKEST, 1)  # 0 is left to where there is nothing

    def _sample(self, noise: torch.Tensor, network: Network, slices: torch.Tensor) -> torch.Tensor:
        self.inferer.scheduler.set_timesteps(self.steps)  # type: ignore[operator]
        settings: dict[str, Any] = {"source": slices, "together": True, "verbose": False}
        return self.inferer.sample(noise, network, **settings)  # type: ignore[arg-type]

    def _noise(self, slices: torch.Tensor, position: int, index: int) -> torch.Tensor:
        shape = (1, *slices.shape[2:])
        shared = seeded_noise(shape, self.seed, index, 0)
        own = seeded_noise(shape, self.seed, index, position + 1)
        return (self.shared_noise**0.5 * shared + (1 - self.shared_noise) ** 0.5 * own).to(slices.device)


def seeded_noise(shape: tuple[int, ...], *seeds: int) -> torch.Tensor:
    """Standard normal noise that depends on its shape and seeds alone, on every device."""
    combined = 0
    for seed in seeds:
        combined = (combined * 1_000_003 + seed) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(combined))
