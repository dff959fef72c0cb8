"""Translation of whole volumes, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from tqdm import tqdm

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import centre_slice
from midiff_monai.guidance.joint_denoiser import weighted_mean
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer, truncate_schedule
from midiff_monai.inferers.slicewise import Network, SliceRunner, View, VolumeInferer, in_batches, slicing_axis
from midiff_monai.transforms.intensity import MIN_FOREGROUND_VALUE


class SlicewiseTranslation(VolumeInferer):
    """Translate volumes in [0, 1] into volumes in [0, 1] with an `LMIGuidedInferer`.

    The output is 0 exactly where the input is 0. The coarse pass computes one sample of the first view. A thin slab is
    sliced in its own plane: its slices along another axis would be strips that show too little anatomy.

    Args:
        inferer: samples the slices.
        steps: number of denoising steps.
        samples: number of samples. The output is their mean. With several samples, the second output channel is their
            standard deviation.
        seed: seed of the noise. The same seed gives the same voxels for any batch size.
        shared_noise: correlation of the initial noise of different slices. 1 starts every slice from the same noise, so
            neighbouring slices are consistent. 0 gives each slice its own noise.
        conditional_mean: shrinks every sample towards its conditional mean given the source; None omits this step.
        progress: show a progress bar for each view, if standard error is a terminal.
        batch_size: number of slices per call of the network; it does not change the result.
        context: as for `SliceRunner`.
        axis: as for `SliceRunner`.
        mirror: as for `SliceRunner`.
        multiple: as for `SliceRunner`.
        start: what sampling starts from: "noise", or the noised "source" (SDEdit, Meng et al., ICLR 2022), or the
            noised "inverted" source, in which dark and bright are exchanged within the foreground.
        noise_level: the timestep to which a source is noised as the start. The steps above it are skipped.
        image_range: values of the network's images that stand for 0 and 1, as in the guide.

    Example:
        >>> from midiff_monai.guidance import LMIGuide, LocalMutualInformation
        >>> from midiff_monai.networks import TrailingDDIMScheduler
        >>> scheduler = TrailingDDIMScheduler(prediction_type="sample")
        >>> inferer = LMIGuidedInferer(scheduler, LMIGuide(LocalMutualInformation()))
        >>> translation = SlicewiseTranslation(inferer, steps=2, samples=2)
        >>> network = lambda x, timesteps, context=None: -x[:, 1:2]
        >>> translation(torch.rand(1, 1, 16, 16, 3), network).shape  # mean and standard deviation
        torch.Size([1, 2, 16, 16, 3])
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
        batch_size: int = 16,
        context: int = 0,
        axis: int = 2,
        mirror: bool = False,
        multiple: int = 16,
        start: Literal["noise", "source", "inverted"] = "noise",
        noise_level: int = 500,
        image_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        self.inferer, self.steps, self.samples, self.seed = inferer, steps, samples, seed
        self.start, self.noise_level, self.image_range = start, noise_level, tuple(image_range)
        self.shared_noise, self.conditional_mean = shared_noise, conditional_mean
        self.progress, self.batch_size = progress, batch_size
        self._runners = [SliceRunner(context, number, mirror, multiple) for number in range(3)]
        self.runner = self._runners[axis]

    def set_timesteps(self) -> int:
        """Set the scheduler to `steps` denoising steps; return the number of steps that sampling takes.

        Raises:
            ValueError: the scheduler cannot take so many steps, none of them is at or below the noise level of the
                start, or an unguided network is to start from noise.
        """
        scheduler = self.inferer.scheduler
        scheduler.set_timesteps(self.steps)  # type: ignore[operator]
        if self.start != "noise":
            scheduler = truncate_schedule(scheduler, self.noise_level)
        elif self.inferer.guide is None:
            raise ValueError("an unguided network learns of the source only if it starts from it, and not from noise")
        return len(scheduler.timesteps)

    @torch.inference_mode()
    def infer(self, volume: torch.Tensor, network: Network, coarse: bool = False) -> torch.Tensor:
        """Translate one volume, or several of one head into one.

        Args:
            volume: (S, X, Y, Z) in [0, 1], one or several sources. The result is 0 where all of them are.
            network: the denoiser; see `LMIGuidedInferer`.
            coarse: compute one sample of the first view.

        Returns:
            (1, X, Y, Z) in [0, 1], or (2, X, Y, Z) with the standard deviation of several samples.
        """
        count, views = (1, self.runner.tta_views[:1]) if coarse else (self.samples, self.runner.tta_views)
        samples = torch.stack([self._sample(volume, network, views, index) for index in range(count)])
        if count == 1:
            return samples[0]
        return torch.cat([samples.mean(dim=0), samples.std(dim=0)])

    def _sample(self, volume: torch.Tensor, network: Network, tta_views: list[View], index: int) -> torch.Tensor:
        """Draw the sample (1, X, Y, Z) in [0, 1] of a given index."""

        def predict(slices: torch.Tensor, positions: torch.Tensor) -> Iterator[torch.Tensor]:
            yield self.sample_slices(slices, positions, network, index)

        axis = slicing_axis(volume.amax(dim=0), self.runner.axis)
        image = self._runners[axis].run(volume, predict, tta_views)
        if self.conditional_mean:
            image = self._shrunk(volume.movedim(axis + 1, 0), image.movedim(axis + 1, 0)).movedim(0, axis + 1)
        # 0 is reserved for the background
        low, high = self.image_range
        return torch.where((volume != 0).any(dim=0), ((image - low) / (high - low)).clamp(MIN_FOREGROUND_VALUE, 1), 0)

    def _shrunk(self, sources: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Shrink slices (N, 1, H, W) towards their conditional mean given sources (N, S, H, W).

        Where only some of several sources are known, the results of these are averaged.
        """
        means, known = self.conditional_mean, sources != 0
        assert means
        if len(single := sources.split(1, dim=1)) == 1:
            return means.shrink(means.prepare(sources, same_volume=True), image)
        joint = means.shrink(means.prepare_joint(sources), image)
        if torch.equal(known.any(dim=1), known.all(dim=1)):
            return joint
        shrunk = [means.shrink(means.prepare(source, same_volume=True), image) for source in single]
        return torch.where(known.all(dim=1, keepdim=True), joint, weighted_mean(torch.cat(shrunk, dim=1), known))

    def sample_slices(
        self, slices: torch.Tensor, positions: torch.Tensor, network: Network, index: int = 0
    ) -> torch.Tensor:
        """Sample the slices of one volume together, because they share its intensity scale.

        Args:
            slices: (N, S·(2·context + 1), H, W) in [0, 1], of S sources.
            positions: (N,), positions of the slices in the volume; they seed the noise.
            network: the denoiser.
            index: index of the sample; it seeds the noise.

        Returns:
            (N, 1, H, W) in about `image_range`.
        """
        sources = slices.split(2 * self.runner.context + 1, dim=1)
        noise = torch.stack([self._noise(slices, int(position), index) for position in positions])
        settings: dict[str, Any] = {"source": sources, "same_volume": True, "verbose": False} | self._start(sources[0])
        total = self.set_timesteps() * len(noise)
        bar = tqdm(total=total, unit="slice", leave=False, disable=None if self.progress else True)
        with bar, torch.random.fork_rng([slices.device] if slices.is_cuda else []):
            torch.manual_seed(combined_seed(self.seed, index))  # for samplers that draw noise in every step
            batched = in_batches(network, self.batch_size, bar.update)
            return self.inferer.sample(noise, batched, **settings)  # type: ignore[arg-type]

    def _start(self, slices: torch.Tensor) -> dict[str, Any]:
        """The arguments of `LMIGuidedInferer.sample` that make it start from the source."""
        if self.start == "noise":
            return {}
        image = centre_slice(slices)
        if self.start == "inverted":
            image = torch.where(image > 0, 1 - image, 0)
        low, high = self.image_range
        return {"start_image": low + (high - low) * image, "noise_level": self.noise_level}

    def _noise(self, slices: torch.Tensor, position: int, index: int) -> torch.Tensor:
        """Initial noise (1, H, W): the weighted sum of noise shared by all slices and the slice's own."""
        shape = (1, *slices.shape[2:])
        shared = seeded_noise(shape, self.seed, index, 0)
        own = seeded_noise(shape, self.seed, index, position + 1)
        return (self.shared_noise**0.5 * shared + (1 - self.shared_noise) ** 0.5 * own).to(slices.device)


def seeded_noise(shape: tuple[int, ...], *seeds: int) -> torch.Tensor:
    """Standard normal noise on the CPU that depends on its shape and seeds alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(combined_seed(*seeds)))


def combined_seed(*seeds: int) -> int:
    """One seed that depends on all of the given ones and on their order."""
    combined = 0
    for seed in seeds:
        combined = (combined * 1_000_003 + seed) % 2**63
    return combined
