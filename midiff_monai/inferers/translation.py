"""Whole volumes, translated slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.slicewise import Network, SlicewiseInferer, in_batches
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE


class SlicewiseTranslation(SlicewiseInferer):
    """Translate volumes in [0, 1] slice by slice with an `LMIGuidedInferer`; answers volumes in [0, 1].

    The answer is 0 where the volume is 0, and nowhere else.

    Args:
        inferer: samples the slices.
        steps: number of denoising steps.
        samples: number of samples whose mean is returned; with several, their standard deviation is the second channel.
        seed: the same seed gives the same voxels, whatever the batch size.
        shared_noise: 1 starts every slice from the same noise, so that neighbours come out alike; 0 gives each slice
            noise of its own; in between, the variance is split.
        conditional_mean: pulls every sample towards a function of the source's grey values; None leaves it as it is.
        progress: show a bar for each look at a volume, where there is a terminal.
        slicing: arguments of `SlicewiseInferer`, but for `background`.
    """

    def __init__(
        self,
        inferer: LMIGuidedInferer,
        steps: int = 10,
        samples: int = 1,
        seed: int = 0,
        shared_noise: float = 1.0,
        conditional_mean: ConditionalMean | None = None,
        progress: bool = False,
        **slicing: Any,
    ) -> None:
        super().__init__(**slicing)
        self.inferer, self.steps, self.samples, self.seed = inferer, steps, samples, seed
        self.shared_noise, self.conditional_mean, self.progress = shared_noise, conditional_mean, progress

    def set_timesteps(self) -> int:
        """Choose the denoising steps, and answer how many the scheduler makes of `steps`."""
        self.inferer.scheduler.set_timesteps(self.steps)  # type: ignore[operator]
        return len(self.inferer.scheduler.timesteps)

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False, **options: Any) -> torch.Tensor:
        """The mean of the samples of one volume (1, X, Y, Z), and their standard deviation if there are several.

        A draft is one sample, with one look.
        """
        count = 1 if coarse else self.samples
        samples = torch.stack([self._draw(volume, network, coarse=coarse, index=index) for index in range(count)])
        if count == 1:
            return samples[0]
        return torch.cat([samples.mean(dim=0), samples.std(dim=0)])

    def _draw(self, volume: torch.Tensor, network: Network, **options: Any) -> torch.Tensor:
        image = super().infer(volume, network, **options)
        if self.conditional_mean:
            source = volume.movedim(-1, 0)
            bin_weights = self.conditional_mean.prepare(source, same_volume=True)
            image = self.conditional_mean.shrink(bin_weights, image.movedim(-1, 0)).movedim(0, -1)
        # 0 is left to where there is nothing
        return torch.where(volume != 0, ((image + 1) / 2).clamp(MIN_FOREGROUND_VALUE, 1), 0)

    def predict(
        self, slices: torch.Tensor, network: Network, positions: torch.Tensor, index: int = 0, **options: Any
    ) -> Iterator[torch.Tensor]:
        """The sample of a number `index` of every slice, in [-1, 1]; all at once, for they make up one volume."""
        noise = torch.stack([self._noise(slices, int(position), index) for position in positions])
        settings: dict[str, Any] = {"source": slices, "same_volume": True, "verbose": False}
        total = self.set_timesteps() * len(noise)
        with tqdm(total=total, unit="slice", leave=False, disable=None if self.progress else True) as bar:
            batched = in_batches(network, self.batch_size, bar.update)
            yield self.inferer.sample(noise, batched, **settings)  # type: ignore[arg-type]

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
