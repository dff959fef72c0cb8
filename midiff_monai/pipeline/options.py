"""What a run does to a volume: its mode, and the settings that decide a result. This module needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from midiff_monai.bundle.choice import BundleChoice, choose_bundles

PRECISIONS: dict[str, bool | None] = {"auto": None, "float32": False, "bfloat16": True}
"""Precision of the networks, and the value of a bundle's `amp` for it; None keeps the bundle's own choice."""

SPACINGS = ["uniform", "quadratic"]
"""Spacings of the timesteps of the sampler "ddim"."""

STARTS = ["noise", "source", "inverted"]
"""What sampling can start from."""

SAMPLING = ("steps", "samples", "seed", "eta", "skip", "start", "noise_level")
"""The settings that are ids of a translation bundle, or of a sampler."""

OF_SEGMENTATION = ("probability", "lesions", "parcellation")
"""The settings that have no effect unless a volume is segmented."""


def option_of(setting: str) -> str:
    """The option of the command line for a field of `Settings`."""
    return f"--{setting.replace('_', '-')}"


def flag_of(setting: Field[Any]) -> str:
    """The option of the command line for a field of `Settings` that may have a flag of its own."""
    return setting.metadata.get("flag", option_of(setting.name))


class Mode(Enum):
    """What is made of a volume."""

    SEGMENT = "segment"
    """Translate it, then segment the synthetic T1w."""
    TRANSLATE = "translate"
    """Translate it and stop at the synthetic T1w."""
    SEGMENT_DIRECTLY = "segment directly"
    """Segment it as it is. It is a T1w already."""

    @property
    def translates(self) -> bool:
        """Whether a synthetic T1w is made."""
        return self is not Mode.SEGMENT_DIRECTLY

    @property
    def segments(self) -> bool:
        """Whether a segmentation is written."""
        return self is not Mode.TRANSLATE

    @property
    def command(self) -> str:
        """The subcommand that stands in the run manifest."""
        return "segment" if self.segments else "translate"


def _option(default: Any, help_text: str, **argparse_arguments: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **argparse_arguments})


@dataclass(frozen=True)
class Settings:
    """The settings that decide a result. None keeps the bundle's own value.

    The command line takes its options from these fields.

    Attributes:
        bundle: folders of bundles in place of the shipped ones: a translation, a segmenter, or one of each.
        modality: preprocessing overlay of `transforms/` for the translation bundle.
        steps: number of denoising steps, 1 to 1000.
        samples: number of samples to average, 1 to 1000.
        seed: seed of the noise.
        sampler: overlay of `samplers/` for the translation bundle.
        eta: share of the noise of ancestral sampling that each step of the sampler "ddim" adds, 0 to 1.
        skip: spacing of the timesteps of the sampler "ddim": "uniform" or "quadratic".
        start: what sampling starts from: "noise", or the noised "source" or "inverted" source (SDEdit).
        noise_level: the timestep to which a source is noised as the start, 1 to 999.
        device: "cpu", "cuda", "cuda:1" …
        precision: a key of `PRECISIONS`.
        fast: compute at 2 mm and interpolate, without the detail of the source and without the detail branch.
        probability: write how certain the labels are: probability and entropy of each voxel.
        error_map: write the expected error of each voxel of the synthetic volume.
        lesions: look for white matter lesions.
        parcellation: divide cortex and white matter into regions.
        trust_weights: load weights whose hash differs from the bundle's metadata.
    """

    bundle: str | Path | Sequence[str | Path] | None = _option(
        None,
        "folder of a bundle of your own in place of the shipped translation or segmenter; twice for both",
        metavar="PATH",
        action="append",
    )
    modality: str | None = _option(None, "preprocessing overlay (default: any MR contrast)", metavar="NAME")
    steps: int | None = _option(
        None,
        "denoising steps; if N does not divide 1000, there are more than N (default: the bundle's)",
        metavar="N",
        type=int,
    )
    samples: int | None = _option(
        None, "average N samples and write their standard deviation (default: 1)", metavar="N", type=int
    )
    seed: int | None = _option(None, "seed of the noise (default: 0)", metavar="N", type=int)
    sampler: str | None = _option(None, "sampler (default: the bundle's)", metavar="NAME")
    eta: float | None = _option(
        None, "noise of --sampler ddim: 0 none, 1 as much as ancestral sampling (default: 0)", metavar="ETA", type=float
    )
    skip: str | None = _option(None, "spacing of the timesteps of --sampler ddim (default: uniform)", choices=SPACINGS)
    start: str | None = _option(
        None,
        "start from noise, or from the noised volume, as it is or intensity-inverted (SDEdit; default: the bundle's)",
        choices=STARTS,
    )
    noise_level: int | None = _option(
        None,
        "timestep to which --start noises the volume, 1 to 999; steps above it are skipped (default: the bundle's)",
        metavar="T",
        type=int,
    )
    device: str | None = _option(None, "cpu, cuda, cuda:1 … (default: a GPU if there is one)", metavar="NAME")
    precision: str = _option(
        "auto",
        "precision of the networks (default: auto, which is bfloat16 where the device has units for it)",
        choices=list(PRECISIONS),
    )
    fast: bool = _option(
        False,
        "compute at 2 mm only, in less time: a smoother synthetic T1w, a coarser segmentation",
        action="store_true",
    )
    probability: bool = _option(
        False,
        "write the probability of the label of each voxel, and the entropy of all labels",
        action="store_true",
    )
    error_map: bool = _option(
        False,
        "write the expected error of the synthetic T1w at each voxel",
        action="store_true",
    )
    lesions: bool = _option(
        True,
        "do not look for white matter lesions, which the segmentation of FLAIR includes",
        flag="--no-lesions",
        action="store_false",
    )
    parcellation: bool = _option(
        False,
        "write regions of cortex and white matter, and their volumes",
        action="store_true",
    )
    trust_weights: bool = _option(
        False, "load weights whose hash differs from the bundle's metadata", action="store_true"
    )

    @property
    def bundles(self) -> list[str]:
        """The folders of the bundles that are named."""
        if self.bundle is None:
            return []
        return [str(self.bundle)] if isinstance(self.bundle, str | Path) else [str(name) for name in self.bundle]


@dataclass(frozen=True)
class Task:
    """What is done to every volume of a run.

    Attributes:
        mode: what is made of a volume.
        settings: the settings that decide the result.
        overwrite: replace results that exist, and repeat what is done.
        together: the scans of a person are translated into one volume.
    """

    mode: Mode = Mode.SEGMENT
    settings: Settings = Settings()
    overwrite: bool = False
    together: bool = False

    def choose_bundles(self) -> BundleChoice:
        """Choose the bundles of the run.

        Raises:
            BundleError: a bundle does not exist, does the same as another one, has no effect in this mode, or the
                segmenter does not segment what the translation makes, as with slices.
        """
        chosen = choose_bundles(self.settings.bundles)
        if self.mode is Mode.SEGMENT:
            chosen.check_volumes()
            chosen.check_agreement()
        chosen.check_use(self.mode.translates, self.mode.segments)
        return chosen
