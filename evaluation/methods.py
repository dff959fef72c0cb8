"""The compared methods. Each takes a volume and a folder for its files, and returns a `Result`.

Volumes are named SUBJECT_CONTRAST.nii.gz. A method may read the contrast from the name, because a user would know it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandBiasField, RandRicianNoise
from numpy.typing import NDArray
from table import BASELINES

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import SEGMENTATION, TRANSLATION
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import WEIGHTS
from midiff_monai.evaluation.baselines import LowFrequenciesOfSource, StartFromSource, match_histogram
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.inputs import Job
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume, write_like
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import process, segment

Method = Callable[..., Result]

CSF, GREY, WHITE = 24, 3, 2
"""FreeSurfer ids that stand for whole tissues, for methods without structures."""

BRIGHTNESS = {
    "T1": (CSF, GREY, WHITE),
    "PD": (WHITE, GREY, CSF),
    "T2": (WHITE, GREY, CSF),
    "FLAIR": (CSF, WHITE, GREY),
}
"""Contrast → tissues from dark to bright."""

PUBLISHED = "lmi_published"
"""Name of the bundle of the published method."""

CT = "CT"
"""Name of the contrast, and of the modality."""


def midiff(volume: Path, folder: Path, **settings: Any) -> Result:
    """Segment the synthetic T1w. `settings` are those of `midiff_monai.segment`, such as steps=10."""
    return segment([volume], folder, modality=CT if contrast_of(volume) == CT else None, **settings)[0]


def direct(volume: Path, folder: Path) -> Result:
    """Segment the volume as if it were a T1w."""
    return segment([volume], folder, translated=False)[0]


def histogram(volume: Path, folder: Path, invert: bool = False) -> Result:
    """Segment the volume after histogram matching to a T1w, that of the template phantom."""
    return segment([_matched(volume, folder, invert)], folder / "matched", translated=False)[0]


def inverted_histogram(volume: Path, folder: Path) -> Result:
    """Segment the intensity-inverted volume after histogram matching."""
    return histogram(volume, folder, invert=True)


def sdedit(volume: Path, folder: Path, noise_level: int = 500, steps: int = 20) -> Result:
    """Translate with our network as in SDEdit (Meng et al., ICLR 2022): start from the noised, matched volume.

    The intensities are inverted before the histogram matching if CSF is the brightest tissue. The network was not
    trained without the guide, so the guide stays. Only the start differs from `midiff`.
    """
    return _from_matched(volume, folder, StartFromSource, steps, noise_level=noise_level)


def ilvr(volume: Path, folder: Path, factor: int = 8, steps: int = 20) -> Result:
    """Translate with our network as in ILVR (Choi et al., ICCV 2021): impose the low frequencies of the matched volume.

    Histogram matching and guide are those of `sdedit`. The low-pass filter averages over `factor` voxels of 2 mm.
    """
    return _from_matched(volume, folder, LowFrequenciesOfSource, steps, factor=factor)


def _from_matched(volume: Path, folder: Path, inferer: type, steps: int, **arguments: int) -> Result:
    matched = _matched(volume, folder, invert=BRIGHTNESS[contrast_of(volume)][-1] == CSF)
    settings: dict[str, Any] = {f"inferer::inferer::{name}": value for name, value in arguments.items()}
    settings["inferer::inferer::_target_"] = inferer.__module__ + "." + inferer.__name__
    (folder / "translated").mkdir()
    return _translated(matched, folder / "translated", open_bundle(TRANSLATION, steps=steps, **settings))


def published_guide(volume: Path, folder: Path, steps: int = 20, ancestral: int = 0) -> Result:
    """Translate with the published guide and loss (Wang et al.), see baselines/published_guide.yaml.

    U-Net, training data and sampling are not the published ones. `lmi_published` has these.

    Args:
        volume: SUBJECT_CONTRAST.nii.gz.
        folder: folder for the files.
        steps: number of DDIM steps.
        ancestral: 1 samples with DDPM, which needs `steps=1000`. Its variance is the small one, and it clips its
            estimates of the image. The published sampler has the large variance and does not clip.
    """
    settings: dict[str, Any] = {
        "inferer::mirror": False,
        "inferer::conditional_mean": "$None",
        "inferer::shared_noise": 0.0,
        "inferer::inferer::scale_input": False,
    }
    if ancestral:
        settings["scheduler::_target_"] = "monai.networks.schedulers.DDPMScheduler"
        torch.manual_seed(0)  # DDPM draws noise in every step
    return _translated(volume, folder, open_baseline(TRANSLATION, "published_guide", steps=steps, **settings))


def lmi_published(volume: Path, folder: Path, steps: int = 20) -> Result:
    """Translate with the published method (Wang et al.), the bundle `lmi_published`, sampled by DPM-Solver++."""
    return segment([volume], folder, bundle=PUBLISHED, sampler="dpm-solver++", steps=steps)[0]


def one_step(volume: Path, folder: Path) -> Result:
    """Translate by regression with the same guide, without diffusion, see baselines/one_step_training.yaml."""
    return _translated(volume, folder, open_baseline(TRANSLATION, "one_step", steps=1))


def real_pairs(volume: Path, folder: Path) -> Result:
    """Translate after supervised training on other subjects' pairs, see baselines/real_pairs_training.yaml."""
    return _translated(volume, folder, open_baseline(TRANSLATION, "real_pairs", real_pairs_weights(volume)))


def real_pairs_weights(volume: Path) -> str:
    """Return the name of the weights of `real_pairs` that were trained without the subject of a volume."""
    return f"real_pairs_{volume.name.rpartition('_')[0]}"


def applies(name: str, volume: Path) -> bool:
    """Return whether a method applies to a volume.

    `real_pairs` needs weights that were trained without the subject, and `lmi_published` a trained bundle. `real_t1`
    needs true labels, because it would otherwise be its own reference. Only `midiff` applies to CT, whose air is
    below 0.
    """
    match name.partition(":")[0]:
        case method if contrast_of(volume) == CT and method not in ON_T1:
            return method == midiff.__name__
        case "real_pairs":
            return (BASELINES / f"{real_pairs_weights(volume)}.pt").exists()
        case "lmi_published":
            return (bundle_root(PUBLISHED) / WEIGHTS).exists()
        case "real_t1":
            return true_labels(volume).exists()
        case _:
            return True


def true_labels(volume: Path) -> Path:
    """Return the path of a subject's true labels, which may not exist."""
    return volume.with_name(f"{volume.name.rpartition('_')[0]}_dseg.nii.gz")


def randomised_contrast(volume: Path, folder: Path) -> Result:
    """Segment without translation, by a segmenter trained on random contrasts of the same label maps.

    The network is that of `midiff`'s segmenter, see baselines/randomised_contrast_training.yaml.
    """
    models = Models(open_baseline(SEGMENTATION, "randomised_contrast"))
    return process(Job(volume, output_paths(volume, folder)), Task(Mode.SEGMENT_DIRECTLY), models)


def open_baseline(bundle: str, baseline: str, weights: str | None = None, **settings: Any) -> Bundle:
    """Open a bundle with the weights of a baseline, and with its overlay if it has one.

    Args:
        bundle: name of the bundle that the baseline is a variant of.
        baseline: name of the baseline. Its overlay is baselines/BASELINE.yaml.
        weights: name of the weights, baselines/WEIGHTS.pt, where it is not that of the baseline.
        settings: values that replace ids of the configuration.
    """
    overlays = list(BASELINES.glob(f"{baseline}.yaml"))
    opened = open_bundle(bundle, overlays, BASELINES / f"{weights or baseline}.pt", **settings)
    return replace(opened, root=BASELINES / baseline)  # reports name weights by this folder


def _translated(volume: Path, folder: Path, translation: Bundle) -> Result:
    models = Models(open_bundle(SEGMENTATION), translation)
    return process(Job(volume, output_paths(volume, folder)), Task(), models)


def hmrf(volume: Path, folder: Path, beta: float = 0.1) -> Result:
    """Classify tissues by a hidden Markov random field (Zhang et al., IEEE TMI 20:45, 2001), without training.

    Non-zero voxels are the brain. The order of the mean intensities names the classes.
    """
    source = read_volume(volume)
    tissues = classify_tissues(np.asarray(source.dataobj), BRIGHTNESS[contrast_of(volume)], beta)
    report = RunReport("hmrf", volume, {"beta": beta})
    return Result(source, report, segmentation=tissues, paths=output_paths(volume, folder))


def classify_tissues(volume: NDArray, dark_to_bright: tuple[int, int, int], beta: float) -> NDArray[np.int16]:
    """Label the foreground of a skull-stripped volume (X, Y, Z) with the three given ids, by DIPY's HMRF."""
    from dipy.segment.tissue import TissueClassifierHMRF  # optional dependency of this method

    brain = volume != 0
    box = tuple(slice(indices.min(), indices.max() + 1) for indices in brain.nonzero())
    levels = _levels_for_dipy(volume[box], brain[box])
    _, found, _ = TissueClassifierHMRF(verbose=False).classify(levels, 3, beta, max_iter=30)
    # DIPY's class 0 is the background; inside the mask it counts as the darkest tissue
    labels = np.zeros(volume.shape, dtype=np.int16)
    labels[box] = np.asarray(dark_to_bright, dtype=np.int16)[np.maximum(found.astype(int), 1) - 1] * brain[box]
    return labels


def _levels_for_dipy(volume: NDArray, brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scale the tissues to the initial class means of DIPY, 1/4, 1/2 and 3/4, with the background at 0.

    The background gets noise, because a class without variance has infinite likelihoods.
    """
    low, high = np.percentile(volume[brain], (1, 99))
    levels = np.clip(0.25 + 0.5 * (volume - low) / (high - low), 0.13, 1)
    noise = np.random.default_rng(0).normal(0.03, 0.01, volume.shape).clip(0.001)
    return np.where(brain, levels, noise)


def real_t1(volume: Path, folder: Path) -> Result:
    """Segment the real T1w. With true labels as the reference, this shows the error of the segmenter."""
    return direct(volume, folder)


def perturbed_t1(volume: Path, folder: Path, noise: float = 0.03, seed: int = 0) -> Result:
    """Segment the real T1w with a weak bias field and Rician noise, relative to its 99th percentile: an upper bound."""
    source = read_volume(volume)
    voxels = np.asarray(source.dataobj)
    deviation = noise * float(np.percentile(voxels[voxels > 0], 99))
    perturb = Compose([RandBiasField(1, coeff_range=(0, 0.1)), RandRicianNoise(1, std=deviation, sample_std=False)])
    perturbed = perturb.set_random_state(seed)(voxels[None])[0]
    path = folder / "perturbed.nii.gz"
    write_like(np.asarray(perturbed) * (voxels != 0), source, path, np.float32)
    return segment([path], folder / "perturbed", translated=False)[0]


def contrast_of(volume: Path) -> str:
    """Return the contrast in a file name such as SUBJECT_PD.nii.gz."""
    return volume.name.removesuffix(".nii.gz").rpartition("_")[2]


def _matched(volume: Path, folder: Path, invert: bool) -> Path:
    source = read_volume(volume)
    reference = np.asarray(make_phantom("T1", noise=0, bias=0).image.dataobj)
    path = folder / "matched.nii.gz"
    write_like(match_histogram(np.asarray(source.dataobj), reference, invert), source, path, np.float32)
    return path


ON_CONTRASTS: dict[str, Method] = {
    method.__name__: method
    for method in (
        midiff,
        direct,
        histogram,
        inverted_histogram,
        randomised_contrast,
        published_guide,
        lmi_published,
        one_step,
        sdedit,
        ilvr,
        hmrf,
        real_pairs,
    )
}

ON_T1: dict[str, Method] = {method.__name__: method for method in (perturbed_t1, real_t1)}
"""Methods whose input is the real T1w."""

METHODS = ON_CONTRASTS | ON_T1

WITHOUT_STRUCTURES = {hmrf.__name__}
"""Methods that segment tissues and no structures."""

WITHOUT_IMAGE = {hmrf.__name__, randomised_contrast.__name__}
"""Methods that make no T1w image."""
